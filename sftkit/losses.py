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


def focal(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    gamma: float = 2.0,
    class_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Focal loss: ``(1 - p)^gamma * -log p`` of the right class (Lin et al. 2017).

    What the model already gets right counts for less. With ``gamma=0`` it is `cross_entropy`.

    Args:
        logits: ``(..., C)``.
        labels: ``(...)``, with -100 where nothing is supervised.
        gamma: How fast easy items fade, at least 0.
        class_weights: ``(C,)``. An item then counts as its class's weight.

    Returns:
        ``(loss_sum, n)`` as `cross_entropy` does: ``n`` does not depend on ``gamma``.
    """
    if not gamma >= 0:
        raise ParameterError(f"gamma={gamma}.", "It must be at least 0; 2 is usual.")
    logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    supervised = labels != IGNORE
    right = labels[supervised]
    log_p = functional.log_softmax(logits[supervised], dim=-1)
    log_p = log_p.gather(1, right.unsqueeze(1)).squeeze(1)
    # Where p rounds to 1, a power below 1 has an infinite slope, and infinity times 0 is NaN.
    miss = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    items = -log_p if gamma == 0 else -(miss**gamma) * log_p
    if class_weights is None:
        return items.sum(), supervised.sum()
    weights = class_weights[right]
    return (weights * items).sum(), weights.sum()


def regression(
    predictions: torch.Tensor,
    targets: torch.Tensor,
    *,
    kind: str = "squared",
    delta: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of numbers: squared, absolute, or Huber (1964) error.

    Args:
        predictions: Any shape.
        targets: The same shape, with NaN where nothing is supervised.
        kind: ``squared`` (``r^2``), ``absolute`` (``|r|``), or ``huber`` (``r^2 / 2`` up to
            ``|r| = delta``, then a straight line).
        delta: Where Huber's loss turns from a parabola into a line, above 0.

    Returns:
        ``(loss_sum, n)``: the sum over supervised items, and how many there are.
        ``loss_sum / n`` equals torch's ``mse_loss``, ``l1_loss`` and ``huber_loss``.
    """
    losses = {"squared": functional.mse_loss, "absolute": functional.l1_loss}
    if kind not in (*losses, "huber"):
        raise ParameterError(f"kind={kind!r}.", "There are squared, absolute and huber.")
    if not delta > 0:
        raise ParameterError(f"delta={delta}.", "It must be above 0.")
    if predictions.shape != targets.shape:  # torch would stretch (B, 1) and (B,) to (B, B)
        raise ParameterError(
            f"predictions of shape {tuple(predictions.shape)}, targets of shape "
            f"{tuple(targets.shape)}.",
            "Give them the same shape: squeeze the last axis of the predictions.",
        )
    supervised = ~torch.isnan(targets)
    predictions, targets = predictions[supervised], targets[supervised]
    if kind == "huber":
        loss_sum = functional.huber_loss(predictions, targets, reduction="sum", delta=delta)
    else:
        loss_sum = losses[kind](predictions, targets, reduction="sum")
    return loss_sum, supervised.sum()


def classification(
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Loss:
    """A loss for `fit`: runs the model on a batch, compares its logits with the labels.

    Works for one class per example, logits ``(B, C)``, and for one per token, ``(B, T, C)``.

    Args:
        class_weights: One weight per class (see `balanced_weights`).
        label_smoothing: Share of the target that is spread evenly over all classes.
        focal_gamma: Above 0, the loss is `focal`.
    """
    if not 0 <= label_smoothing < 1:
        raise ParameterError(
            f"label_smoothing={label_smoothing}.", "It must be at least 0 and below 1."
        )
    if not focal_gamma >= 0 or (focal_gamma and label_smoothing):
        raise ParameterError(
            f"focal_gamma={focal_gamma} with label_smoothing={label_smoothing}.",
            "Give gamma at least 0, and one of the two: their combination is not defined.",
        )
    weights = None if class_weights is None else torch.tensor(list(class_weights))

    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        output: Any = model(**model_inputs(batch))
        on_device = None if weights is None else weights.to(output.logits)
        if focal_gamma:
            return focal(
                output.logits, batch["labels"], gamma=focal_gamma, class_weights=on_device
            )
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
