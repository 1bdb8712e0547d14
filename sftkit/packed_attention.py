"""Attention within packed documents: by a mask of all pairs, or one call per document.

A mask of all pairs works with every model whose layers all ask it (`keeps_apart` finds out),
but costs the square of a row's length. Our decoder calls `attend_by_document`. For some of
transformers' models, the library's register of kinds of attention gets one more, and a model
uses it within a block (`by_document`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional

from sftkit.modes import evaluated

NAME = "sftkit_by_document"
# Of these, attention is softmax(q k / sqrt(d)) v over all tokens before, and nothing else.
KNOWN = ("llama", "mistral", "qwen2")


_found_apart: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def document_mask(document: torch.Tensor) -> torch.Tensor:
    """Who may look at whom: ``bool (B, 1, T, T)`` from ``document (B, T)``.

    A token sees itself and what stands before it in its own document.
    """
    same = document[:, None, :, None] == document[:, None, None, :]
    return same.tril()


def additive_mask(model: Any, document: torch.Tensor) -> torch.Tensor:
    """`document_mask` as numbers that are added to the scores, ``(B, 1, T, T)``.

    This is the one form that all kinds of attention of transformers' models understand.
    """
    allowed = document_mask(document)
    dtype = next(model.parameters()).dtype
    forbidden = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return forbidden.masked_fill_(~allowed, torch.finfo(dtype).min)


def window(model: Any) -> int | None:
    """How far back a layer with a limited view looks, in tokens; None if all see everything.

    A mask of all pairs takes the place of such a layer's own mask.
    """
    config = model.config.get_text_config()
    names = ("sliding_window", "attention_chunk_size")
    found = [getattr(config, name, None) for name in names]
    return min((int(size) for size in found if size), default=None)


def keeps_apart(model: Any) -> bool:
    """Whether a model of transformers treats packed documents as if each were alone.

    Two documents of four tokens are tried, once per model: the second one's logits must not
    change with the first one, and must be those of the second one by itself. Convolutions and
    state spaces do not ask a mask, and some models have positions of their own.
    """
    if model not in _found_apart:
        _found_apart[model] = _tried_apart(model)
    return _found_apart[model]


def _tried_apart(model: Any) -> bool:
    device = next(model.parameters()).device
    size = model.get_input_embeddings().num_embeddings
    ids = (torch.tensor([[3, 1, 4, 2, 6, 5, 9, 7]], device=device)) % size
    other = torch.cat([(ids[:, :4] + 1) % size, ids[:, 4:]], dim=1)
    document = torch.tensor([[0] * 4 + [1] * 4], device=device)
    packed = {
        "position_ids": torch.tensor([[*range(4), *range(4)]], device=device),
        "attention_mask": additive_mask(model, document),
        "use_cache": False,
    }
    try:
        with (
            evaluated(model),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            first, second = (model(input_ids=i, **packed).logits[:, 4:] for i in (ids, other))
            alone = model(input_ids=ids[:, 4:], use_cache=False).logits
    except TypeError:  # it takes no positions
        return False
    scale = float(alone.abs().max())
    rounding = 1e-3 if alone.dtype in (torch.float32, torch.float64) else 5e-2
    unseen = float((first - second).abs().max()) <= 1e-5 * scale
    return unseen and float((first - alone).abs().max()) <= rounding * scale


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
