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

from sftkit.corpora import docstrings, duplicates, parts, split, summaries_own
from sftkit.corpora.summary_texts import Summarized, of_docstring

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NAME = "docstring-summaries"
LIBRARIES = {
    "train": ("numpy", "scipy", "networkx", "sympy", "torch"),
    "validation": ("matplotlib", "optuna"),
    "test": ("sklearn", "pandas"),
}
SHARE = 0.15  # of the user's texts for validation, and again for test


def load(
    name_or_path: str | Path = NAME,
    *,
    text: str = "text",
    summary: str = "summary",
    limit: int | None = None,
    seed: int = 0,
    encoding: str = "utf-8",
) -> DatasetDict:
    """Texts with summaries, split so that no near-copy of a test text is trained on.

    Args:
        name_or_path: ``docstring-summaries``; a CSV, TSV, JSONL or Parquet file; a folder of
            such files named after the splits; a ``DatasetDict`` on disk or
            ``hub:ID[:CONFIGURATION]``.
        text, summary: Columns of the user's own data.
        limit: Training texts. A smaller limit gives a part of a larger one.
        seed: Which training texts a limit takes; for one file also which go where.
        encoding: Of files.

    Returns:
        Splits ``train``, ``validation`` and ``test`` with the columns of
        `summary_texts.Summarized`. `corpora.notes` tells what was done.

    Raises:
        CorpusError: With the file and row, and what to do.
    """
    parts.check_limit(limit)
    name = str(name_or_path)
    own = name != NAME  # the splits of ours are fixed
    options = (text, summary, encoding, seed) if own else ()
    made_from = (name, _identity(name_or_path), *options)
    data = parts.cached(
        "summaries",
        made_from,
        (lambda: _own(name_or_path, text, summary, seed, encoding)) if own else _embedded,
    )
    keys = [f"{row['title']} {row['summary']} {row['text']}" for row in data["train"]]
    data["train"] = data["train"].select(parts.order(keys, limit, seed))
    return data


def _identity(name_or_path: str | Path) -> dict[str, str]:
    if str(name_or_path) != NAME:
        return parts.identity(name_or_path, (NAME,))
    every = [library for names in LIBRARIES.values() for library in names]
    return {library: docstrings.version(library) for library in every}


def _own(
    name_or_path: str | Path, text: str, summary: str, seed: int, encoding: str
) -> DatasetDict:
    notes: list[str] = []
    found = summaries_own.read(name_or_path, text, summary, encoding, notes)
    groups = parts.near_copies(found, _text)
    found = parts.finished(found, groups, _text, notes, what="texts", share=SHARE, seed=seed)
    name = str(name_or_path)
    return parts.dataset(found, from_rows, what="Texts with summaries", name=name, notes=notes)


def _text(row: Summarized) -> str:
    return row.text


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
    groups = parts.near_copies(found, _text)
    found = parts.finished(found, groups, _text, notes, what="texts", share=SHARE, seed=0)
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
