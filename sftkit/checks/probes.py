"""The checks behind `check_run`: each sees one fault on the real model and real batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sftkit.batches import IGNORE, Ragged
from sftkit.checks.looked_at import (
    LOOK,
    LOSS_ROWS,
    OK,
    TOLERANCE,
    WRONG,
    Found,
    Run,
    error,
)
from sftkit.checks.probes_lm import check_begin, check_packing, check_shift, check_stop
from sftkit.corpora import duplicates
from sftkit.models.parts import base_of


def _flat_labels(run: Run) -> np.ndarray:
    column = run.batches.examples.columns["labels"]
    return column.values if isinstance(column, Ragged) else np.asarray(column)


def _check_ids(run: Run) -> Found:
    column = run.batches.examples.columns.get("input_ids")
    find_table = getattr(base_of(run.model), "get_input_embeddings", None)
    if not isinstance(column, Ragged) or not len(column.values) or find_table is None:
        return
    rows = find_table().weight.shape[0]
    low, high = int(column.values.min()), int(column.values.max())
    if low < 0 or high >= rows:
        yield WRONG, f"token ids run from {low} to {high}, but the model knows {rows:,}."
    else:
        yield OK, f"token ids run to {high:,}; the model knows {rows:,}."


def _check_labels(run: Run) -> Found:
    """Supervision, and labels that the model has outputs for."""
    examples = run.batches.examples
    column = examples.columns.get("labels")
    if column is None:
        yield WRONG, "the examples have no labels."
        return
    values = _flat_labels(run)
    supervised = values != IGNORE
    if isinstance(column, Ragged):
        per_row = np.add.reduceat(np.append(supervised, 0), column.starts[:-1])
        empty = np.flatnonzero((per_row == 0) | (column.lengths == 0))
        share = supervised.mean() if len(values) else 0.0
        what = f"{share:.1%} of all positions are supervised"
    else:
        empty = np.flatnonzero(~supervised)
        what = f"{supervised.mean():.1%} of all rows are supervised"
    rows: Any = examples.columns.get("row", np.arange(len(examples)))
    if len(empty) == len(examples):
        yield WRONG, "no row is supervised: every label is -100."
        return
    if len(empty):
        first = ", ".join(str(rows[i]) for i in empty[:3])
        yield LOOK, f"{len(empty):,} rows have no supervised label (rows {first}); {what}."
    else:
        yield OK, f"{what}, and every row has a label."
    classes, named = run.outcomes()
    low, high = int(values[supervised].min()), int(values[supervised].max())
    if named and (low < 0 or high >= classes):
        yield WRONG, f"labels run from {low} to {high}, but the model has {classes} outputs."
    if not named:
        places = values.reshape(len(examples), -1)
        outside = (places != IGNORE) & ((places < 0) | (places >= examples.lengths[:, None]))
        if outside.any():
            row = int(outside.any(axis=1).argmax())
            yield WRONG, f"row {rows[row]} has the places {places[row].tolist()}, outside it."


def _check_precision(run: Run) -> Found:
    trained = [p for p in run.model.parameters() if p.requires_grad]
    if not trained:
        yield WRONG, "no parameter is trained: all have requires_grad=False."
        return
    low = [p for p in trained if p.dtype in (torch.bfloat16, torch.float16)]
    if low:
        kind = str(low[0].dtype).removeprefix("torch.")
        yield (
            WRONG,
            f"{len(low)} trained parameters are kept in {kind}: small steps round away.",
        )
    else:
        yield OK, f"{sum(p.numel() for p in trained):,} trained parameters, in full precision."


def _check_names(run: Run) -> Found:
    config = getattr(run.model, "config", None)
    known = getattr(config, "id2label", None)
    if run.labels is None or not known:
        return
    names = [known[i] for i in sorted(known)]
    if names != list(run.labels):
        yield WRONG, f"the model's classes are {names}, those of the data {list(run.labels)}."
    elif names != sorted(names):
        yield LOOK, f"the class names are not sorted: {names}."
    else:
        yield OK, "model and data name the classes in the same, sorted order."


def _check_cut(run: Run) -> Found:
    cut: Any = run.batches.examples.columns.get("cut")
    if cut is None:
        return
    share = float(np.mean(cut))
    verdict = LOOK if share > 0.1 else OK
    yield verdict, f"the length limit cuts {share:.1%} of the rows."


def _check_first_loss(run: Run) -> Found:
    examples = run.batches.examples
    rows = np.linspace(0, len(examples) - 1, min(LOSS_ROWS, len(examples))).astype(int)
    total = n = 0.0
    for start in range(0, len(rows), 16):
        batch = run.on_device(examples.batch(rows[start : start + 16]))
        with torch.inference_mode():
            loss_sum, count = run.loss(run.model, batch)
        total, n = total + float(loss_sum), n + float(count)
    if n == 0:
        yield LOOK, "nothing is supervised in the sample."
        return
    chance = math.log(run.outcomes()[0])
    first = total / n
    if not math.isfinite(first):
        yield WRONG, f"the loss before training is {first}."
    elif first > 1.5 * chance:
        message = f"the loss before training is {first:.2f} nats; guessing gives {chance:.2f}."
        yield LOOK, f"{message} The head starts too large, or labels are in another order."
    else:
        yield OK, f"the loss before training is {first:.2f} nats; guessing gives {chance:.2f}."


def _check_repeats(run: Run) -> Found:
    batch = run.batch()
    differ = error(run.logits(batch), run.logits(batch))
    if differ > TOLERANCE:
        yield (
            WRONG,
            f"two evaluations differ by {differ:.2g} of the logits: something is random.",
        )
    else:
        yield OK, "two evaluations give the same."


def _check_padding(run: Run) -> Found:
    batch = run.batch()
    together = run.logits(batch)
    mask = batch.get("attention_mask")
    if mask is None or together.shape[0] < 2 or not (mask == 0).any():
        return
    row = int(mask.sum(1).argmin())
    alone = run.logits(run.alone(batch, row))
    padded = together[row : row + 1]
    if padded.ndim == 3:
        padded = padded[:, : alone.shape[1]]
    differ = error(alone, padded)
    if differ > TOLERANCE:
        yield WRONG, f"padding changes a row's logits by {differ:.2g}: is the mask used?"
    else:
        yield OK, "a row gives the same logits alone and padded."


def _check_neighbours(run: Run) -> Found:
    """Whether one row sees another of its batch."""
    batch = run.batch()
    ids = batch.get("input_ids")
    if ids is None or len(ids) < 2:
        return
    before = run.logits(batch)[1:]
    changed = ids.clone()
    changed[0] = ids[0].roll(1)
    changed[0, 0] = ids[-1, -1]
    differ = error(run.logits(batch | {"input_ids": changed})[1:], before)
    if differ > TOLERANCE:
        yield WRONG, f"changing one row moves another's logits by {differ:.2g}: rows leak."
    else:
        yield OK, "rows of a batch do not see each other."


def _check_gradients(run: Run) -> Found:
    model = copy.deepcopy(run.model)
    loss_sum, _ = run.loss(model, run.batch())
    if not loss_sum.requires_grad:
        yield WRONG, "the loss does not depend on any trained parameter."
        return
    loss_sum.backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    without = [name for name, p in trained if p.grad is None]
    if without:
        yield LOOK, f"{len(without)} trained parameters get no gradient, as {without[0]}."
    else:
        yield OK, f"all {len(trained)} trained tensors get a gradient."


def _check_one_batch(run: Run) -> Found:
    """A model that cannot learn eight examples by heart will not learn a thousand."""
    if not run.overfit_steps:
        return
    model, batch = copy.deepcopy(run.model), run.batch()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=run.lr, weight_decay=0.0)
    losses = []
    for _ in range(run.overfit_steps + 1):
        loss_sum, n = run.loss(model, batch)
        if n == 0:
            return
        losses.append(float(loss_sum.detach() / n))
        optimizer.zero_grad()
        (loss_sum / n).backward()
        optimizer.step()
    what = f"{run.overfit_steps} steps on one batch take the loss from {losses[0]:.2f}"
    if not losses[-1] < 0.9 * losses[0]:  # also when it is NaN
        yield LOOK, f"{what} to {losses[-1]:.2f} only: is lr={run.lr:g} right?"
    else:
        yield OK, f"{what} to {losses[-1]:.2f}."


def _check_splits(run: Run) -> Found:
    if run.corpus is None:
        return
    across = duplicates.across_groups(duplicates.split_groups(run.corpus))
    leaked = {pair: count for pair, count in across.items() if count}
    if leaked:
        what = ", ".join(f"{n:,} of {pair.replace('/', ' in ')}" for pair, n in leaked.items())
        yield LOOK, f"near-duplicates across splits: {what}."
    else:
        yield OK, "no near-duplicates across splits."


CHECKS: dict[str, Callable[[Run], Found]] = {
    "ids": _check_ids,
    "precision": _check_precision,
    "labels": _check_labels,
    "names": _check_names,
    "cut": _check_cut,
    "begin": check_begin,
    "stop": check_stop,
    "first loss": _check_first_loss,
    "repeats": _check_repeats,
    "padding": _check_padding,
    "neighbours": _check_neighbours,
    "shift": check_shift,
    "packing": check_packing,
    "gradients": _check_gradients,
    "one batch": _check_one_batch,
    "splits": _check_splits,
}
