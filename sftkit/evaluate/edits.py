"""Edit distance, and the error rates of spelling to phonemes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sftkit.errors import ParameterError
from sftkit.evaluate.intervals import bootstrap


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The fewest items to insert, delete or replace that make ``b`` of ``a`` (Levenshtein
    1966), in O(len(a) len(b))."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


@dataclass(frozen=True)
class ErrorRates:
    """Phoneme and word error rate, ``(value, low, high)`` each, as shares.

    Attributes:
        rows: ``(N, 4)``: edits, phonemes of the closest variant, 1 if wrong, 1.
    """

    phonemes: tuple[float, float, float]
    words: tuple[float, float, float]
    rows: np.ndarray


def error_rates(
    guesses: Sequence[str], variants: Sequence[Sequence[str]], seed: int = 0
) -> ErrorRates:
    """Score pronunciations against all that a dictionary allows.

    A guess is compared with the variant that takes fewest edits. The phoneme error rate is the
    sum of edits over the sum of these variants' phonemes; the word error rate is the share of
    guesses that are no variant. Intervals are a 95 % bootstrap over words.

    Args:
        guesses: Phonemes parted by blanks; may be empty.
        variants: For each, the right ones, at least one.
    """
    if len(guesses) != len(variants) or not len(guesses):
        raise ParameterError(f"{len(guesses)} guesses for {len(variants)} words.", "Give one.")
    rows = []
    for guess, right in zip(guesses, variants, strict=True):
        spoken = guess.split()
        edits, length = min((edit_distance(spoken, v.split()), len(v.split())) for v in right)
        rows.append((edits, length, edits > 0, 1))
    sums = np.array(rows, dtype=np.float64)
    by_phoneme, by_word = (
        bootstrap(sums[:, [k, k + 1]], lambda s: s[..., 0] / s[..., 1], seed=seed)
        for k in (0, 2)
    )
    return ErrorRates(by_phoneme, by_word, sums)
