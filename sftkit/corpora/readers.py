"""Readers of CSV, TSV, JSON lines and Parquet: one batch at a time, errors with their place."""

from __future__ import annotations

import csv
import difflib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftkit.corpora.headers import csv_headers, empty_csv
from sftkit.corpora.json_files import json_items, json_unit, no_object
from sftkit.corpora.places import (
    MAX_CELL,
    Refuse,
    bad_csv,
    bad_encoding,
    bad_parquet,
    bad_width,
    check_bytes,
    long_cell,
    plain,
    row,
    stop,
)
from sftkit.corpora.source import BATCH, Batch
from sftkit.errors import CorpusError

KINDS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_HARD_LIMIT = 2**26  # where the csv module itself gives up
_field_limit = threading.Lock()  # the csv module's limit is one for the whole process


@dataclass(frozen=True)
class Columns:
    """Which columns to read, and how the file is written."""

    text: str = "text"
    label: str = "label"
    text_pair: str | None = None
    group: str | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None
    quotes: bool = True

    def wanted(self) -> dict[str, str]:
        """Field of ``Batch`` to column of the file."""
        pairs = {
            "text": self.text,
            "label": self.label,
            "pair": self.text_pair,
            "group": self.group,
        }
        return {name: column for name, column in pairs.items() if column}

    def check(self, have: Iterable[str], where: str) -> None:
        """Raise a ``CorpusError`` when a wanted column is missing, or there twice."""
        names = [str(name) for name in have]
        option = {"text": "text", "label": "label", "pair": "text_pair", "group": "group"}
        for field, column in self.wanted().items():
            if names.count(column) == 1:
                continue
            if column in names:
                raise CorpusError(
                    f"{where}: there are {names.count(column)} columns {column!r}.",
                    "Rename all but the one to be read.",
                )
            near = difflib.get_close_matches(column, names, 1, 0.5)
            guess = near[0] if near else "NAME"
            listed = ", ".join(map(repr, names[:30])) + (" ..." if len(names) > 30 else "")
            raise CorpusError(
                f"{where}: there is no column {column!r}.",
                f"Columns are: {listed}. Name the one you mean with {option[field]}={guess!r}.",
            )


def read_csv(
    path: Path, columns: Columns, notes: list[str], refuse: Refuse = stop
) -> Iterator[Batch]:
    """Rows of a CSV or TSV file. Row 1 is the header, as in a spreadsheet."""
    where = path.name
    check_bytes(path, columns.encoding)
    delimiter = columns.delimiter or _delimiter(path, columns, notes)
    encoding = "utf-8-sig" if plain(columns.encoding) == "utf8" else columns.encoding
    with open(path, encoding=encoding, newline="") as stream:
        lines = csv.reader(
            stream,
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if columns.quotes else csv.QUOTE_NONE,
            strict=columns.quotes,
        )
        number, end = 0, 0
        position: dict[str, int] = {}
        width, batch = 0, Batch([], [], [])
        while True:
            begin = end + 1  # the line of the file on which this row begins
            try:
                with _field_limit:
                    before = csv.field_size_limit(_HARD_LIMIT)
                    try:
                        cells = next(lines, None)
                    finally:
                        csv.field_size_limit(before)
            except UnicodeDecodeError as error:
                raise bad_encoding(path, columns.encoding) from error
            except csv.Error as error:
                raise bad_csv(where, number + 1, begin, str(error)) from error
            end = lines.line_num
            if cells is None:
                break
            number += 1
            if not cells:  # an empty line
                continue
            if not position:
                columns.check(cells, where)
                width = len(cells)
                position = {
                    field: cells.index(name) for field, name in columns.wanted().items()
                }
                batch = _empty(columns)
                header = cells
                continue
            place = f"{where}, {row(number, begin)}"
            if len(cells) != width:
                refuse(number, bad_width(place, cells, width, delimiter))
                continue
            if max(map(len, cells)) > MAX_CELL:
                long = [len(cell) > MAX_CELL for cell in cells].index(True)
                refuse(number, long_cell(place, header[long]))
                continue
            _add(batch, number, {field: cells[at] for field, at in position.items()})
            if len(batch.row) >= BATCH:
                yield batch
                batch = _empty(columns)
        if not position:
            raise empty_csv(where)
        if batch.row:
            yield batch


