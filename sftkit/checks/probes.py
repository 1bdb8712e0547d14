"""The checks behind `check_run`: each sees one fault on the real model and real batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sftkit.batches import IGNORE, Batches, Ragged
from sftkit.checks.invariance import leak
from sftkit.corpora import duplicates
from sftkit.losses import Loss, model_inputs
from sftkit.models.parts import base_of
from sftkit.packing import PackedBatches

if TYPE_CHECKING:
    from sftkit.batches import Batch

OK, LOOK, WRONG = "ok", "look", "wrong"
ROWS = 8  # examples of the probes that run the model
LOSS_ROWS = 128  # examples of the first loss
TOLERANCE = 1e-3  # of a row's logits, relative to the largest

Found = Iterator[tuple[str, str]]


@dataclass
class Run:
    """What the checks look at."""

    model: torch.nn.Module
    batches: Batches
    loss: Loss
    labels: Sequence[str] | None
    stop_id: int | None
    corpus: Any
    lr: float
    overfit_steps: int

    def batch(self, count: int = ROWS) -> Batch:
        """Some examples of different length, on the model's device."""
        lengths = self.batches.examples.lengths
        order = np.argsort(lengths, kind="stable")
        rows = order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
        return self.on_device(self.batches.examples.batch(rows))

    def on_device(self, batch: Batch) -> Batch:
        device = next(self.model.parameters()).device
        return {name: value.to(device) for name, value in batch.items()}

    def logits(self, batch: Batch) -> torch.Tensor:
        with torch.inference_mode():
            output: Any = self.model(**model_inputs(batch))
        return output.logits.float()


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
    classes = run.logits(run.batch(1)).shape[-1]
    low, high = int(values[supervised].min()), int(values[supervised].max())
    if low < 0 or high >= classes:
        yield WRONG, f"labels run from {low} to {high}, but the model has {classes} outputs."


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


def _check_stop(run: Run) -> Found:
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
    chance = math.log(run.logits(run.batch(1)).shape[-1])
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
    error = _error(run.logits(batch), run.logits(batch))
    if error > TOLERANCE:
        yield (
            WRONG,
            f"two evaluations differ by {error:.2g} of the logits: something is random.",
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
    length = int(mask[row].sum())
    alone = run.logits(
        {
            k: v[row : row + 1, :length] if v.ndim > 1 else v[row : row + 1]
            for k, v in batch.items()
        }
    )
    padded = together[row : row + 1]
    if padded.ndim == 3:
        padded = padded[:, :length]
    error = _error(alone, padded)
    if error > TOLERANCE:
        yield WRONG, f"padding changes a row's logits by {error:.2g}: is the mask used?"
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
    error = _error(run.logits(batch | {"input_ids": changed})[1:], before)
    if error > TOLERANCE:
        yield WRONG, f"changing one row moves another's logits by {error:.2g}: rows leak."
    else:
        yield OK, "rows of a batch do not see each other."


def _check_packing(run: Run) -> Found:
    """Whether a document sees another one in its packed row, through the loss itself."""
    known = hasattr(base_of(run.model), "get_input_embeddings")
    if not isinstance(run.batches, PackedBatches) or not known:
        return
    steps = next(run.batches.epoch(0))
    batch = max(steps, key=lambda part: int(part["document"].max()))
    found = leak(run.model, run.on_device(batch), run.loss)
    if found > 0:
        yield WRONG, f"packed documents see each other: {found:.2g} of a document's own weight."
    else:
        yield OK, "packed documents do not see each other."


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


def _error(a: torch.Tensor, b: torch.Tensor) -> float:
    scale = max(float(b.abs().max()), 1e-6)
    return float((a - b).abs().max()) / scale


CHECKS: dict[str, Callable[[Run], Found]] = {
    "ids": _check_ids,
    "precision": _check_precision,
    "labels": _check_labels,
    "names": _check_names,
    "cut": _check_cut,
    "stop": _check_stop,
    "first loss": _check_first_loss,
    "repeats": _check_repeats,
    "padding": _check_padding,
    "neighbours": _check_neighbours,
    "packing": _check_packing,
    "gradients": _check_gradients,
    "one batch": _check_one_batch,
    "splits": _check_splits,
}
