"""Is one model better than another on the same examples?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from sftkit.errors import ParameterError
from sftkit.evaluate.intervals import REPLICATES


@dataclass(frozen=True)
class Difference:
    """How much better the first of two models is on the same examples, in points.

    Attributes:
        points: Measure of the first less that of the second, times 100.
        low, high: Ends of the 95 % interval (paired bootstrap).
    """

    points: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        verdict = "clear" if self.clear else "not clear"
        interval = f"{self.low:+.1f} to {self.high:+.1f}"
        return f"{self.points:+.1f} points (95 % interval {interval}, {verdict})"


@dataclass(frozen=True)
class Comparison(Difference):
    """The difference in accuracy, and the examples behind it.

    Attributes:
        p_value: Exact McNemar test: how likely such a split of the disagreements is if
            both were equally good.
        only_first, only_second: Examples that just one of them has right.
    """

    p_value: float
    only_first: int
    only_second: int

    def __str__(self) -> str:
        return (
            f"{super().__str__()}; only the first is right on {self.only_first} examples, "
            f"only the second on {self.only_second}"
        )


def compare(
    first: Sequence[int] | np.ndarray,
    second: Sequence[int] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    seed: int = 0,
) -> Comparison:
    """Compare the predicted classes of two models on the same examples.

    Pairing removes what makes an example easy or hard for both, so the interval is narrower
    than the two models' own intervals suggest.
    """
    a, b, y = np.asarray(first), np.asarray(second), np.asarray(labels)
    if not len(a) == len(b) == len(y) > 0:
        raise ParameterError(
            f"{len(a)}, {len(b)} predictions and {len(y)} labels.",
            "Both models must predict the same examples, at least one.",
        )
    difference = (a == y).astype(int) - (b == y).astype(int)  # +1, 0 or -1 per example
    n = len(y)
    wins, losses = int((difference == 1).sum()), int((difference == -1).sum())
    # Drawing examples with replacement draws the three counts from a multinomial.
    shares = [wins / n, losses / n, 1 - (wins + losses) / n]
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=REPLICATES)
    low, high = np.quantile(100 * (drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    points = 100 * (wins - losses) / n
    p_value = mcnemar(wins, losses)
    return Comparison(points, float(low), float(high), p_value, wins, losses)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided test of "both models are equally good" (McNemar 1947).

    If they are, each disagreement is a toss of a fair coin.

    Args:
        only_first, only_second: Examples that just the first, or just the second, has right.

    Returns:
        How likely a split at least as uneven is; 1.0 when the models never disagree.
    """
    if min(only_first, only_second) < 0:
        raise ParameterError(
            f"counts {only_first} and {only_second}.", "Counts of examples are 0 or more."
        )
    if not only_first + only_second:
        return 1.0
    return float(binomtest(int(only_first), int(only_first + only_second)).pvalue)
