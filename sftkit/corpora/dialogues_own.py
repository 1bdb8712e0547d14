"""The user's own conversations: a file, a folder, a ``DatasetDict`` on disk, or a Hub id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sftkit.corpora import parts
from sftkit.corpora.chat_formats import (
    Form,
    Message,
    columns_of,
    find_form,
    text_of,
    turns,
)
from sftkit.corpora.headers import column_names
from sftkit.corpora.own import _kind, _unit
from sftkit.corpora.places import Refuse
from sftkit.corpora.readers import READERS, read_dataset
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
    found: dict[str, list[Row]] = parts.read(
        name_or_path,
        (".jsonl", ".json", ".csv", ".tsv", ".parquet"),
        lambda file: _file(file, encoding, drop),
        lambda table, where: _of_table(table, where, drop),
        notes=notes,
    )
    _check_kinds(found)
    return found


def _check_kinds(found: dict[str, list[Row]]) -> None:
    """Refuse raw texts beside conversations: one of the two would be lost."""
    first: dict[bool, str] = {}
    for rows in found.values():
        for messages, _, place in rows:
            first.setdefault(bool(messages), place)
    if len(first) == 2:
        raise CorpusError(
            f"{first[False]} is a raw text, {first[True]} a conversation.",
            "Load raw texts and conversations from two folders, or make turns of the texts.",
        )


class _Dropped:
    """Rows that are malformed: the first stops, or all are counted."""

    def __init__(self, allowed: bool, notes: list[str]) -> None:
        self.allowed, self.notes = allowed, notes

    def rows(
        self, form: Form, read: Callable[[Refuse], Iterable[Batch]], where: str, unit: str
    ) -> list[Row]:
        """All rows of a part, given how to read it."""
        rows: list[Row] = []
        problems: list[tuple[int, str]] = []

        def refuse(number: int, problem: CorpusError) -> None:
            if not self.allowed:
                raise CorpusError(
                    problem.what,
                    f"{problem.fix} Or leave such rows out: drop_malformed=True.",
                ) from None
            problems.append((number, problem.what))

        for batch in read(refuse):
            for at, number in enumerate(batch.row):
                try:
                    rows.append(_row(form, batch, at, f"{where}, {unit} {number}"))
                except CorpusError as problem:
                    refuse(number, problem)
        if problems:
            self.notes.append(
                f"{where}: {len(problems):,} malformed rows left out. The first: "
                f"{min(problems)[1]}"
            )
        if not rows:
            raise CorpusError(f"{where} has no rows that can be used.")
        return rows


def _row(form: Form, batch: Batch, at: int, place: str) -> Row:
    if form.name != "raw text":
        return turns(form, batch, at, place), "", place
    return [], text_of(batch.text[at], "text", place), place


def _file(path: Path, encoding: str, drop: _Dropped) -> list[Row]:
    kind = _kind(path)
    names = column_names(path, kind, encoding)
    form = find_form(names, path.name)
    columns = columns_of(form, names, encoding)

    def read(refuse: Refuse) -> Iterator[Batch]:
        return READERS[kind](path, columns, [], refuse)

    return drop.rows(form, read, path.name, _unit(path, encoding))


def _of_table(data: Any, where: str, drop: _Dropped) -> list[Row]:
    form = find_form(data.column_names, where)
    columns = columns_of(form, data.column_names, "utf-8")

    def read(refuse: Refuse) -> Iterator[Batch]:
        return read_dataset(data, columns, where, refuse)

    return drop.rows(form, read, where, "row")
