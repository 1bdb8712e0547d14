"""The user's own pairs: TSV, CSV, JSON lines, Parquet, a folder, or a Hub id.

A TSV of pairs is the field's usual file: a source, a tab, a target, with a header or without.
Tabs part the two, and quotation marks are text like any other (a CSV file has CSV's quotes).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftkit.corpora import parts
from sftkit.corpora.json_files import json_items, json_unit
from sftkit.corpora.places import bad_csv, bad_encoding, check_bytes, plain
from sftkit.errors import CorpusError

KINDS = (".tsv", ".csv", ".txt", ".jsonl", ".json", ".parquet")
LONGEST = 1_000  # characters of a side
NAMES = {"source": ("source", "src"), "target": ("target", "tgt", "trg")}


# Codes by which a header is known that names two languages (ISO 639-1, the usual ones).
_USUAL = """
af am ar az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gl gu he hi hr
hu hy id is it ja ka kk km kn ko ky lo lt lv mk ml mn mr ms my nb ne nl nn no pa pl
ps pt ro ru si sk sl so sq sr sv sw ta te tg th tl tr uk ur uz vi zh zu
"""
CODES = frozenset(_USUAL.split())


@dataclass
class Pair:
    """One pair.

    Attributes:
        source, target: The texts.
        family: Number of the family; near-copies of a source share it.
        place: Where it is from, for people.
    """

    source: str
    target: str
    family: int = -1
    place: str = ""


def read(
    data: str | Path,
    notes: list[str],
    language: str = "",
    longest: int = LONGEST,
    encoding: str = "utf-8",
) -> parts.Parts[Pair]:
    """The pairs by split; those of a single file are all under ``train``.

    Columns are named ``source`` and ``target`` (or ``src`` and ``tgt``), or after two languages
    (``en`` and ``fr``), of which the one that ``language`` names is the target. A TSV or CSV
    file without such a header must have two columns. Data sets of the Hub may have the column
    ``translation``, a dictionary of languages.

    Raises:
        CorpusError: With the file and row, and what to do.
    """
    found = parts.read(
        data,
        KINDS,
        lambda file: _checked(_of_file(file, language, encoding), longest, notes),
        lambda table, where: _of_table(table, where, language, longest, notes),
        columns="'source' and 'target' (or 'translation')",
        notes=notes,
    )
    if empty := [name for name, pairs in found.items() if not pairs]:
        raise CorpusError(f"{data}: {empty[0]} has no pairs.", "Give at least one.")
    return found


Row = tuple[str, Any, Any]  # its place, the source, the target


def _checked(rows: Iterable[Row], longest: int, notes: list[str]) -> list[Pair]:
    """Pairs of two texts, each once.

    Raises:
        CorpusError: A side is empty, no text, or too long; with its place.
    """
    found: dict[tuple[str, str], Pair] = {}
    repeated = 0
    for place, *sides in rows:
        texts = []
        for name, value in zip(("source", "target"), sides, strict=True):
            if value is not None and not isinstance(value, str):
                raise CorpusError(
                    f"{place}: the {name} is {type(value).__name__}, not a text.",
                    "Both sides of a pair are texts.",
                )
            text = (value or "").strip()
            if not text:
                raise CorpusError(
                    f"{place}: the {name} is empty.",
                    "Give both sides of every pair, or leave the row out.",
                )
            if len(text) > longest:
                raise CorpusError(
                    f"{place}: the {name} has {len(text):,} characters, the limit is "
                    f"{longest:,}.",
                    "Divide it into sentences, or leave the row out; longest= moves the limit.",
                )
            texts.append(text)
        repeated += (texts[0], texts[1]) in found
        found.setdefault((texts[0], texts[1]), Pair(texts[0], texts[1], place=place))
    if repeated:
        notes.append(f"{repeated:,} pairs are there more than once: kept once.")
    return list(found.values())


# -- files --------------------------------------------------------------------------------


def _of_file(path: Path, language: str, encoding: str) -> Iterator[Row]:
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise CorpusError(
            f"{path.name}: files that end in {path.suffix or 'nothing'} are not read.",
            f"Use one of {', '.join(KINDS)}.",
        )
    if kind == ".parquet":
        yield from _of_parquet(path, language)
    elif kind in (".jsonl", ".json"):
        check_bytes(path, encoding)
        unit = json_unit(path, encoding)
        for number, item in json_items(path, encoding, path.name):
            place = f"{path.name}, {unit} {number}"
            if not isinstance(item, dict):
                raise CorpusError(
                    f"{place}: {type(item).__name__} instead of an object.",
                    'Each line is an object such as {"source": "...", "target": "..."}.',
                )
            item = item.get("translation", item)
            source, target = _columns(list(item), language, place)
            yield place, item[source], item[target]
    else:
        yield from _of_lines(path, language, encoding, "," if kind == ".csv" else "\t")


def _of_lines(path: Path, language: str, encoding: str, mark: str) -> Iterator[Row]:
    check_bytes(path, encoding)
    name = "utf-8-sig" if plain(encoding) == "utf8" else encoding
    quotes: Any = csv.QUOTE_MINIMAL if mark == "," else csv.QUOTE_NONE
    number, at, width, begun = 0, (0, 1), 2, False
    with open(path, encoding=name, newline="") as stream:
        lines = csv.reader(stream, delimiter=mark, quoting=quotes, strict=mark == ",")
        while True:
            try:
                cells = next(lines, None)
            except UnicodeDecodeError as error:
                raise bad_encoding(path, name) from error
            except csv.Error as error:
                raise bad_csv(path.name, number + 1, lines.line_num, str(error)) from error
            if cells is None:
                break
            number += 1
            if not cells or cells == [""]:
                continue
            place = f"{path.name}, row {number}"
            if not begun:
                begun, width = True, len(cells)
                if _is_header(cells):
                    source, target = _columns(cells, language, place)
                    at = (cells.index(source), cells.index(target))
                    continue
                if width != 2:
                    raise _columns_wanted(path.name, width, mark)
            if len(cells) != width:
                raise CorpusError(
                    f"{place}: {len(cells)} columns instead of {width}.",
                    f"A pair is a source, a {_called(mark)} and a target, on one line."
                    + (" Quote a text that has commas." if mark == "," else ""),
                )
            yield place, cells[at[0]], cells[at[1]]
    if not begun:
        raise CorpusError(f"{path.name} is empty.", "It needs one pair a line.")


def _called(mark: str) -> str:
    return "comma" if mark == "," else "tab"


def _columns_wanted(name: str, width: int, mark: str) -> CorpusError:
    if width == 1:
        return CorpusError(
            f"{name}: one column only.",
            f"A pair is a source, a {_called(mark)} and a target, on one line.",
        )
    return CorpusError(
        f"{name}: {width} columns without a header that names two of them.",
        "Write a first line with 'source' and 'target' above the two that you mean.",
    )


def _is_header(cells: list[str]) -> bool:
    low = [cell.strip().lower() for cell in cells]
    named = [any(cell in NAMES[side] for cell in low) for side in NAMES]
    return any(named) or (len(low) > 1 and all(_is_language(cell.strip()) for cell in cells))


def _is_language(word: str) -> bool:
    """Whether a word looks like a language's code: ``en``, ``zh-CN``, ``zh_cn``."""
    code, _, region = word.replace("_", "-").partition("-")
    return code in CODES and len(region) in (0, 2, 4)


