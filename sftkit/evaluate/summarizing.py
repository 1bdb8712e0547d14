"""Summaries judged: ROUGE with intervals, length, repetition, copying, what is invented.

ROUGE (Lin 2004) is that of the package ``rouge-score``: words in lower case, stemmed, F1. A
high ROUGE says that the words are those of the reference. It does not say that the summary is
true: `invented` counts names and numbers that the text does not have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sftkit.errors import ParameterError
from sftkit.evaluate.compare import Difference
from sftkit.evaluate.intervals import bootstrap

KINDS = ("rouge1", "rouge2", "rougeL")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"(?<![\w.])\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")
_TOKEN = re.compile(r"(?<!\w)[^\W\d]\w*(?:\.\w+)*")
_CONSTANTS = {"True", "False", "None"}
_BEGIN = re.compile(r"(?:^|[.!?]\s)[\W_]*$")  # what stands before a sentence's first word


@lru_cache(maxsize=1)
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(KINDS), use_stemmer=True)


def rouge(guesses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """``(N, 3)``: F1 of ROUGE-1, ROUGE-2 and ROUGE-L of each summary, 0 to 1."""
    if len(guesses) != len(references) or not len(references):
        raise ParameterError(
            f"{len(guesses)} summaries for {len(references)} references.", "Give one for each."
        )
    found = []
    for guess, reference in zip(guesses, references, strict=True):
        by_kind = _scorer().score(reference, guess)
        found.append([by_kind[kind].fmeasure for kind in KINDS])
    return np.array(found)


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def repetition(summary: str, n: int = 2) -> float:
    """The share of n-grams that stood in the summary before, 0 to 1."""
    grams = _grams(words(summary), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def novelty(summary: str, text: str, n: int = 1) -> float:
    """The share of the summary's n-grams that the text does not have (See et al. 2017)."""
    grams = _grams(words(summary), n)
    held = set(_grams(words(text), n))
    return sum(gram not in held for gram in grams) / len(grams) if grams else 0.0


def _grams(found: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def fragments(summary: str, text: str) -> list[int]:
    """Lengths, in words, of the pieces that were copied (Grusky, Naaman and Artzi 2018).

    From left to right, the longest piece of the summary that occurs in the text is taken off.
    """
    said, held = words(summary), words(text)
    places: dict[str, list[int]] = {}
    for at, word in enumerate(held):
        places.setdefault(word, []).append(at)
    found, i = [], 0
    while i < len(said):
        longest = 0
        for j in places.get(said[i], []):
            k = 0
            while i + k < len(said) and j + k < len(held) and said[i + k] == held[j + k]:
                k += 1
            longest = max(longest, k)
        if longest:
            found.append(longest)
        i += max(1, longest)
    return found


def coverage(summary: str, text: str) -> float:
    """The share of the summary's words that stand in copied pieces, 0 to 1."""
    count = len(words(summary))
    return sum(fragments(summary, text)) / count if count else 0.0


def density(summary: str, text: str) -> float:
    """The mean length of the copied piece that a word of the summary stands in."""
    count = len(words(summary))
    return sum(length**2 for length in fragments(summary, text)) / count if count else 0.0


def facts(text: str) -> list[str]:
    """Numbers, and words written like names: ``max_iter``, ``DataFrame``, ``a.b``, ``L2``.

    A word with only its first letter as a capital is a name unless it begins a sentence;
    ``True``, ``False`` and ``None`` are none.
    """
    return _NUMBER.findall(text) + [
        found.group() for found in _TOKEN.finditer(text) if _is_name(text, found)
    ]


def _is_name(text: str, found: re.Match[str]) -> bool:
    word = found.group()
    if word in _CONSTANTS:
        return False
    if re.search(r"[_.\d]", word) or re.search("[A-Z]", word[1:]):
        return True
    before = text[max(0, found.start() - 20) : found.start()]
    return len(word) > 1 and word[0].isupper() and not _BEGIN.search(before)


def invented(summary: str, text: str) -> list[str]:
    """The facts of a summary that its text does not have.

    What is found need not be false, but a reader of the text alone cannot know it.
    """
    held = set(words(text))
    return [fact for fact in facts(summary) if not set(words(fact)) <= held]


@dataclass(frozen=True)
class SummaryReport:
    """How good some summaries are.

    Attributes:
        rouge: ``(N, 3)``, as from `rouge`.
        length: Mean words of the summaries over mean words of the references.
        repeated: Mean share of repeated bigrams.
        coverage: Mean share of words in copied pieces.
        novel: Mean share of bigrams that the text does not have.
        unsupported: Share of summaries with an invented name or number.
        groups: ``(N,)``: what the bootstrap draws; texts of one group stand or fall together.
    """

    rouge: np.ndarray
    length: float
    repeated: float
    coverage: float
    novel: float
    unsupported: float
    groups: np.ndarray

    def interval(self, kind: str = "rougeL", seed: int = 0) -> tuple[float, float, float]:
        """Mean ROUGE of a kind with its 95 % interval, times 100."""
        sums = _by_group(self.rouge[:, KINDS.index(kind)], self.groups)
        value, low, high = bootstrap(sums, _mean, seed=seed)
        return 100 * value, 100 * low, 100 * high

    def as_metrics(self) -> dict[str, Any]:
        """For a run's record."""
        names = ("value", "low", "high")
        kinds = {k: dict(zip(names, self.interval(k), strict=True)) for k in KINDS}
        others = ("length", "repeated", "coverage", "novel", "unsupported")
        return kinds | {k: getattr(self, k) for k in others} | {"n": len(self.rouge)}


def summary_report(
    guesses: Sequence[str],
    references: Sequence[str],
    texts: Sequence[str],
    groups: Sequence[str] | None = None,
) -> SummaryReport:
    """All measures of some summaries.

    Args:
        texts: What was summarized.
        groups: Names of what belongs together, such as classes of a library; without, each
            text is alone.
    """
    scores = rouge(guesses, references)
    number: dict[str, int] = {}
    names = [str(at) for at in range(len(texts))] if groups is None else list(groups)
    pairs = list(zip(guesses, texts, strict=True))

    def mean(measure: Callable[[str, str], float]) -> float:
        return float(np.mean([measure(guess, text) for guess, text in pairs]))

    given, wanted = (sum(len(words(t)) for t in side) for side in (guesses, references))
    return SummaryReport(
        scores,
        given / max(1, wanted),
        mean(lambda guess, text: repetition(guess)),
        mean(coverage),
        mean(lambda guess, text: novelty(guess, text, 2)),
        mean(lambda guess, text: float(bool(invented(guess, text)))),
        np.array([number.setdefault(name, len(number)) for name in names]),
    )


def rouge_gain(
    first: SummaryReport, second: SummaryReport, kind: str = "rougeL", seed: int = 0
) -> Difference:
    """ROUGE of the first less that of the second on the same texts, in points."""
    if not np.array_equal(first.groups, second.groups):
        raise ParameterError("two reports on other texts.", "Give the same ones.")
    at = KINDS.index(kind)
    sums = [_by_group(report.rouge[:, at], report.groups) for report in (first, second)]
    found = bootstrap(sums[0], _mean, sums[1], seed=seed)
    return Difference(*(100 * value for value in found))


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def _by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sum and count per group, ``(groups, 2)``."""
    return np.column_stack([np.bincount(groups, values), np.bincount(groups)])
