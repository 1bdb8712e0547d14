"""How many test examples it takes to see a difference between two models.

Two models answer the same examples. Let ``d`` be +1 where only the first is right, -1 where
only the second is, and 0 where they agree. Its mean is the difference in accuracy, and its
variance the share of disagreements less the difference squared. A test of "no difference"
then has a normal approximation (Connor 1987, "Sample size for testing differences in
proportions for the paired-sample design"). It is good from some 20 expected disagreements on.
"""

from __future__ import annotations

import math

from scipy.stats import norm

from sftkit.errors import ParameterError


def power(n: int, difference: float, disagreement: float, level: float = 0.05) -> float:
    """How often a paired test on ``n`` examples sees a true difference.

    Args:
        n: Test examples.
        difference: True difference in accuracy, as a share (0.01 for a point).
        disagreement: Share of examples that just one of the two models has right.
        level: Of the two-sided test.
    """
    _check(difference, disagreement, level)
    if n < 1:
        raise ParameterError(f"n={n}.", "Give at least one example.")
    d, spread = abs(difference), _spread(difference, disagreement)
    reach = math.sqrt(n) * d - norm.isf(level / 2) * math.sqrt(disagreement)
    return float(norm.cdf(reach / spread)) if spread else float(reach >= 0)


def examples_needed(
    difference: float, disagreement: float, power: float = 0.8, level: float = 0.05
) -> int:
    """Test examples with which a paired test sees a true difference as often as wanted.

    Args:
        difference, disagreement, level: As in `power`.
        power: How often, between 0 and 1.
    """
    _check(difference, disagreement, level)
    if not 0 < power < 1:
        raise ParameterError(f"power={power}.", "It must be between 0 and 1.")
    under_none = norm.isf(level / 2) * math.sqrt(disagreement)
    under_true = norm.ppf(power) * _spread(difference, disagreement)
    return max(1, math.ceil(((under_none + under_true) / difference) ** 2))


def _spread(difference: float, disagreement: float) -> float:
    return math.sqrt(max(disagreement - difference**2, 0.0))


def _check(difference: float, disagreement: float, level: float) -> None:
    if not 0 < abs(difference) <= disagreement <= 1:
        raise ParameterError(
            f"difference={difference}, disagreement={disagreement}.",
            "Both are shares. Models that differ by d disagree on a share of at least d: "
            "0 < |difference| <= disagreement <= 1.",
        )
    if not 0 < level < 1:
        raise ParameterError(f"level={level}.", "It must be between 0 and 1.")
