"""Long texts with short summaries: the documentation of installed libraries, or the user's own.

``load("docstring-summaries")`` takes the first lines of docstrings as summaries of what
follows them. Its splits are by library, so that a test text is about a library that training
never saw. Docstrings are inherited and copied, within a library and from one to another: no
near-copy of a test text, and no summary of one, is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from sftkit.corpora import docstrings, duplicates, parts, split
from sftkit.corpora.summary_texts import Summarized, of_docstring

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NAME = "docstring-summaries"
LIBRARIES = {
    "train": ("numpy", "scipy", "networkx", "sympy", "torch"),
    "validation": ("matplotlib", "optuna"),
    "test": ("sklearn", "pandas"),
}


def load(
    name_or_path: str | Path = NAME, *, limit: int | None = None, seed: int = 0
) -> DatasetDict:
    """Texts with summaries, split so that no near-copy of a test text is trained on.

    Args:
        name_or_path: ``docstring-summaries``.
        limit: Training texts. A smaller limit gives a part of a larger one.
        seed: Which training texts a limit takes.

    Returns:
        Splits ``train``, ``validation`` and ``test`` with the columns of
        `summary_texts.Summarized`. `corpora.notes` tells what was done.

    Raises:
        CorpusError: With what is wrong, and what to do.
    """
    parts.check_limit(limit)
    parts_of = [library for names in LIBRARIES.values() for library in names]
    versions = {library: docstrings.version(library) for library in parts_of}
    data = parts.cached("summaries", (str(name_or_path), versions), _embedded)
    keys = [f"{row['title']} {row['summary']}" for row in data["train"]]
    data["train"] = data["train"].select(parts.order(keys, limit, seed))
    return data


def _embedded() -> DatasetDict:
    notes: list[str] = []
    found: dict[str, list[Summarized]] = {}
    for name, libraries in LIBRARIES.items():
        docs = [doc for library in libraries for doc in docstrings.read(library)]
        made = [row for doc in docs if (row := of_docstring(doc))]
        found[name] = _first_of_each(made)
        said = ", ".join(f"{x} {docstrings.version(x)}" for x in libraries)
        notes.append(
            f"{name}: {said}; {len(docs):,} docstrings, {len(made):,} with a summary and a "
            f"text, {len(found[name]):,} different ones."
        )
    groups = parts.near_copies(found, lambda row: row.text)
    found = parts.finished(
        found, groups, lambda row: row.text, notes, what="texts", share=0.0, seed=0
    )
    later: set[str] = set()
    for name in reversed(split.SPLITS):
        kept = [row for row in found[name] if duplicates.normal_form(row.summary) not in later]
        if left_out := len(found[name]) - len(kept):
            notes.append(f"{name}: {left_out:,} with a summary of a later split left out.")
        later |= {duplicates.normal_form(row.summary) for row in kept}
        found[name] = kept
    return parts.dataset(found, from_rows, what="Texts with summaries", name=NAME, notes=notes)


def _first_of_each(rows: Sequence[Summarized]) -> list[Summarized]:
    """One row per group of near-copies: what is inherited by thirty classes counts once."""
    groups = duplicates.near_groups(f"{row.summary} {row.text}" for row in rows)
    firsts: dict[int, Summarized] = {}
    for row, group in zip(rows, groups.tolist(), strict=True):
        firsts.setdefault(int(group), row)
    return list(firsts.values())


def from_rows(rows: Sequence[Summarized]) -> Dataset:
    """Rows as a data set with the columns of `load`."""
    from datasets import Dataset, Features, Value

    names = [field.name for field in fields(Summarized)]
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    return Dataset.from_dict(
        columns, features=Features({name: Value("string") for name in names})
    )
