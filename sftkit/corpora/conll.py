"""Readers of tagged sentences: CoNLL columns, and JSON lines with tags or with spans."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftkit.corpora import spans
from sftkit.corpora.json_files import json_items, json_unit
from sftkit.corpora.places import bad_encoding, check_bytes, plain
from sftkit.errors import CorpusError

KINDS = {".conll": "conll", ".bio": "conll", ".txt": "conll", ".jsonl": "json", ".json": "json"}
LONGEST = 100_000  # tokens of a sentence; more means that the blank lines are missing

_HAN = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # written without spaces
_TOKEN = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+|[^\s]")


@dataclass(frozen=True)
class Sentence:
    """Tokens with one BIO tag each, and where they stand (``line 12``)."""

    tokens: list[str]
    tags: list[str]
    place: str


def words(text: str) -> list[tuple[str, int, int]]:
    """A text as tokens ``(token, start, end)``: words, single marks, single Han characters.

    All tokens of raw text come from here, in training as in use.
    """
    return [(found[0], found.start(), found.end()) for found in _TOKEN.finditer(text)]


def read(path: Path, encoding: str = "utf-8", repair: bool = False) -> Iterator[Sentence]:
    """The sentences of a file, tags checked and brought to BIO.

    Args:
        path: ``.conll``, ``.bio`` or ``.txt``: a token a line, its tag in the last column,
            columns separated by tabs or spaces, sentences by blank lines. ``.jsonl``: objects
            with ``tokens`` and ``tags``, or with ``text`` and ``entities``, a list of ``[start,
            end, type]`` in characters.
        repair: Read tags that break the rules as the CoNLL evaluation script does, in place
            of stopping at them. Files of the older IOB1 form are read right in this way.

    Raises:
        CorpusError: With the line, and what to do.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise CorpusError(
            f"{path.name}: files that end in {path.suffix or 'nothing'} are not read.",
            f"Use one of {', '.join(KINDS)}.",
        )
    check_bytes(path, encoding)
    reader = _columns if kind == "conll" else _json
    found = list(reader(path, encoding))
    if not found:
        raise CorpusError(f"{path.name} holds no sentence.", "See the form in data/README.md.")
    scheme = spans.scheme_of(tags for _, tags, _ in found)
    for tokens, tags, lines in found:
        wrong = spans.problem(tags, scheme)
        if wrong and not repair:
            line = lines[min(wrong[0], len(lines) - 1)]
            raise CorpusError(
                f"{path.name}, line {line}: {wrong[1]}",
                "Mend it, or pass repair=True: such a token then begins a span of its own, "
                "as in the CoNLL evaluation script.",
            )
        yield Sentence(tokens, spans.convert(tags, "BIO"), f"line {lines[0]}")


def _columns(path: Path, encoding: str) -> Iterator[tuple[list[str], list[str], list[int]]]:
    tokens: list[str] = []
    tags: list[str] = []
    lines: list[int] = []
    width = 0
    encoding = "utf-8-sig" if plain(encoding) == "utf8" else encoding
    try:
        with open(path, encoding=encoding, newline=None) as stream:
            for number, line in enumerate(stream, 1):
                fields = line.rstrip("\n").split("\t") if "\t" in line else line.split()
                if not line.strip() or fields[0] == "-DOCSTART-":
                    if tokens:
                        yield tokens, tags, lines
                    tokens, tags, lines = [], [], []
                    continue
                if not tokens and fields[0].startswith("#") and len(fields) != (width or 2):
                    continue  # a comment
                width = width or len(fields)
                _check_fields(path, number, fields, width)
                tokens.append(fields[0])
                tags.append(fields[-1].strip())
                lines.append(number)
                if len(tokens) > LONGEST:
                    raise CorpusError(
                        f"{path.name}, line {lines[0]}: a sentence of over {LONGEST:,} tokens.",
                        "Put a blank line between sentences.",
                    )
    except UnicodeDecodeError as error:
        raise bad_encoding(path, encoding) from error
    if tokens:
        yield tokens, tags, lines


def _check_fields(path: Path, number: int, fields: list[str], width: int) -> None:
    if width < 2:
        raise CorpusError(
            f"{path.name}, line {number}: one column, {fields[0]!r}.",
            "Each line needs a token and its tag, with a tab or a space between.",
        )
    if len(fields) != width:
        raise CorpusError(
            f"{path.name}, line {number}: {len(fields)} columns in place of {width}.",
            "Every token needs a tag, and every line as many columns as the first.",
        )
    if not fields[0].strip() or not fields[-1].strip():
        raise CorpusError(
            f"{path.name}, line {number}: the token or its tag is empty.",
            "Leave the line out, or fill it in; a blank line ends a sentence.",
        )


def _json(path: Path, encoding: str) -> Iterator[tuple[list[str], list[str], list[int]]]:
    unit = json_unit(path, encoding)
    for number, item in json_items(path, encoding, path.name):
        where = f"{path.name}, {unit} {number}"
        tokens: Any
        tags: Any
        if isinstance(item, dict) and "tokens" in item:
            tokens, tags = item["tokens"], item.get("tags", item.get("ner_tags", []))
            _check_lists(where, tokens, tags)
        elif isinstance(item, dict) and "text" in item:
            tokens, tags = _aligned(where, item["text"], item.get("entities", []))
        else:
            raise CorpusError(
                f"{where}: neither 'tokens' and 'tags' nor 'text' and 'entities'.",
                'Write {"tokens": [...], "tags": [...]}, or {"text": "...", "entities": '
                '[[0, 5, "PER"]]}.',
            )
        if tokens:
            yield tokens, tags, [number]


def _check_lists(where: str, tokens: Any, tags: Any) -> None:
    for name, values in (("tokens", tokens), ("tags", tags)):
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise CorpusError(
                f"{where}: {name!r} is not a list of strings.",
                "Tags are names such as B-PER; replace numbers by their names.",
            )
    if len(tokens) != len(tags):
        raise CorpusError(
            f"{where}: {len(tokens)} tokens, but {len(tags)} tags.",
            "Every token needs one tag.",
        )
    if any(not token.strip() for token in tokens):
        raise CorpusError(f"{where}: a token is empty.", "Leave it out, with its tag.")


def _aligned(where: str, text: Any, entities: Any) -> tuple[list[str], list[str]]:
    """Spans of characters become tags of tokens."""
    try:
        wanted = [(int(start), int(end), str(kind)) for start, end, kind in entities]
        found = words(text)
    except (TypeError, ValueError):
        raise CorpusError(
            f"{where}: 'text' must be a string, 'entities' a list of [start, end, type].",
            'For example {"text": "Ann is here", "entities": [[0, 3, "PER"]]}.',
        ) from None
    begins = {start: place for place, (_, start, _) in enumerate(found)}
    ends = {end: place + 1 for place, (_, _, end) in enumerate(found)}
    chosen = []
    for start, end, kind in wanted:
        if start not in begins or end not in ends:
            shown = text[max(0, start - 5) : end + 5]
            raise CorpusError(
                f"{where}: the span {kind!r} ({start} to {end}) cuts a word, near {shown!r}.",
                "Spans begin and end with whole words; positions count characters from 0.",
            )
        chosen.append((kind, begins[start], ends[end]))
    try:
        tags = spans.from_spans(chosen, len(found))
    except CorpusError as error:
        raise CorpusError(f"{where}: {error.what}", error.fix) from error
    return [token for token, _, _ in found], tags
