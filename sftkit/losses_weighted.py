"""Next-token loss in which prompts count for something: less than answers, but not nothing.

    m_t = 1 for what is supervised, w for the other real tokens, 0 for padding
    loss = sum of m_t * -log p(x_t | x_<t), divided by the sum of m_t

With ``w = 0`` it is the usual mask, with ``w = 1`` every token is learnt alike. The weights
take part in the count: a row's prompt cannot make its answer count for less than another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from sftkit.arguments import number
from sftkit.errors import ParameterError
from sftkit.losses import Loss
from sftkit.losses_chunked import causal_lm
from sftkit.losses_lm import causal_inputs, next_token, supervised

if TYPE_CHECKING:
    from sftkit.batches import Batch


def prompt_weighted(weight: float) -> Loss:
    """`losses_chunked.causal_lm` with a weight for the tokens that have no label, for `fit`.

    Args:
        weight: From 0 to 1. 0 is `causal_lm` itself; above 0 all logits of a batch exist at
            one time.

    Returns:
        A loss that gives ``(sum of weighted losses, sum of weights)``.
    """
    number("weight", weight, least=0)
    if weight > 1:
        raise ParameterError(f"weight={weight}.", "Give from 0 (the mask) to 1 (no mask).")
    if weight == 0:
        return causal_lm()

    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        output: Any = model(**causal_inputs(model, batch))
        logits, ids = next_token(output.logits, batch["input_ids"])
        _, weights = next_token(output.logits, token_weights(batch, weight))
        return weighted_cross_entropy(logits, ids, weights)

    return loss


def token_weights(batch: Batch, weight: float) -> torch.Tensor:
    """``(B, T)``: 1 where there is a label, ``weight`` at other real tokens, 0 in padding."""
    real = batch["attention_mask"] != 0
    if "document" in batch:
        # What stands before a packed document's first token belongs to another one.
        real[:, 1:] &= batch["document"].diff(dim=1) == 0
    weights = weight * real.double()
    return weights.masked_fill(supervised(batch["labels"]), 1.0)


def weighted_cross_entropy(
    logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(sum of weighted losses, sum of weights)``, in nats.

    Args:
        logits: ``(B, T, V)``.
        ids: ``(B, T)``: the right tokens.
        weights: ``(B, T)``, at least 0.
    """
    losses = functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
    weights = weights.flatten().to(losses)
    return (weights * losses).sum(), weights.sum()
