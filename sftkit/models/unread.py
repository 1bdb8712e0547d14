"""Compute nothing that is not read: the last block, when the head reads the first token only.

transformers' classifiers of the BERT kind read the last hidden state of the first token. Its
queries, attention output and feed-forward part are then needed for that token alone; only keys
and values are needed for all. In a model of six blocks this is about 14 % of all matrix
products, forward and backward, and the numbers that are left are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.bert.modeling_bert import BertForSequenceClassification, BertLayer


class FirstTokenLayer(BertLayer):
    """A `BertLayer` that, while ``first_only`` is set, gives ``(B, 1, D)``."""

    first_only = False

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: Any = None, *more: Any, **kwargs: Any
    ) -> torch.Tensor:
        if not self.first_only:
            return super().forward(hidden_states, attention_mask, *more, **kwargs)
        attention: Any = self.attention.self
        first = hidden_states[:, :1]
        query = _heads(attention, attention.query(first))
        key = _heads(attention, attention.key(hidden_states))
        value = _heads(attention, attention.value(hidden_states))
        if attention_mask is not None:  # (B or 1, 1, T or 1, T)
            attention_mask = attention_mask[:, :, :1]
        share = attention.dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attention_mask, share, scale=attention.scaling
        )
        mixed = mixed.transpose(1, 2).reshape(first.shape)
        return self.feed_forward_chunk(self.attention.output(mixed, first))


def _heads(attention: Any, x: torch.Tensor) -> torch.Tensor:
    """``(B, T, D)`` to ``(B, heads, T, D / heads)``."""
    split = x.view(*x.shape[:-1], -1, attention.attention_head_size)
    return split.transpose(1, 2)


def skip_unread(model: nn.Module) -> bool:
    """Let a classifier's own forward pass leave out what its head does not read.

    Only stock BERT classifiers are known; others stay as they are. A call of the encoder by
    itself (``model.bert``), or one that asks for hidden states or attentions, still computes
    everything. Names of parameters do not change.

    Returns:
        Whether the model is one of those known.
    """
    if type(model) is not BertForSequenceClassification:
        return False
    encoder: Any = model.bert.encoder
    layer = encoder.layer[-1]
    usual = model.config._attn_implementation == "sdpa" and not model.config.is_decoder
    if not usual or type(layer) is not BertLayer:
        return isinstance(layer, FirstTokenLayer)
    layer.__class__ = FirstTokenLayer

    def begin(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wanted = ("output_hidden_states", "output_attentions")
        everything = any(
            kwargs.get(name) or getattr(module.config, name, False) for name in wanted
        )
        for last in _last_layer(module):
            # A recomputation in the backward pass would come after `end`.
            last.first_only = not (everything or last.gradient_checkpointing)

    def end(module: Any, args: Any, output: Any) -> None:
        for last in _last_layer(module):
            last.first_only = False

    model.register_forward_pre_hook(begin, with_kwargs=True)
    model.register_forward_hook(end, always_call=True)
    return True


def _last_layer(model: Any) -> list[FirstTokenLayer]:
    """The last block, or nothing where blocks were taken out because they are cached."""
    return [
        layer for layer in model.bert.encoder.layer[-1:] if isinstance(layer, FirstTokenLayer)
    ]
