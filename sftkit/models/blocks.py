"""The parts of our own transformers: attention, norms, rotary positions, blocks.

Notebook 04 derives each part and writes it out; here the same mathematics uses torch's fused
attention. Shapes: batch B, time T, width D, heads H, width of a head d = D / H.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from sftkit.errors import ModelError
from sftkit.packed_attention import attend_by_document

Pair = tuple[torch.Tensor, torch.Tensor]
INIT_STD = 0.02  # of every matrix at the start, as in BERT and GPT-2


@dataclass
class Output:
    """What a model gives.

    Attributes:
        hidden: Last hidden states, ``(B, T, D)``.
        logits: What the head makes of them; None without a head.
        cache: Keys and values of each block, when a decoder was asked to keep them.
        attention: Weights of each block, ``(B, H, T, S)``, when they were asked for.
    """

    hidden: torch.Tensor
    logits: torch.Tensor | None = None
    cache: list[Pair] | None = None
    attention: list[torch.Tensor] | None = None


def init_weights(module: nn.Module) -> None:
    """Normal weights of standard deviation 0.02, zero biases (Devlin et al. 2019, BERT)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def check_sizes(*, width: int, heads: int, dropout: float = 0.0, **others: int) -> None:
    """Every size a positive whole number, the width a multiple of the heads, dropout a share.

    Raises:
        ModelError: Naming the first that is not.
    """
    for name, value in {"width": width, "heads": heads, **others}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{name}={value!r}.", "Give a whole number of at least 1.")
    if width % heads:
        raise ModelError(
            f"width={width} cannot be split into heads={heads}.",
            "Give a width that is a multiple of the heads.",
        )
    if not 0 <= dropout < 1:
        raise ModelError(f"dropout={dropout}.", "It must be at least 0 and below 1.")


def check_length(tokens: int, most: int) -> None:
    """Refuse sequences that the model has no positions for."""
    if tokens > most:
        raise ModelError(
            f"{tokens} tokens, but the model has positions for {most}.",
            "Truncate the texts (max_length), or build the model with a larger max_length.",
        )


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """``(B, T, H * d)`` to ``(B, H, T, d)``."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """``(B, H, T, d)`` to ``(B, T, H * d)``."""
    return x.transpose(1, 2).flatten(-2)


class RMSNorm(nn.Module):
    """Scale to root mean square 1 (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotary_tables(positions: torch.Tensor, width: int, base: float) -> Pair:
    """Cosines and sines of the angles ``position * base ** (-2 i / d)``, each ``(..., d)``.

    ``positions`` is ``(T,)``, or ``(B, 1, T)`` where rows differ. Angle i serves the numbers i
    and i + d / 2 of a head (the layout of Llama's weights). The tables are made in float32
    whatever the model's type, as when such models were trained.
    """
    powers = torch.arange(0, width, 2, device=positions.device).float() / width
    angles = positions.float().unsqueeze(-1) * (1.0 / base**powers)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, tables: Pair) -> torch.Tensor:
    """Turn each pair of numbers ``(B, H, T, d)`` by its position's angle (Su et al. 2021)."""
    cos, sin = (table.to(x.dtype) for table in tables)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def restarting_positions(document: torch.Tensor) -> torch.Tensor:
    """``(B, T)``: 0, 1, 2, ... from the start of each run of equal ids."""
    places = torch.arange(document.shape[1], device=document.device).expand_as(document)
    begins = torch.ones_like(document, dtype=torch.bool)
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    return places - places.where(begins, 0).cummax(dim=1).values


class EncoderBlock(nn.Module):
    """Attention over all tokens, then a feed-forward layer; each added, then normed."""

    def __init__(
        self, width: int, heads: int, feed_forward: int, dropout: float, eps: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps)
        self.up = nn.Linear(width, feed_forward)
        self.down = nn.Linear(feed_forward, width)
        self.feed_forward_norm = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """``x (B, T, D)``; ``mask`` is bool, broadcast to ``(B, H, T, T)``, True takes part."""
        query, key, value = (
            split_heads(layer(x), self.heads) for layer in (self.query, self.key, self.value)
        )
        rate = self.dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=rate
        )
        update = self.dropout(self.attention_output(merge_heads(mixed)))
        x = self.attention_norm(x + update)
        update = self.dropout(self.down(functional.gelu(self.up(x))))
        return self.feed_forward_norm(x + update)


class DecoderBlock(nn.Module):
    """Norm, causal attention, add; norm, gated feed-forward, add. No biases."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, feed_forward: int, eps: float
    ) -> None:
        super().__init__()
        head = width // heads
        self.heads, self.kv_heads = heads, kv_heads
        self.attention_norm = RMSNorm(width, eps)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, kv_heads * head, bias=False)
        self.value = nn.Linear(width, kv_heads * head, bias=False)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = RMSNorm(width, eps)
        self.gate = nn.Linear(width, feed_forward, bias=False)
        self.up = nn.Linear(width, feed_forward, bias=False)
        self.down = nn.Linear(feed_forward, width, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        tables: Pair,
        past: Pair | None = None,
        lengths: list[int] | None = None,
    ) -> tuple[torch.Tensor, Pair]:
        """One block.

        Args:
            x: ``(B, T, D)``.
            tables: Of the rotary positions of these T tokens.
            past: Keys and values of the tokens before them, ``(B, kv heads, S, d)`` each.
            lengths: Tokens of each document, row after row: each is attended to by itself.

        Returns:
            The new ``x``, and the keys and values of all S + T tokens.
        """
        normed = self.attention_norm(x)
        query = rotate(split_heads(self.query(normed), self.heads), tables)
        key = rotate(split_heads(self.key(normed), self.kv_heads), tables)
        value = split_heads(self.value(normed), self.kv_heads)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        x = x + self.attention_output(merge_heads(self._attend(query, key, value, lengths)))
        normed = self.feed_forward_norm(x)
        x = x + self.down(functional.silu(self.gate(normed)) * self.up(normed))
        return x, (key, value)

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: list[int] | None,
    ) -> torch.Tensor:
        tokens, past = query.shape[2], key.shape[2] - query.shape[2]
        share = self.heads // self.kv_heads  # heads that read the same keys and values
        wide_key, wide_value = (x.repeat_interleave(share, dim=1) for x in (key, value))
        if lengths is not None:
            return attend_by_document(query, wide_key, wide_value, lengths)
        if past == 0:
            return functional.scaled_dot_product_attention(
                query, wide_key, wide_value, is_causal=True
            )
        # torch's causal mask begins at the first key; with a past, ours must begin later.
        mask = torch.ones(tokens, past + tokens, dtype=torch.bool, device=query.device)
        return functional.scaled_dot_product_attention(
            query, wide_key, wide_value, attn_mask=mask.tril(past)
        )
