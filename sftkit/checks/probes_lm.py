"""Checks of `check_run` for language models: stop tokens, and packed rows."""

from __future__ import annotations

import torch

from sftkit.batches import IGNORE, Ragged
from sftkit.checks.invariance import leak
from sftkit.checks.looked_at import LOOK, OK, TOLERANCE, WRONG, Found, Run
from sftkit.models.parts import base_of
from sftkit.packing import PackedBatches


def check_stop(run: Run) -> Found:
    column = run.batches.examples.columns.get("labels")
    if run.stop_id is None or not isinstance(column, Ragged):
        return
    missing = 0
    for start, length in zip(column.starts[:-1], column.lengths, strict=True):
        row = column.values[start : start + length]
        supervised = row[row != IGNORE]
        missing += len(supervised) == 0 or supervised[-1] != run.stop_id
    share = missing / max(len(column), 1)
    if share == 1:
        yield WRONG, "no answer ends with the stop token: the model would never learn to stop."
    elif missing:
        yield LOOK, f"{missing:,} rows ({share:.1%}) do not end with the stop token."
    else:
        yield OK, "the last supervised token of every row is the stop token."


def check_packing(run: Run) -> Found:
    """Whether a document sees another one in its packed row, through the loss itself."""
    if not isinstance(run.batches, PackedBatches):
        return
    steps = next(run.batches.epoch(0))
    batch = run.on_device(max(steps, key=lambda part: int(part["document"].max())))
    if not (batch["document"] > 0).any():
        yield LOOK, "no row of the first step holds two documents: nothing was compared."
        return
    if hasattr(base_of(run.model), "get_input_embeddings"):
        found, what = leak(run.model, batch, run.loss), "of a document's own weight"
        limit = 0.0
    else:
        found, what, limit = moved(run, batch), "of a document's loss", TOLERANCE
    if found > limit:
        yield WRONG, f"packed documents see each other: {found:.2g} {what}."
    else:
        yield OK, "packed documents do not see each other."


def moved(run: Run, batch: dict[str, torch.Tensor]) -> float:
    """How much the loss of a row's last document moves when the tokens before it change.

    Less than `leak` sees, but it asks nothing of the model.
    """
    rows = (batch["document"].amax(dim=1) > 0).nonzero().flatten()[:1]
    row = {name: v[rows] for name, v in batch.items() if v.ndim == 2}
    own = row["document"] == row["document"].max()
    row["labels"] = row["labels"].masked_fill(~own, IGNORE)
    # The last document's own first token for all others: an id that surely exists.
    other = row["input_ids"][own][0].expand_as(row["input_ids"])
    changed = row | {"input_ids": row["input_ids"].where(own, other)}
    with torch.inference_mode():
        before, after = (float(run.loss(run.model, part)[0]) for part in (row, changed))
    return abs(after - before) / max(abs(before), 1e-6)
