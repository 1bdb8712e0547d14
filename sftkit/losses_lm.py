"""Losses of language models, as (sum, count) like all others.

The shift between a token and what predicts it happens in `next_token`, and nowhere else:
encoders label every place with its own token, models know nothing of labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sftkit import packed_attention
from sftkit.batches import IGNORE
from sftkit.errors import ParameterError
from sftkit.losses import Loss, cross_entropy, model_inputs
from sftkit.packed_attention import document_mask

if TYPE_CHECKING:
    from sftkit.batches import Batch

__all__ = [
    "causal_inputs",
    "causal_lm",
    "document_mask",
    "masked_lm",
    "next_token",
    "supervised",
    "unwrapped",
]


def next_token(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pair the logits at each place with the token at the next one.

    Args:
        logits: ``(B, T, V)``; those at place ``t`` have seen the tokens up to ``t``.
        labels: ``(B, T)``, not shifted: ``labels[:, t]`` is the token at place ``t``.

    Returns:
        ``(B, T - 1, V)`` and ``(B, T - 1)``. The first label and the last logits have no
        partner. Whatever is counted must be counted after this.
    """
    return logits[:, :-1], labels[:, 1:]


def causal_lm() -> Loss:
    """Cross-entropy of every token given those before it, for `fit`.

    ``n`` is the number of supervised tokens after the shift, so that rows of any length, in
    any grouping, give one mean.
    """

    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        output: Any = model(**causal_inputs(model, batch))
        return cross_entropy(*next_token(output.logits, batch["labels"]))

    return loss


def causal_inputs(model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    """What a causal model takes from a batch, packed or not.

    Our decoder takes ``document`` as it is. transformers' models would ignore it without a
    word, and let documents see each other: they get it as a mask of all pairs. Layers that are
    no attention (convolutions, state spaces) do not ask a mask, so the model is tried first.

    Raises:
        ParameterError: The batch is packed, and the model cannot keep documents apart.
    """
    inputs = model_inputs(batch)
    inside = unwrapped(model)
    if "document" not in inputs or getattr(inside, "takes_documents", False):
        return inputs
    kind = getattr(getattr(inside, "config", None), "_attn_implementation", None)
    if kind not in ("sdpa", "eager"):
        raise ParameterError(
            f"packed rows cannot be given to a {type(inside).__name__}.",
            "Use Batches in place of PackedBatches, or load the model with "
            'attn_implementation="sdpa".',
        )
    window = packed_attention.window(inside)
    longest = int(batch["position_ids"].max()) + 1 if window else 0
    if window and longest > window:
        raise ParameterError(
            f"a packed document has {longest} tokens, and some layers of this "
            f"{type(inside).__name__} look back {window}: the mask of documents would make "
            "them see all.",
            f"Use Batches in place of PackedBatches, or documents of at most {window} tokens.",
        )
    if not packed_attention.keeps_apart(inside):
        raise ParameterError(
            f"a {type(inside).__name__} does not keep packed documents apart: it has layers "
            "that do not ask the mask of attention, or positions of its own.",
            "Use Batches in place of PackedBatches.",
        )
    document = inputs.pop("document")
    return inputs | {"attention_mask": packed_attention.additive_mask(inside, document)}


def unwrapped(model: Any) -> Any:
    """The model itself, where several processes train a copy each."""
    distributed = isinstance(model, torch.nn.parallel.DistributedDataParallel)
    return model.module if distributed else model


def masked_lm() -> Loss:
    """Cross-entropy of the masked tokens given all others, for `fit`.

    There is no shift: the model predicts each token at its own place. A model whose forward
    takes ``places`` (`models.encoder.Encoder`) computes logits for the supervised places only:
    with a share of 15 % and a large vocabulary this saves most of the head's work.
    """

    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        labels, more = batch["labels"], {}
        if getattr(model, "takes_places", False):
            chosen = supervised(labels)
            labels, more = labels[chosen], {"places": chosen}
        output: Any = model(**model_inputs(batch), **more)
        return cross_entropy(output.logits, labels)

    return loss


def supervised(labels: torch.Tensor) -> torch.Tensor:
    """Where something is to be predicted: ``bool``, of the labels' shape."""
    return labels != IGNORE
