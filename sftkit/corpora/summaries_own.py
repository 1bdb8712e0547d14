"""The user's own texts with summaries: a table, a folder, a data set on disk, or a Hub id."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from sftkit.corpora import parts
from sftkit.corpora.headers import column_names
from sftkit.corpora.own import _kind, _unit
from sftkit.corpora.readers import KINDS, READERS, Columns, read_dataset
from sftkit.corpora.source import Batch
from sftkit.corpora.summary_texts import Summarized
from sftkit.errors import CorpusError


def read(
    name_or_path: str | Path, text: str, summary: str, encoding: str, notes: list[str]
) -> dict[str, list[Summarized]]:
    """The pairs by split; those of a single file are all under ``train``.

    Args:
        text, summary: Names of the columns.

    Raises:
        CorpusError: With the file and row, and what to do.
    """
    if text == summary:
        raise CorpusError(
            f"text and summary are the same column, {text!r}.", "Name two: text=, summary=."
        )
    columns = Columns(text=text, label=summary, encoding=encoding)
    return parts.read(
        name_or_path,
        tuple(KINDS),
        lambda file: _file(file, columns, notes),
        partial(_of_table, columns),
        columns=f"{text!r} and {summary!r}",
        notes=notes,
    )


def _file(path: Path, columns: Columns, notes: list[str]) -> list[Summarized]:
    kind, unit = _kind(path), _unit(path, columns.encoding)
    _check(columns, column_names(path, kind, columns.encoding), path.name)
    return _rows(READERS[kind](path, columns, notes), columns, path.name, unit)


def _of_table(columns: Columns, data: Any, where: str) -> list[Summarized]:
    _check(columns, data.column_names, where)
    return _rows(read_dataset(data, columns, where), columns, where, "row")


def _check(columns: Columns, have: Iterable[str], where: str) -> None:
    names = list(have)
    for option, column in (("text", columns.text), ("summary", columns.label)):
        if column not in names:
            near = difflib.get_close_matches(column, names, 1, 0.5)
            raise CorpusError(
                f"{where}: there is no column {column!r}.",
                f"Columns are: {', '.join(map(repr, names[:30]))}. Name the one you mean with "
                f"{option}={near[0] if near else 'NAME'!r}.",
            )


def _rows(
    batches: Iterable[Batch], columns: Columns, where: str, unit: str
) -> list[Summarized]:
    found = []
    for batch in batches:
        for number, *pair in zip(batch.row, batch.text, batch.label, strict=True):
            for column, said in zip((columns.text, columns.label), pair, strict=True):
                if not isinstance(said, str) or not said.strip():
                    raise CorpusError(
                        f"{where}, {unit} {number}: {column!r} is empty or no text.",
                        "Fill it, or drop the row.",
                    )
            found.append(Summarized(str(pair[0]).strip(), str(pair[1]).strip()))
    if not found:
        raise CorpusError(f"{where} has no rows.", "Give at least ten pairs.")
    return found
