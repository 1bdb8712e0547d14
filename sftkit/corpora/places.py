"""Where in a file something is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sftkit.errors import CorpusError

MAX_CELL = 1_000_000  # characters; a longer cell is nearly always a quotation mark left open

# What becomes of a malformed row: given its number and the error, it raises or goes on.
Refuse = Callable[[int, CorpusError], None]


def stop(number: int, problem: CorpusError) -> None:
    """Raise the error of a malformed row."""
    raise problem


def plain(encoding: str) -> str:
    """An encoding in one spelling: utf8, cp1252, ..."""
    return encoding.lower().replace("-", "").replace("_", "").removesuffix("sig")


def check_bytes(path: Path, encoding: str) -> None:
    """Refuse UTF-16 that is read as something else, and encodings that Python lacks."""
    try:
        "".encode(encoding)
    except LookupError:
        raise CorpusError(
            f"encoding={encoding!r} is not known.",
            "Try 'utf-8', 'utf-16', 'cp1252', 'gb18030'.",
        ) from None
    with open(path, "rb") as stream:
        start = stream.read(4096)
    marked = start.startswith((b"\xff\xfe", b"\xfe\xff"))
    if plain(encoding).startswith(("utf16", "utf32")):
        return
    if marked or start.count(0) > len(start) // 4 > 0:
        raise CorpusError(
            f"{path.name} is written in UTF-16, not in {encoding}.",
            "Read it with encoding='utf-16', or save it again as UTF-8.",
        )


def bad_encoding(path: Path, encoding: str) -> CorpusError:
    """Find the first line that cannot be decoded, and suggest an encoding that can."""
    number = before = at = 0
    bad = b""
    with open(path, "rb") as stream:
        for line in stream:
            number += 1
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                bad, at = line, error.start
                break
            before += len(line)
    if not bad:
        return CorpusError(
            f"{path.name} is not valid {encoding}.", "Name the right one with encoding=."
        )
    try:
        text = bad.decode("gb18030")
        chinese = sum("\u4e00" <= c <= "\u9fff" for c in text)
        likely = "gb18030" if chinese * 3 > sum(not c.isascii() for c in text) > 3 else "cp1252"
    except UnicodeDecodeError:
        likely = "cp1252"
    return CorpusError(
        f"{path.name}, line {number}: byte 0x{bad[at]:02X} at position {before + at} of the "
        f"file is not {encoding.removesuffix('-sig')}.",
        f"The file was probably saved in another encoding: try encoding={likely!r}.",
    )


def row(number: int, line: int) -> str:
    """The place of a row: its number, and its line if texts above it have several lines."""
    return f"row {number}" if number == line else f"row {number} (line {line})"


def bad_width(place: str, cells: list[str], width: int, delimiter: str) -> CorpusError:
    """A row with another number of fields than the header."""
    kind = "many" if len(cells) > width else "few"
    mark = {"\t": "a tab", ",": "a comma", ";": "a semicolon"}.get(delimiter, repr(delimiter))
    return CorpusError(
        f"{place}: too {kind} fields, {len(cells)} instead of {width}.",
        f"A text that contains {mark} must stand in quotation marks; "
        'a quotation mark inside is written twice ("").',
    )


def bad_csv(where: str, number: int, line: int, reason: str) -> CorpusError:
    """What the csv module found wrong, in plain words."""
    place = f"{where}, {row(number, line)}"
    if "field larger" in reason:
        return long_cell(place, None)
    if "unexpected end" in reason:
        return CorpusError(
            f"{place}: a quotation mark is opened and never closed.",
            'Close it, or write "" for a quotation mark inside a text. If the file does not '
            "use quotation marks around texts, pass quotes=False.",
        )
    return CorpusError(
        f"{place} is not valid CSV: {reason}.",
        'A quotation mark inside a quoted text is written twice (""). If the file does not use '
        "quotation marks around texts, pass quotes=False.",
    )


def bad_parquet(where: str, error: Exception) -> CorpusError:
    """What pyarrow says of a file that it cannot read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return CorpusError(
        f"{where} cannot be read as Parquet: {reason}",
        "Write it again, or check that it was copied in full.",
    )


def long_cell(place: str, column: str | None) -> CorpusError:
    """A cell above ``MAX_CELL``."""
    name = f"column {column!r}" if column else "a cell"
    return CorpusError(
        f"{place}: {name} holds more than {MAX_CELL:,} characters.",
        "Most often a quotation mark was left open further up. If the text is real, divide it: "
        "a model reads a few hundred words of it at most.",
    )
