"""JSON lines, and files that hold one list: their items, and where each stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sftkit.corpora.places import Refuse, bad_encoding, plain, stop
from sftkit.errors import CorpusError


def json_unit(path: Path, encoding: str) -> str:
    """What the items of a file are counted in: ``item`` of one list, or ``line``."""
    with open(path, "rb") as stream:
        start = stream.read(4096)
    try:
        text = start.decode(encoding, "ignore")
    except LookupError:  # an encoding that Python lacks: `check_bytes` tells
        return "line"
    return "item" if text.lstrip("\ufeff \t\r\n").startswith("[") else "line"


def json_items(
    path: Path, encoding: str, where: str, refuse: Refuse = stop
) -> Iterator[tuple[int, Any]]:
    """Each item with its number, from 1: of its line, or in the list.

    Args:
        where: The file's name in messages.
        refuse: Receives the number and the error of a line that is not JSON.

    Raises:
        CorpusError: The file is empty, in another encoding, or a list that is not JSON.
    """
    listed = json_unit(path, encoding) == "item"
    encoding = "utf-8-sig" if plain(encoding) == "utf8" else encoding
    empty = True
    try:
        with open(path, encoding=encoding) as stream:
            if listed:
                yield from enumerate(_list(stream.read(), where), 1)
                return
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                empty = False
                try:
                    item = json.loads(line)
                except (ValueError, RecursionError) as error:
                    problem = CorpusError(
                        f"{where}, line {number} is not JSON: {_reason(error)}.",
                        "Each line must be one complete JSON object.",
                    )
                    refuse(number, problem)
                else:
                    yield number, item
    except UnicodeDecodeError as error:
        raise bad_encoding(path, encoding) from error
    if empty:
        raise CorpusError(f"{where} is empty.", "It needs one JSON object per line.")


def no_object(place: str, item: Any) -> CorpusError:
    """An item that is a list, a text, a number or null."""
    return CorpusError(
        f"{place}: {type(item).__name__} instead of an object.",
        'It must be one, such as {"text": "...", "label": "..."}.',
    )


def _list(text: str, where: str) -> list[Any]:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"{where} begins as a JSON list but is not JSON: {_reason(error)}.",
            "Write one JSON object per line, or one complete list.",
        ) from error


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
