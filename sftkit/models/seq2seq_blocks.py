"""The parts of our encoder-decoder: a block with cross-attention, and what is kept of it.

Shapes: batch B, source S, target T, width D, heads H, width of a head d = D / H.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from sftkit.models.blocks import EncoderBlock, Pair, check_length, merge_heads, split_heads

EPS = 1e-5  # inside the square root of the norms, as in BART


class CrossBlock(EncoderBlock):
    """Attention to earlier tokens, then to the source, then a feed-forward layer; each added,
    then normed."""

    def __init__(
        self, width: int, heads: int, feed_forward: int, dropout: float, eps: float
    ) -> None:
        super().__init__(width, heads, feed_forward, dropout, eps)
        self.cross_query = nn.Linear(width, width)
        self.cross_key = nn.Linear(width, width)
        self.cross_value = nn.Linear(width, width)
        self.cross_output = nn.Linear(width, width)
        self.cross_norm = nn.LayerNorm(width, eps)

    def source(self, memory: torch.Tensor) -> Pair:
        """Keys and values of the source, ``(B, H, S, d)``: the same at every step."""
        key, value = self.cross_key(memory), self.cross_value(memory)
        return split_heads(key, self.heads), split_heads(value, self.heads)

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        source: Pair,
        source_mask: torch.Tensor | None,
        past: Pair | None,
        weights: bool = False,
    ) -> tuple[torch.Tensor, Pair, torch.Tensor | None]:
        """One block on ``x (B, T, D)``, after the tokens whose keys and values are ``past``.

        Returns:
            The new ``x``; keys and values of all tokens; and, if asked for, the attention
            weights to the source, ``(B, H, T, S)``.
        """
        query, key, value = (
            split_heads(layer(x), self.heads) for layer in (self.query, self.key, self.value)
        )
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        tokens, all_tokens = query.shape[2], key.shape[2]
        mask = None
        if tokens > 1:  # a single token may look at everything before it
            mask = torch.ones(tokens, all_tokens, dtype=torch.bool, device=x.device)
            mask = mask.tril(all_tokens - tokens)
        mixed = self._attend(query, (key, value), mask)
        x = self.attention_norm(x + self.dropout(self.attention_output(mixed)))

        query = split_heads(self.cross_query(x), self.heads)
        seen = _weights(query, source[0], source_mask) if weights else None
        mixed = self._attend(query, source, source_mask)
        x = self.cross_norm(x + self.dropout(self.cross_output(mixed)))
        update = self.down(functional.gelu(self.up(x)))
        return self.feed_forward_norm(x + self.dropout(update)), (key, value), seen

    def _attend(
        self, query: torch.Tensor, source: Pair, mask: torch.Tensor | None
    ) -> torch.Tensor:
        rate = self.dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            query, *source, attn_mask=mask, dropout_p=rate
        )
        return merge_heads(mixed)


def _weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Who looks where: ``(B, H, T, S)``, rows of sum 1; torch's fused attention keeps none."""
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1)


@dataclass
class Kept:
    """What a decoder keeps between steps.

    Attributes:
        source: Keys and values of the source, for each block.
        mask: ``(B, 1, 1, S)``: which tokens of the source are no padding.
        past: Keys and values of the target so far, for each block; empty at the start.
    """

    source: list[Pair]
    mask: torch.Tensor | None
    past: list[Pair]

    @property
    def length(self) -> int:
        """Tokens of the target so far."""
        return self.past[0][0].shape[2] if self.past else 0

    def rows(self, chosen: torch.Tensor) -> Kept:
        """The same for a selection of rows ``(n,)``, which may repeat."""
        mask = None if self.mask is None else self.mask[chosen]
        return Kept(_take(self.source, chosen), mask, self.past).going_on(chosen)

    def going_on(self, chosen: torch.Tensor) -> Kept:
        """Other beginnings of the targets, for sources that stay where they are."""
        return Kept(self.source, self.mask, _take(self.past, chosen))


def _take(pairs: list[Pair], rows: torch.Tensor) -> list[Pair]:
    return [(key[rows], value[rows]) for key, value in pairs]


class Part(nn.Module):
    """Positions, norm and blocks of the encoder or of the decoder."""

    def __init__(
        self,
        block: type[EncoderBlock],
        layers: int,
        max_length: int,
        width: int,
        heads: int,
        feed_forward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.position = nn.Embedding(max_length, width)
        self.norm = nn.LayerNorm(width, EPS)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            block(width, heads, feed_forward, dropout, EPS) for _ in range(layers)
        )

    def start(self, x: torch.Tensor, past: int = 0) -> torch.Tensor:
        """Embedded tokens ``(B, T, D)`` with the places that they stand at."""
        end = past + x.shape[1]
        check_length(end, self.position.num_embeddings)
        return self.dropout(self.norm(x + self.position.weight[past:end]))
