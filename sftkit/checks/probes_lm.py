"""Checks of `check_run` for language models: first and last tokens, shift, packed rows."""

from __future__ import annotations

import torch

from sftkit.batches import IGNORE, Ragged
from sftkit.checks.invariance import label_lead, leak
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


def check_begin(run: Run) -> Found:
    """Whether every row begins with one token twice, put there by tokenizer and template."""
    column = run.batches.examples.columns.get("input_ids")
    if not isinstance(column, Ragged) or len(column) < 2 or column.lengths.min() < 2:
        return
    first = column.values[column.starts[:-1]]
    if (first != first[0]).any():
        return
    if (column.values[column.starts[:-1] + 1] == first[0]).all():
        yield LOOK, f"every row begins with token {first[0]} twice: a template and a tokenizer?"
    else:
        yield OK, f"every row begins with token {first[0]}, once."


def check_shift(run: Run) -> Found:
    """Whether a token is predicted from the tokens before it, through the loss itself."""
    batch = run.batch()
    ids, labels = batch.get("input_ids"), batch["labels"]
    if run.writes or ids is None or labels.shape != ids.shape:
        return
    supervised = labels != IGNORE
    # Other labels than the tokens themselves are tags, or tokens that a mask has hidden.
    if (labels != ids)[supervised].any() or not hasattr(
        base_of(run.model), "get_input_embeddings"
    ):
        return
    rows = supervised.any(dim=1).nonzero().flatten()[-1:]
    lead = label_lead(run.model, {k: v[rows] for k, v in batch.items()}, run.loss)
    if lead is None:
        return
    if lead < 1:
        yield WRONG, "a token is predicted from itself: labels not shifted, or looking ahead."
    elif lead > 1:
        yield WRONG, "a token is predicted without the one before it: labels shifted twice."
    else:
        yield OK, "a token is predicted from all before it, and not from itself."


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
