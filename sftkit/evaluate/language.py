"""How well a language model predicts: nats per token, perplexity, bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from sftkit.batches import Batches
from sftkit.errors import ParameterError
from sftkit.losses import Loss
from sftkit.modes import evaluated


def token_loss(model: torch.nn.Module, batches: Batches, loss: Loss) -> tuple[float, int]:
    """Sum of the loss over one pass, and the number of supervised tokens.

    The model is put in evaluation mode and back. Sums are added up and divided once by the
    caller, so the result does not depend on how rows are grouped.

    Args:
        batches: Usually with ``shuffle=False``; masked ones with ``fixed``.
        loss: As for `fit`: gives (sum, count).
    """
    device = next(model.parameters()).device
    loss_sum, n = 0.0, 0
    with evaluated(model), torch.inference_mode():
        for step in batches.epoch(0):
            for batch in step:
                on_device = {name: value.to(device) for name, value in batch.items()}
                part, count = loss(model, on_device)
                loss_sum, n = loss_sum + float(part), n + int(count)
    return loss_sum, n


def perplexity(loss_sum: float, n: float) -> float:
    """exp of the mean loss: as many equally likely tokens would be as hard to guess.

    Infinite where the loss is beyond all numbers (above about 709 nats a token).

    Raises:
        ParameterError: There is no token to predict.
    """
    if not n:
        raise ParameterError(
            "no token is supervised, so there is no mean loss.",
            "Give rows with something to predict.",
        )
    try:
        return math.exp(loss_sum / n)
    except OverflowError:
        return math.inf


def language_evaluation(
    batches: Batches, loss: Loss
) -> Callable[[torch.nn.Module], dict[str, float]]:
    """What `fit` calls to evaluate a language model; use it with ``metric="-loss"``.

    Returns:
        A function that gives ``loss`` (nats per token) and ``perplexity``.
    """

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        loss_sum, n = token_loss(model, batches, loss)
        found = perplexity(loss_sum, n)  # first: it refuses n = 0
        return {"loss": loss_sum / n, "perplexity": found}

    return evaluate
