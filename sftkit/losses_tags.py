"""The loss of a model that gives each token a tag, as (sum, count) like all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sftkit.losses import Loss, cross_entropy, model_inputs
from sftkit.losses_lm import supervised, unwrapped

if TYPE_CHECKING:
    from sftkit.batches import Batch


def tagging() -> Loss:
    """-log p of the right tags, for `fit`; the count is the number of labelled tokens.

    A model without a layer ``crf`` judges each token by itself (softmax cross-entropy). One
    with such a layer judges the whole sequence. Both are divided by tokens, so their rates
    compare, and a long sentence weighs as much as its tokens.
    """

    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        output: Any = model(**model_inputs(batch))
        labels, field = batch["labels"], getattr(unwrapped(model), "crf", None)
        if field is None:
            return cross_entropy(output.logits, labels)
        named = supervised(labels).sum()
        return field.negative_log_likelihood(output.logits.float(), labels), named

    return loss
