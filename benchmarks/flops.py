"""How far from the machine's limit: matrix-product FLOPs of training, and the limit itself.

A product of an (m, k) with a (k, n) matrix is ``2 * m * n * k`` FLOPs: a multiplication and
an addition per term. For a BERT-type encoder with width D, inner width F, batches of B
examples padded to T tokens (N = B * T positions), the products of a forward pass are

==========================  =====================  =====================================
per block                   shapes                 FLOPs
==========================  =====================  =====================================
query, key, value, output   (N, D) @ (D, D), 4x    ``4 * 2 * N * D * D``
feed-forward, up and down   (N, D) @ (D, F), 2x    ``2 * 2 * N * D * F``
scores and weighted values  (T, d) @ (d, T) for    ``2 * 2 * B * T * T * D``
                            each of B * H heads
==========================  =====================  =====================================

and on the first token of each example the pooler, ``2 * B * D * D``, and the classifier,
``2 * B * D * C``. Backward, every product Y = X W gives two of the same size: dX = dY W'
and dW = X' dY. So training costs three times the forward pass, less what is frozen: a
frozen block below all trained ones has no backward pass at all, and the lowest trained
block has no dX for its query, key and value when nothing below it learns. The table of word
embeddings is looked up, not multiplied: freezing it saves no product.

Element-wise work (normalization, GELU, dropout, the optimizer) is not counted. It is what
keeps a program from the limit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sizes:
    """A BERT-type classifier: width, inner width, blocks, attention heads, classes."""

    width: int
    inner: int
    blocks: int
    heads: int
    classes: int

    @classmethod
    def of(cls, config) -> Sizes:
        """From a transformers configuration."""
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_labels,
        )


def block_flops(sizes: Sizes, examples: int, tokens: int) -> int:
    """Forward pass of one block for ``examples`` padded to ``tokens``."""
    positions = examples * tokens
    linear = 4 * 2 * positions * sizes.width**2 + 2 * 2 * positions * sizes.width * sizes.inner
    return linear + 2 * 2 * examples * tokens**2 * sizes.width


def last_block_flops(sizes: Sizes, examples: int, tokens: int) -> int:
    """The last block where only the first token's output is computed: keys and values of
    all positions, the rest of one position per example (`models.skip_unread`)."""
    width, positions = sizes.width, examples * tokens
    keys_and_values = 2 * 2 * positions * width**2
    rest = 2 * 2 * examples * width**2 + 2 * 2 * examples * width * sizes.inner
    return keys_and_values + rest + 2 * 2 * examples * tokens * width


def step_flops(
    sizes: Sizes, examples: int, tokens: int, cached_blocks: int = 0, skipped: bool = False
) -> int:
    """Forward and backward pass of one batch.

    Args:
        cached_blocks: Frozen blocks at the bottom whose output was computed before.
        skipped: Whether the last block leaves out what the head does not read.
    """
    trained = sizes.blocks - cached_blocks
    blocks = trained * block_flops(sizes, examples, tokens)
    if skipped and trained:
        blocks += last_block_flops(sizes, examples, tokens)
        blocks -= block_flops(sizes, examples, tokens)
    head = 2 * examples * sizes.width * (sizes.width + sizes.classes)
    flops = 3 * (blocks + head)
    if cached_blocks:  # no gradient for the inputs of the lowest trained block
        queries = examples if skipped and trained == 1 else examples * tokens
        flops -= 2 * (queries + 2 * examples * tokens) * sizes.width**2
    return flops


def training_flops(
    sizes: Sizes,
    shapes: Iterable[tuple[int, int]],
    cached_blocks: int = 0,
    skipped: bool = False,
) -> int:
    """All steps of a run, whose batches had these shapes ``(examples, tokens)``."""
    return sum(step_flops(sizes, b, t, cached_blocks, skipped) for b, t in shapes)


def caching_flops(sizes: Sizes, shapes: Iterable[tuple[int, int]], cached_blocks: int) -> int:
    """The one forward pass through the frozen blocks that fills the cache."""
    return sum(cached_blocks * block_flops(sizes, b, t) for b, t in shapes)


def machine_limit(sizes: Sizes, shapes: list[tuple[int, int]], seconds: float = 0.05) -> float:
    """Measured GFLOP/s of matrix products at the shapes of a run, weighted by their FLOPs.

    The products of one block, forward and backward, are timed by themselves at three batch
    shapes: the 10th, 50th and 90th percentile of the run's batches by size. Each is
    repeated for ``seconds`` and its fastest repetition counts, so this is the limit and not
    the mood of the machine.
    """
    by_size = sorted(shapes, key=lambda shape: shape[0] * shape[1])
    flops, time_needed = 0.0, 0.0
    for share in (0.1, 0.5, 0.9):
        examples, tokens = by_size[round(share * (len(by_size) - 1))]
        n, d, f = examples * tokens, sizes.width, sizes.inner
        heads, part = examples * sizes.heads, sizes.width // sizes.heads
        products = {  # (batch, m, k, n): how often per block, forward and backward
            (1, n, d, d): 8,
            (1, d, n, d): 4,
            (1, n, d, f): 2,
            (1, n, f, d): 2,
            (1, f, n, d): 1,
            (1, d, n, f): 1,
            (heads, tokens, part, tokens): 2,
            (heads, tokens, tokens, part): 4,
        }
        for (batch, m, k, columns), times in products.items():
            flops += times * 2 * batch * m * k * columns
            time_needed += times * _fastest(batch, m, k, columns, seconds)
    return flops / time_needed / 1e9


def _fastest(batch: int, m: int, k: int, n: int, seconds: float) -> float:
    shape = () if batch == 1 else (batch,)
    a, b = torch.randn(*shape, m, k), torch.randn(*shape, k, n)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.matmul(a, b)
        best = min(best, time.perf_counter() - start)
    return best
