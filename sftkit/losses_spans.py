"""Loss of extractive question answering: where an answer begins and ends, as (sum, count).

A long context is cut into windows, and an answer may lie outside a window. What such a window
teaches is a decision, so it is stated: nothing (the label is -100), or "there is no answer
here" (the first token's place). It is never a place that came out of arithmetic: -1 clamped
to 0 would train the first token on windows that nobody meant as unanswerable.

``labels`` are ``(B, 2)``: places of the first and the last token of the answer in the window,
or -100 twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sftkit.batches import IGNORE
from sftkit.errors import ParameterError
from sftkit.losses import Loss, cross_entropy, model_inputs

if TYPE_CHECKING:
    from sftkit.batches import Batch

OUTSIDE = ("ignore", "no answer")


def place_labels(
    start: torch.Tensor, end: torch.Tensor, length: torch.Tensor, outside: str = "ignore"
) -> torch.Tensor:
    """Labels ``(B, 2)`` of windows, from where answers lie.

    Args:
        start, end: ``(B,)``: places of the first and the last token of the answer, counted
            from the window's first. Below 0 or from ``length`` on they are outside it.
        length: ``(B,)``: real tokens of each window.
        outside: Of a window that does not hold the whole answer: ``ignore`` it, or supervise
            ``no answer``, which is the first token's place.

    Raises:
        ParameterError: An unknown choice, or an answer that ends before it begins.
    """
    if outside not in OUTSIDE:
        raise ParameterError(f"outside={outside!r}.", f"There are {' and '.join(OUTSIDE)}.")
    if (end < start).any():
        row = int((end < start).nonzero()[0])
        raise ParameterError(
            f"row {row}: the answer ends at {int(end[row])} and begins at {int(start[row])}.",
            "Give the places of its first and its last token.",
        )
    inside = (start >= 0) & (end < length)
    instead = IGNORE if outside == "ignore" else 0
    return torch.stack([start, end], dim=1).where(inside.unsqueeze(1), instead)


def span_cross_entropy(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    labels: torch.Tensor,
    allowed: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax cross-entropy of both places in nats, their mean per window, summed.

    Args:
        start_logits, end_logits: ``(B, T)``.
        labels: ``(B, 2)``: the right places; -100 twice where the window teaches nothing.
        allowed: ``(B, T)``, bool: places that can be an answer's; the others get no
            probability. None: all.

    Returns:
        ``(loss_sum, n)``; ``n`` is the number of windows that teach something.

    Raises:
        ParameterError: A place below 0 that is not -100, from T on, or not allowed; an end
            before its start; or one of a window's places is -100 and the other is not.
    """
    _check_places(labels, start_logits.shape[1], allowed)
    total = torch.zeros((), dtype=start_logits.dtype, device=start_logits.device)
    for logits, places in zip((start_logits, end_logits), labels.unbind(1), strict=True):
        if allowed is not None:
            logits = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)
        total = total + cross_entropy(logits, places)[0]
    return total / 2, (labels[:, 0] != IGNORE).sum()


def _check_places(labels: torch.Tensor, tokens: int, allowed: torch.Tensor | None) -> None:
    stated = labels != IGNORE
    bad = stated & ((labels < 0) | (labels >= tokens))
    if allowed is not None:
        bad |= stated & ~allowed.gather(1, labels.clamp(0, tokens - 1))
    bad |= (stated[:, :1] != stated) | (stated & (labels < labels[:, :1]))
    if bad.any():
        row = int(bad.any(dim=1).nonzero()[0])
        count = tokens if allowed is None else int(allowed[row].sum())
        raise ParameterError(
            f"row {row} of the batch: the labels {labels[row].tolist()} are no answer among "
            f"{count} tokens.",
            "Say what an answer outside the window teaches: see losses_spans.place_labels.",
        )


def extractive(mask_padding: bool = True) -> Loss:
    """A loss for `fit`, of a model that gives ``start_logits`` and ``end_logits``.

    transformers' ``AutoModelForQuestionAnswering`` and heads of ours do. Their own losses
    clamp places into the window; here a place outside is an error.

    Args:
        mask_padding: No probability for padding.
    """

    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        output: Any = model(**model_inputs(batch))
        mask = batch.get("attention_mask") if mask_padding else None
        allowed = None if mask is None else mask.bool()
        return span_cross_entropy(
            output.start_logits, output.end_logits, batch["labels"], allowed
        )

    return loss
