"""Attention of transformers' models within packed documents, one call per document.

A mask of all pairs (`losses_lm.causal_inputs`) works with every model, but costs the square of
a row's length. Here the library's register of kinds of attention gets one more, and a model
uses it within a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sftkit.models.blocks import attend_by_document, document_lengths

NAME = "sftkit_by_document"
# Of these, attention is softmax(q k / sqrt(d)) v over all tokens before, and nothing else.
KNOWN = ("llama", "mistral", "qwen2")


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
