"""Losses as (sum, count).

A loss that is already divided cannot be added up over micro-batches or processes of unequal
size. So every loss here returns the sum over supervised items and their count, and `fit`
divides once per optimizer step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from sftkit.batches import IGNORE
from sftkit.errors import ParameterError

if TYPE_CHECKING:
    from sftkit.batches import Batch

Loss = Callable[[torch.nn.Module, "Batch"], tuple[torch.Tensor, torch.Tensor]]
NOT_FOR_THE_MODEL = ("labels", "row", "cut")  # columns of a batch that `forward` never sees


def model_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """What a model's ``forward`` takes from a batch."""
    return {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    class_weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax cross-entropy in nats.

    Args:
        logits: ``(..., C)``.
        labels: ``(...)``, with -100 where nothing is supervised.
        class_weights: ``(C,)``. An item then counts as its class's weight.
        label_smoothing: Share of the target that is spread evenly over all classes.

    Returns:
        ``(loss_sum, n)``: the sum over supervised items, and how many there are (the sum of
        their weights, when weighted). ``loss_sum / n`` equals torch's mean.
    """
    logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    loss_sum = functional.cross_entropy(
        logits,
        labels,
        weight=class_weights,
        ignore_index=IGNORE,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    supervised = labels != IGNORE
    if class_weights is None:
        return loss_sum, supervised.sum()
    return loss_sum, class_weights[labels[supervised]].sum()


def classification(
    class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0
) -> Loss:
    """A loss for `fit`: runs the model on a batch, compares its logits with the labels.

    Works for one class per example, logits ``(B, C)``, and for one per token, ``(B, T, C)``.
    """
    if not 0 <= label_smoothing < 1:
        raise ParameterError(
            f"label_smoothing={label_smoothing}.", "It must be at least 0 and below 1."
        )
    weights = None if class_weights is None else torch.tensor(list(class_weights))

    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        output: Any = model(**model_inputs(batch))
        on_device = None if weights is None else weights.to(output.logits)
        return cross_entropy(
            output.logits,
            batch["labels"],
            class_weights=on_device,
            label_smoothing=label_smoothing,
        )

    return loss


def balanced_weights(labels: Sequence[int], classes: int) -> list[float]:
    """Class weights inversely proportional to frequency, 1 on average over the examples.

    The formula is scikit-learn's ``class_weight="balanced"``: ``rows / (classes * count)``.
    """
    counts = torch.bincount(torch.as_tensor(list(labels)), minlength=classes).double()
    if (counts == 0).any():
        missing = torch.nonzero(counts == 0).flatten().tolist()
        raise ParameterError(
            f"no training example has class {missing}.", "Balanced weights need one of each."
        )
    return (counts.sum() / (classes * counts)).tolist()
