"""The user's own conversations: a file, a folder, a ``DatasetDict`` on disk, or a Hub id."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sftkit.corpora import parts
from sftkit.corpora.chat_formats import Form, Message, columns_of, find_form, turns
from sftkit.corpora.own import _kind, _unit
from sftkit.corpora.places import bad_encoding, check_bytes, plain
from sftkit.corpora.readers import READERS, _json_items, read_dataset
from sftkit.corpora.source import Batch
from sftkit.errors import CorpusError

Row = tuple[list[Message], str, str]  # turns, raw text, place


def read(
    name_or_path: str | Path, encoding: str, drop_malformed: bool, notes: list[str]
) -> dict[str, list[Row]]:
    """The conversations by split; those of a single file are all under ``train``.

    Raises:
        CorpusError: With the file, row and turn, and what to do.
    """
    drop = _Dropped(drop_malformed, notes)
    return parts.read(
        name_or_path,
        (".jsonl", ".json", ".csv", ".tsv", ".parquet"),
        lambda file: _file(file, encoding, drop),
        lambda table, where: _of_table(table, where, drop),
        notes=notes,
    )


class _Dropped:
    """Rows that are malformed: the first stops, or all are counted."""

    def __init__(self, allowed: bool, notes: list[str]) -> None:
        self.allowed, self.notes = allowed, notes

    def rows(self, form: Form, batches: Iterable[Batch], where: str, unit: str) -> list[Row]:
        """All rows of a part."""
        rows: list[Row] = []
        problems: list[CorpusError] = []
        for batch in batches:
            for at, number in enumerate(batch.row):
                place = f"{where}, {unit} {number}"
                try:
                    rows.append(_row(form, batch, at, place))
                except CorpusError as problem:
                    if not self.allowed:
                        raise CorpusError(
                            problem.what,
                            f"{problem.fix} Or leave such rows out: drop_malformed=True.",
                        ) from None
                    problems.append(problem)
        if problems:
            self.notes.append(
                f"{where}: {len(problems):,} malformed rows left out. The first: "
                f"{problems[0].what}"
            )
        if not rows:
            raise CorpusError(f"{where} has no rows that can be used.")
        return rows


def _row(form: Form, batch: Batch, at: int, place: str) -> Row:
    if form.name != "raw text":
        return turns(form, batch, at, place), "", place
    text = batch.text[at]
    if not isinstance(text, str) or not text.strip():
        raise CorpusError(f"{place}: the text is empty.", "Drop the row.")
    return [], text, place


def _file(path: Path, encoding: str, drop: _Dropped) -> list[Row]:
    names = list(_column_names(path, encoding))
    form = find_form(names, path.name)
    columns = columns_of(form, names, encoding)
    return drop.rows(form, READERS[_kind(path)](path, columns, []), path.name, _unit(path))


def _column_names(path: Path, encoding: str) -> Iterator[str]:
    kind = _kind(path)
    if kind == "parquet":
        import pyarrow.parquet as pq

        yield from pq.read_schema(path).names
    elif kind == "json":
        seen: set[str] = set()
        for _, item in _json_items(path, encoding, path.name):
            seen |= set(item) if isinstance(item, dict) else set()
        yield from sorted(seen)
    else:
        check_bytes(path, encoding)
        name = "utf-8-sig" if plain(encoding) == "utf8" else encoding
        try:
            with open(path, encoding=name) as stream:
                header = stream.readline(100_000).strip("\r\n")
        except UnicodeDecodeError as error:
            raise bad_encoding(path, name) from error
        choices = [next(csv.reader([header], delimiter=mark), []) for mark in ",;\t"]
        yield from max(choices, key=len)


def _of_table(data: Any, where: str, drop: _Dropped) -> list[Row]:
    form = find_form(data.column_names, where)
    columns = columns_of(form, data.column_names, "utf-8")
    return drop.rows(form, read_dataset(data, columns, where), where, "row")
