"""BLEU and chrF with intervals, and whether placeholders survive.

The scores are sacreBLEU's (Post 2018), with its tokenizers and defaults. Both follow from sums
over sentences (n-grams that match, n-grams there are), so the bootstrap draws sentences, or
families of them, and computes the score of each draw from its sums (Koehn 2004).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sftkit.corpora import placeholders
from sftkit.errors import ParameterError
from sftkit.evaluate.compare import Difference
from sftkit.evaluate.intervals import bootstrap

ORDER = 4  # of BLEU's n-grams of tokens
CHARACTERS = 6  # of chrF's n-grams of characters
BETA = 2  # chrF's weight of recall


def tokenizer_of(language: str) -> str:
    """sacreBLEU's tokenizer for a target language.

    ``zh`` parts Chinese characters and keeps other words whole. Japanese is cut into words by
    a program of its own that is not installed here, so single characters are compared.
    """
    code = language.replace("_", "-").partition("-")[0].lower()
    return {"zh": "zh", "ja": "char", "ko": "char", "th": "char"}.get(code, "13a")


def bleu_sums(
    guesses: Sequence[str], references: Sequence[str], tokenize: str = "13a"
) -> np.ndarray:
    """``(N, 10)``: tokens of the guess and of the reference, matches and n-grams of 1 to 4."""
    from sacrebleu.metrics import BLEU

    _check(guesses, references)
    cut = BLEU(tokenize=tokenize).tokenizer
    rows = []
    for guess, reference in zip(guesses, references, strict=True):
        a, b = cut(guess.rstrip()).split(), cut(reference.rstrip()).split()
        matches, totals = [], []
        for n in range(1, ORDER + 1):
            mine, theirs = _ngrams(a, n), _ngrams(b, n)
            matches.append((mine & theirs).total())
            totals.append(mine.total())
        rows.append([len(a), len(b), *matches, *totals])
    return np.array(rows, dtype=np.float64)


def bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU, 0 to 100, of summed statistics ``(..., 10)``.

    With sacreBLEU's smoothing: the k-th order without a match counts as half of the one before
    it would with a single match (2 to the -k).
    """
    sums = np.asarray(sums, dtype=np.float64)
    lengths, right = sums[..., :2], sums[..., 2 : 2 + ORDER]
    total = sums[..., 2 + ORDER :]
    none = right == 0
    halved = 0.5 ** np.cumsum(none, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(none, halved, right) / total
        brevity = np.minimum(1.0, np.exp(1 - lengths[..., 1] / lengths[..., 0]))
        score = 100 * brevity * np.exp(np.log(precision).mean(axis=-1))
    # Without any match, or without n-grams of an order, there is nothing to average.
    empty = none.all(axis=-1) | (total == 0).any(axis=-1)
    return np.where(empty, 0.0, score)


def chrf_sums(guesses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """``(N, 18)``: for 1 to 6 characters, n-grams of the guess, of the reference, matches.

    Blanks are left out, as in chrF.
    """
    _check(guesses, references)
    rows = []
    for guess, reference in zip(guesses, references, strict=True):
        a, b = "".join(guess.split()), "".join(reference.split())
        row: list[int] = []
        for n in range(1, CHARACTERS + 1):
            mine, theirs = _ngrams(a, n), _ngrams(b, n)
            row += [mine.total() if theirs else 0, theirs.total(), (mine & theirs).total()]
        rows.append(row)
    return np.array(rows, dtype=np.float64)


def chrf(sums: np.ndarray) -> np.ndarray:
    """chrF (Popović 2015), 0 to 100, of summed statistics ``(..., 18)``: F2 of mean precision
    and mean recall over the orders that both sides have."""
    sums = np.asarray(sums, dtype=np.float64)
    mine, theirs, right = (sums[..., k::3] for k in range(3))
    both = (mine > 0) & (theirs > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    precision = np.where(both, right / np.maximum(mine, 1), 0.0).sum(axis=-1) / orders
    recall = np.where(both, right / np.maximum(theirs, 1), 0.0).sum(axis=-1) / orders
    below = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1.0)


def _ngrams(items: Sequence[Any], n: int) -> Counter[Any]:
    return Counter(tuple(items[i : i + n]) for i in range(len(items) - n + 1))


def _check(guesses: Sequence[str], references: Sequence[str]) -> None:
    if len(guesses) != len(references) or not len(guesses):
        raise ParameterError(
            f"{len(guesses)} translations for {len(references)} references.",
            "Give one for each, at least one.",
        )


@dataclass(frozen=True)
class TranslationReport:
    """BLEU and chrF, ``(value, low, high)`` each, from 0 to 100.

    Attributes:
        sums: By score, what each family adds to its statistics.
    """

    bleu: tuple[float, float, float]
    chrf: tuple[float, float, float]
    sums: dict[str, np.ndarray]

    def as_metrics(self) -> dict[str, dict[str, float]]:
        """For a run's record."""
        names = ("value", "low", "high")
        pairs = (("bleu", self.bleu), ("chrf", self.chrf))
        return {name: dict(zip(names, value, strict=True)) for name, value in pairs}


_SCORES = {"bleu": bleu, "chrf": chrf}


def translation_report(
    guesses: Sequence[str],
    references: Sequence[str],
    tokenize: str = "13a",
    families: Sequence[int] | None = None,
    seed: int = 0,
) -> TranslationReport:
    """BLEU and chrF with 95 % bootstrap intervals.

    Args:
        tokenize: See `tokenizer_of`.
        families: Sentences of one family are drawn together: they are right or wrong together.
            Each is its own unless given.
    """
    rows = {"bleu": bleu_sums(guesses, references, tokenize)}
    rows["chrf"] = chrf_sums(guesses, references)
    groups = np.arange(len(guesses)) if families is None else np.asarray(families)
    _, place = np.unique(groups, return_inverse=True)
    sums, found = {}, {}
    for name, part in rows.items():
        sums[name] = np.zeros((place.max() + 1, part.shape[1]))
        np.add.at(sums[name], place, part)
        found[name] = bootstrap(sums[name], _SCORES[name], seed=seed)
    return TranslationReport(found["bleu"], found["chrf"], sums)


def gain(
    first: TranslationReport, second: TranslationReport, score: str = "bleu", seed: int = 0
) -> Difference:
    """How much better the first is, in points of BLEU or chrF (paired bootstrap)."""
    a, b = first.sums[score], second.sums[score]
    if a.shape != b.shape:
        raise ParameterError("two reports on other sentences.", "Give the same ones.")
    return Difference(*bootstrap(a, _SCORES[score], b, seed=seed))


@dataclass(frozen=True)
class Kept:
    """What became of placeholders, tags, addresses and mnemonics.

    Attributes:
        texts: Sources that have any.
        right: Of these, translations that have just the same.
        there, lost, invented: Their number in the sources; how many of them are missing; how
            many are in translations and not in their source (of all texts).
    """

    texts: int
    right: int
    there: int
    lost: int
    invented: int


def kept(sources: Sequence[str], guesses: Sequence[str]) -> Kept:
    """Count what translations must carry over (`placeholders.must_keep`)."""
    texts = right = there = lost = invented = 0
    for source, guess in zip(sources, guesses, strict=True):
        wanted, found = placeholders.must_keep(source), placeholders.must_keep(guess)
        texts += bool(wanted)
        right += bool(wanted) and wanted == found
        there += wanted.total()
        lost += (wanted - found).total()
        invented += (found - wanted).total()
    return Kept(texts, right, there, lost, invented)


class Nearest:
    """A baseline that knows much and learns nothing: the translation of the most similar
    training source, by cosine of TF-IDF vectors of its pieces of words.

    Args:
        sources, targets: Of training pairs.
        longest: Of the pieces, in characters; validation should choose.
    """

    def __init__(
        self, sources: Sequence[str], targets: Sequence[str], longest: int = 5
    ) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vectors = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, longest), sublinear_tf=True
        )
        self.held = self.vectors.fit_transform(sources)
        self.targets = list(targets)

    def translate(self, texts: Sequence[str]) -> list[str]:
        """The best training translation for each text."""
        similar = self.vectors.transform(texts) @ self.held.T
        best = np.asarray(similar.argmax(axis=1)).ravel()
        return [self.targets[at] for at in best]
