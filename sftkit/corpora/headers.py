"""What the columns of a file are called, found before its rows are read."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sftkit.corpora.json_files import json_items, json_unit, no_object
from sftkit.corpora.places import bad_csv, bad_encoding, bad_parquet, check_bytes, plain
from sftkit.errors import CorpusError


def column_names(path: Path, kind: str, encoding: str) -> list[str]:
    """The names of a file's columns; of JSON, those that any object has.

    Args:
        kind: ``csv``, ``json`` or ``parquet``.

    Raises:
        CorpusError: The file is empty or cannot be read, or no item is an object.
    """
    if kind == "parquet":
        return _of_parquet(path)
    check_bytes(path, encoding)
    if kind == "json":
        return _of_json(path, encoding)
    names = max(csv_headers(path, encoding, ",;\t").values(), key=len)
    if not names:
        raise empty_csv(path.name)
    return names


def csv_headers(
    path: Path, encoding: str, marks: Iterable[str], quotes: bool = True
) -> dict[str, list[str]]:
    """The first row that is not empty, as each of some marks would divide it.

    Marks that make the row malformed are left out.

    Args:
        marks: What may stand between two cells.
        quotes: Quotation marks may stand around a cell.

    Raises:
        CorpusError: A mark makes it malformed and none parts it, or the encoding is another.
    """
    found: dict[str, list[str]] = {}
    problems: list[CorpusError] = []
    for mark in marks:
        try:
            found[mark] = _first_row(path, encoding, mark, quotes)
        except CorpusError as problem:
            problems.append(problem)
    if problems and max(map(len, found.values()), default=0) < 2:
        raise problems[0]  # another mark that finds no columns explains nothing
    return found


def empty_csv(where: str) -> CorpusError:
    """A file without any row."""
    return CorpusError(f"{where} is empty.", "It needs a header line and rows below it.")


def _first_row(path: Path, encoding: str, mark: str, quotes: bool) -> list[str]:
    name = "utf-8-sig" if plain(encoding) == "utf8" else encoding
    quoting: Any = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    number = 1
    with open(path, encoding=name, newline="") as stream:
        try:
            for cells in csv.reader(stream, delimiter=mark, quoting=quoting, strict=quotes):
                if cells:
                    return cells
                number += 1
        except UnicodeDecodeError as error:
            raise bad_encoding(path, name) from error
        except csv.Error as error:
            # A header that is too long is a quotation mark left open, in a long file.
            long = "field larger" in str(error)
            reason = "unexpected end of data" if long else str(error)
            raise bad_csv(path.name, number, number, reason) from error
    return []


def _of_parquet(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise bad_parquet(path.name, error) from error


def _of_json(path: Path, encoding: str) -> list[str]:
    names: set[str] = set()
    problems: dict[int, CorpusError] = {}  # the first alone
    unit = json_unit(path, encoding)

    def refuse(number: int, problem: CorpusError) -> None:
        if not problems:
            problems[number] = problem

    for number, item in json_items(path, encoding, path.name, refuse):
        if isinstance(item, dict):
            names |= set(item)
        else:
            refuse(number, no_object(f"{path.name}, {unit} {number}", item))
    if names:
        return sorted(names)
    empty = CorpusError(
        f"{path.name} is empty.", "It needs at least one object with named columns."
    )
    raise next(iter(problems.values()), empty)