def read_json(
    path: Path, columns: Columns, notes: list[str], refuse: Refuse = stop
) -> Iterator[Batch]:
    """Objects of a JSON-lines file; also of a file that holds one list of objects."""
    where = path.name
    check_bytes(path, columns.encoding)
    batch, seen = _empty(columns), {}
    unit = json_unit(path, columns.encoding)
    unknown = dict.fromkeys(columns.wanted().values())  # columns that no object has had yet
    for number, item in json_items(path, columns.encoding, where, refuse):
        place = f"{where}, {unit} {number}"
        if not isinstance(item, dict):
            refuse(number, no_object(place, item))
            continue
        for name in [name for name in unknown if name in item]:
            del unknown[name]
        if unknown:
            seen.update(dict.fromkeys(item))
            if len(seen) > 1000 or number > 100_000:
                columns.check(seen, where)
        values = {field: item.get(name) for field, name in columns.wanted().items()}
        if long := [field for field, value in values.items() if _is_long(value)]:
            refuse(number, long_cell(place, columns.wanted()[long[0]]))
            continue
        _add(batch, number, values)
        if len(batch.row) >= BATCH:
            yield batch
            batch = _empty(columns)
    if unknown and seen:
        columns.check(seen, where)
    if batch.row:
        yield batch


def read_parquet(
    path: Path, columns: Columns, notes: list[str], refuse: Refuse = stop
) -> Iterator[Batch]:
    """Rows of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns.check(file.schema_arrow.names, path.name)
            wanted = list(dict.fromkeys(columns.wanted().values()))
            batches = file.iter_batches(batch_size=BATCH, columns=wanted)
            yield from _arrow_batches(batches, columns, path.name, refuse)
    except (pa.ArrowException, OSError) as error:
        raise bad_parquet(path.name, error) from error


def read_dataset(
    dataset: Any, columns: Columns, where: str, refuse: Refuse = stop
) -> Iterator[Batch]:
    """Rows of a ``datasets.Dataset``; class numbers become class names."""
    from datasets import ClassLabel

    columns.check(dataset.column_names, where)
    names = {
        column: feature.names
        for column, feature in dataset.features.items()
        if isinstance(feature, ClassLabel)
    }
    wanted = list(dict.fromkeys(columns.wanted().values()))
    tables = dataset.select_columns(wanted).with_format("arrow").iter(batch_size=BATCH)
    for batch in _arrow_batches(tables, columns, where, refuse):
        if column := names.get(columns.label):
            batch.label = [
                column[at] if at is not None and at >= 0 else None for at in batch.label
            ]
        yield batch


READERS = {"csv": read_csv, "json": read_json, "parquet": read_parquet}


def _arrow_batches(
    tables: Iterable[Any], columns: Columns, where: str, refuse: Refuse
) -> Iterator[Batch]:
    row = 0
    for table in tables:
        values = {field: table[name].to_pylist() for field, name in columns.wanted().items()}
        count = table.num_rows
        numbers = list(range(row + 1, row + count + 1))
        long: set[int] = set()
        for field in ("text", "pair"):
            for at, value in enumerate(values.get(field, ())):
                if _is_long(value) and at not in long:
                    long.add(at)
                    place = f"{where}, row {numbers[at]}"
                    refuse(numbers[at], long_cell(place, columns.wanted()[field]))
        if long:
            numbers, *kept = (
                [value for at, value in enumerate(column) if at not in long]
                for column in (numbers, *values.values())
            )
            values = dict(zip(values, kept, strict=True))
        yield Batch(numbers, **values)
        row += count


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and len(value) > MAX_CELL


def _empty(columns: Columns) -> Batch:
    pair: list[Any] | None = [] if columns.text_pair else None
    return Batch([], [], [], pair, [] if columns.group else None)


def _add(batch: Batch, row: int, values: dict[str, Any]) -> None:
    batch.row.append(row)
    for field, value in values.items():
        getattr(batch, field).append(value)


def _delimiter(path: Path, columns: Columns, notes: list[str]) -> str:
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    marks = dict.fromkeys((usual, ";", "\t", ","))
    split = csv_headers(path, columns.encoding, marks, columns.quotes)
    wanted = set(columns.wanted().values())
    fitting = [mark for mark, cells in split.items() if wanted <= set(cells)]
    # Where a wanted column is missing, the mark that gives most columns makes the message
    # list them one by one.
    mark = fitting[0] if fitting else max(split, key=lambda m: len(split[m]))
    if mark != usual:
        notes.append(f"{path.name}: columns are separated by {mark!r}.")
    return mark
