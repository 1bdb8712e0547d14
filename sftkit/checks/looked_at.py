"""What the checks of `check_run` look at: the model, its batches, and what it makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sftkit.batches import IGNORE, Batches
from sftkit.losses import Loss, model_inputs
from sftkit.losses_seq2seq import begin_of, seq2seq_inputs

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

    @property
    def writes(self) -> bool:
        """Whether the model writes a target of its own length: an encoder-decoder."""
        return begin_of(self.model) is not None

    def logits(self, batch: Batch) -> torch.Tensor:
        """``(B, C)``, ``(B, T, C)``, or ``(B, T, 2)`` of a model that finds answers' spans."""
        inputs = seq2seq_inputs(self.model, batch) if self.writes else model_inputs(batch)
        with torch.inference_mode():
            output: Any = self.model(**inputs)
        if hasattr(output, "start_logits"):
            return torch.stack([output.start_logits, output.end_logits], dim=-1).float()
        return output.logits.float()

    def outcomes(self) -> tuple[int, bool]:
        """How many labels there are to choose from, and whether they are classes or places."""
        batch = self.batch(1)
        with torch.inference_mode():
            spans = not self.writes and hasattr(
                self.model(**model_inputs(batch)), "start_logits"
            )
        if spans:
            return int(self.batches.examples.lengths.mean()), False
        return self.logits(batch).shape[-1], True

    def alone(self, batch: Batch, row: int) -> Batch:
        """One row of a batch without its padding."""
        length = int(batch["attention_mask"][row].sum())
        cut = {
            k: v[row : row + 1, :length] if v.ndim > 1 else v[row : row + 1]
            for k, v in batch.items()
        }
        if self.writes:
            target = int((batch["labels"][row] != IGNORE).sum())
            cut["labels"] = batch["labels"][row : row + 1, :target]
        return cut


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest of ``b``."""
    scale = max(float(b.abs().max()), 1e-6)
    return float((a - b).abs().max()) / scale
