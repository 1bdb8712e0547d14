"""The user's own conversations: a file, a folder, a ``DatasetDict`` on disk, or a Hub id."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sftkit.corpora.chat_formats import Form, Message, columns_of, find_form, turns
from sftkit.corpora.own import _SPLIT_NAMES, _STEM, _hub_error, _kind, _unit
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
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    drop = _Dropped(drop_malformed, notes)
    if name.startswith("hub:"):
        return _from_dict(name, _hub(name), drop)
    if (path / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        return _from_dict(path.name, load_from_disk(str(path)), drop)
    if path.is_dir():
        return _folder(path, encoding, drop)
    if not path.exists():
        raise CorpusError(
            f"There are no conversations and no file or folder {name!r}.",
            "Embedded are 'dialogues'. A data set of the Hub is 'hub:ID'.",
        )
    return {"train": _file(path, encoding, drop)}


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
        with open(path, encoding="utf-8-sig" if encoding == "utf-8" else encoding) as stream:
            header = stream.readline(100_000).strip("\r\n")
        choices = [next(csv.reader([header], delimiter=mark), []) for mark in ",;\t"]
        yield from max(choices, key=len)


def _folder(path: Path, encoding: str, drop: _Dropped) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {}
    for file in sorted(path.iterdir()):
        named = _STEM.match(file.stem)
        if named and file.suffix.lower() in (".jsonl", ".json", ".csv", ".tsv", ".parquet"):
            part = _SPLIT_NAMES[named[1].lower()]
            parts.setdefault(part, []).extend(_file(file, encoding, drop))
    if "train" not in parts:
        raise CorpusError(
            f"The folder {path.name} has no training file.",
            "Name it train.jsonl (or .csv, .parquet).",
        )
    return parts


def _hub(name: str) -> Any:
    from datasets import DatasetDict, load_dataset

    ident, _, config = name.removeprefix("hub:").partition(":")
    try:
        loaded = load_dataset(f"hf://datasets/{ident}", config or None)
    except Exception as error:  # many kinds, from several libraries
        raise _hub_error(ident, config, error) from error
    return loaded if isinstance(loaded, DatasetDict) else {"train": loaded}


def _from_dict(name: str, loaded: Any, drop: _Dropped) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {}
    for given, data in loaded.items():
        part = _SPLIT_NAMES.get(str(given).lower())
        if part is None:
            drop.notes.append(f"The split {given!r} is not used.")
            continue
        where = f"{name} ({given})"
        form = find_form(data.column_names, where)
        columns = columns_of(form, data.column_names, "utf-8")
        parts[part] = drop.rows(form, read_dataset(data, columns, where), where, "row")
    if "train" not in parts:
        raise CorpusError(f"{name} has no training split.", f"It has {', '.join(loaded)}.")
    return parts