def _columns(names: list[str], language: str, where: str) -> tuple[str, str]:
    """The names of the two columns.

    Raises:
        CorpusError: One of them is not there.
    """
    by_low = {str(name).strip().lower(): name for name in names}
    found = {s: next((by_low[n] for n in NAMES[s] if n in by_low), None) for s in NAMES}
    if found["source"] and found["target"]:
        return found["source"], found["target"]
    codes = [name for name in names if _is_language(str(name).strip())]
    if len(codes) == 2 and len(codes) == len(names):
        wanted = language.lower().partition("-")[0]
        first = str(codes[0]).lower().replace("_", "-").partition("-")[0]
        return (codes[1], codes[0]) if first == wanted else (codes[0], codes[1])
    lacking = next(side for side in NAMES if not found[side])
    raise CorpusError(
        f"{where}: there is no column {lacking!r}.",
        f"Columns are: {', '.join(map(repr, names[:20])) or 'none'}. Name two of them source "
        "and target.",
    )


def _of_parquet(path: Path, language: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(
            f"{path.name} cannot be read as Parquet: {str(error).splitlines()[0]}",
            "Write it again, or check that it was copied in full.",
        ) from error
    source, target = _columns(table.column_names, language, path.name)
    columns = (table[source].to_pylist(), table[target].to_pylist())
    for number, (a, b) in enumerate(zip(*columns, strict=True), 1):
        yield f"{path.name}, row {number}", a, b


def _of_table(
    table: Any, where: str, language: str, longest: int, notes: list[str]
) -> list[Pair] | None:
    names = list(table.column_names)
    if "translation" in names:
        pairs: list[dict[str, Any]] = list(table["translation"])
        if not pairs:
            return []
        source, target = _columns(list(pairs[0]), language, where)
        sides = ([p.get(source) for p in pairs], [p.get(target) for p in pairs])
    else:
        try:
            source, target = _columns(names, language, where)
        except CorpusError:
            return None
        sides = (list(table[source]), list(table[target]))
    rows = zip(*sides, strict=True)
    return _checked(((f"{where}, row {n}", a, b) for n, (a, b) in enumerate(rows, 1)), longest,
                    notes)  # fmt: skip
