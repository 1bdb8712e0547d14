"""Intervals: of a share in closed form, of any metric that is made of sums by the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binomtest, t

from sftkit.errors import ParameterError

REPLICATES = 4000
CELLS = 4_000_000  # numbers drawn at a time, to bound memory


def wilson(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) for a share, such as an accuracy.

    It keeps its coverage where the share is near 0 or 1, where "value plus or minus two
    standard errors" does not.

    Args:
        right: How many of the ``n`` examples are right.
        level: How often such an interval should hold the true share.
    """
    if not 0 <= right <= n or n < 1:
        raise ParameterError(f"{right} right of {n}.", "Give 0 <= right <= n, and n from 1.")
    ends = binomtest(int(right), int(n)).proportion_ci(level, method="wilson")
    return float(ends.low), float(ends.high)


def mean_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of a few independent values, such as scores by seed, and its t interval.

    For two recipes give the differences, seed by seed: what a seed does to both cancels out.
    The interval (Student 1908) supposes values that spread evenly about their mean.

    Args:
        values: At least two.
        level: How often such an interval should hold the true mean.

    Returns:
        ``(mean, low, high)``; the interval has no width when all values are equal.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ParameterError(
            f"{x.size} values of shape {x.shape}.",
            "Give at least two finite numbers: one run has no spread.",
        )
    half = t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    mean = float(x.mean())
    return mean, float(mean - half), float(mean + half)


def bootstrap(
    sums: np.ndarray,
    metric: Callable[[np.ndarray], np.ndarray],
    other: np.ndarray | None = None,
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> tuple[float, float, float]:
    """Value and 95 % percentile interval of a metric of sums over examples (Efron 1979).

    F1 over entities, BLEU, perplexity and accuracy all follow from sums over examples: of
    right, predicted and true entities, of matched and possible n-grams, of losses and tokens.
    Drawing N examples with replacement then means counting each example 0, 1, 2, ... times.

    Args:
        sums: ``(N, K)``: what each example adds to the K sums.
        metric: From sums ``(..., K)`` to values ``(...)``.
        other: ``(N, K)`` of a second model on the same examples. The result is then the
            difference, first less second, with both drawn together (paired).
        seed: Of the drawing.
        replicates: How many times to draw.

    Returns:
        ``(value, low, high)``.
    """
    parts = [np.asarray(part, dtype=np.float64) for part in (sums, other) if part is not None]
    shapes = {part.shape for part in parts}
    if len(shapes) > 1 or parts[0].ndim != 2 or not len(parts[0]):
        raise ParameterError(
            f"sums of shape {' and '.join(map(str, (part.shape for part in parts)))}.",
            "Give one row per example (N, K), the same for both models, at least one.",
        )
    n, k = parts[0].shape
    together = np.concatenate(parts, axis=1)
    generator, drawn = np.random.default_rng(seed), []
    at_once = max(1, CELLS // n)
    for start in range(0, replicates, at_once):
        size = min(at_once, replicates - start)
        rows = generator.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(rows.ravel(), minlength=size * n).reshape(size, n)
        drawn.append(counts.astype(np.float64) @ together)

    def value(total: np.ndarray) -> np.ndarray:
        first = metric(total[..., :k])
        return first - metric(total[..., k:]) if other is not None else first

    low, high = np.quantile(value(np.concatenate(drawn)), [0.025, 0.975])
    return float(value(together.sum(axis=0))), float(low), float(high)
