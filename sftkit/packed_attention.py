"""Attention within packed documents, one call per document: in our models and transformers'.

A mask of all pairs (`losses_lm.causal_inputs`) works with every model, but costs the square of
a row's length. Our decoder calls `attend_by_document`. For transformers' models, the library's
register of kinds of attention gets one more, and a model uses it within a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

NAME = "sftkit_by_document"
# Of these, attention is softmax(q k / sqrt(d)) v over all tokens before, and nothing else.
KNOWN = ("llama", "mistral", "qwen2")


def document_lengths(document: torch.Tensor) -> list[int]:
    """Lengths of the runs of equal ids in ``document (B, T)``, row after row; sum ``B * T``."""
    begins = torch.ones_like(document, dtype=torch.bool)
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    starts = begins.flatten().nonzero().flatten().tolist()
    return [b - a for a, b in zip(starts, [*starts[1:], document.numel()], strict=True)]


def attend_by_document(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]
) -> torch.Tensor:
    """Causal attention within each document; all shapes ``(B, H, T, d)``.

    One call per document: with eight documents in a row of 1,024 tokens this takes a seventh
    of the time of a mask of all pairs (measured on CPU, forward and backward).
    """
    rows = query.shape[0]
    # The rows one behind the other, then cut where documents begin.
    parts = (
        x.transpose(0, 1).flatten(1, 2).unsqueeze(0).split(lengths, dim=2)
        for x in (query, key, value)
    )
    mixed = [
        functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(mixed, dim=2).squeeze(0).unflatten(1, (rows, -1)).transpose(0, 1)


def possible(model: Any) -> bool:
    """Whether the model's attention can be done by document, with the same result.

    Not with dropout or windows in its attention, and not with gradient checkpointing, which
    would run the model again after the block.
    """
    config = model.config
    return (
        config.model_type in KNOWN
        and config._attn_implementation == "sdpa"
        and not getattr(config, "sliding_window", None)
        and not (model.training and getattr(config, "attention_dropout", 0.0))
        and not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    )


@contextmanager
def by_document(model: Any, document: torch.Tensor) -> Iterator[dict[str, Any]]:
    """Within the block, no document of a packed row sees another one.

    Args:
        model: One that is `possible`.
        document: ``(B, T)``, as in `packing`.

    Yields:
        What the model's forward has to be given besides.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    config, before = model.config, model.config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield {"attention_mask": None, "document_lengths": document_lengths(document)}
    finally:
        config._attn_implementation = before


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    document_lengths: list[int],
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """``query (B, H, T, d)`` and fewer heads of keys and values, to ``(B, T, H, d)``."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    return attend_by_document(query, key, value, document_lengths).transpose(1, 2), None
