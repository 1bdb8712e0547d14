"""Words and how they are spoken: the CMU pronouncing dictionary, without stress.

Each word is one row. Where it is spoken in several ways, the first is the target, and all are
in ``variants``: a guess is right if it is one of them. ``abbot`` and ``abbot's`` stay on one
side; other relatives (``abandon``, ``abandoned``) do not, as in the published splits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sftkit.corpora import parts

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SHARE = 0.05  # of the words for validation, and again for test
_VARIANT = re.compile(r"\(\d+\)$")
_STRESS = re.compile(r"\d")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


@dataclass
class Entry:
    """A word, its first pronunciation, and all of them; phonemes are parted by blanks."""

    source: str
    target: str
    variants: list[str] = field(default_factory=list)


def load(*, limit: int | None = None, seed: int = 0) -> DatasetDict:
    """Words with their phonemes; the splits are fixed.

    Args:
        limit: Training words. A smaller limit gives a part of a larger one; without a limit
            they stay in the dictionary's order.
        seed: Which training words a limit takes.

    Returns:
        Splits with columns ``source``, ``target`` and ``variants``.
    """
    from sftkit import assets

    parts.check_limit(limit)
    made = parts.cached("pronunciations", (assets.catalogue()["cmudict"].recipe,), _made)
    if limit is not None:
        words = made["train"].select_columns("source")[:]["source"]
        made["train"] = made["train"].select(parts.order(words, limit, seed))
    return made


def entries() -> tuple[list[Entry], int]:
    """The words of the dictionary, and how many of other characters were left out."""
    from sftkit import assets

    found: dict[str, Entry] = {}
    others: set[str] = set()
    for line in (assets.path("cmudict") / "cmudict.dict").read_text("utf-8").splitlines():
        word, _, phonemes = line.partition("#")[0].strip().partition(" ")
        word = _VARIANT.sub("", word)
        if not _WORD.fullmatch(word):
            others.add(word)
            continue
        spoken = _STRESS.sub("", phonemes)
        entry = found.setdefault(word, Entry(word, spoken))
        if spoken not in entry.variants:  # two may differ in stress alone
            entry.variants.append(spoken)
    return list(found.values()), len(others)


def _made() -> DatasetDict:
    words, others = entries()
    number: dict[str, int] = {}
    groups = [number.setdefault(w.source.removesuffix("'s"), len(number)) for w in words]
    notes = [
        f"{others:,} entries with hyphens, full stops or digits are left out.",
        f"{sum(len(w.variants) > 1 for w in words):,} words are spoken in several ways.",
    ]
    found = parts.finished(
        {"train": words}, {"train": groups}, lambda w: w.source, notes, what="words",
        share=SHARE, seed=0,
    )  # fmt: skip
    return parts.dataset(found, from_entries, what="Words", name="cmudict", notes=notes)


def from_entries(rows: Sequence[Entry]) -> Dataset:
    """Entries as a data set with the columns of `load`."""
    from datasets import Dataset, Features, List, Value

    text = Value("string")
    features = Features(source=text, target=text, variants=List(text))
    columns = {name: [getattr(row, name) for row in rows] for name in features}
    return Dataset.from_dict(columns, features=features)
