"""From raw parts to cleaned, split, labelled data on disk, in bounded memory."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from sftkit.corpora import assemble, duplicates
from sftkit.corpora.assemble import Options, Rows
from sftkit.corpora.clean import cleaner
from sftkit.corpora.labels import Labels, is_number, name_of
from sftkit.corpora.source import Part, Source
from sftkit.errors import CorpusError

_SURROGATE = re.compile("[\ud800-\udfff]")


def prepare(source: Source, options: Options, work: Path) -> Any:
    """Clean, check, group and split a source.

    Args:
        source: Raw rows.
        options: All of them decided.
        work: An empty folder for temporary files; the result is mapped from it.

    Returns:
        A ``datasets.DatasetDict`` with its report in ``info.description``.

    Raises:
        CorpusError: The content cannot be used; the message says where.
    """
    import numpy as np

    labels = Labels(source.name, source.columns["label"])
    notes: list[str] = []
    parts = {
        name: _collect(part, source, options, labels, work / f"{name}.arrow", notes)
        for name, part in source.parts.items()
    }
    names, final = labels.finish()
    table = np.asarray(final)
    codes = {name: table[np.asarray(rows.codes)] for name, rows in parts.items()}
    groups = assemble.group_rows(parts, options, notes)
    chosen = assemble.choose_rows(source, options, parts, codes, groups, names, notes)

    total = sum(len(rows) for _, rows in chosen.values())
    counts = ", ".join(f"{name} {len(rows):,}" for name, (_, rows) in chosen.items())
    notes.insert(0, f"{total:,} rows in {len(names)} classes: {counts}.")
    if source.columns.get("text_pair") and not options.group_column and "all" in parts:
        notes.append(
            "Pairs that share only one of their two texts may be in different splits; group= "
            "with the name of a column keeps them together."
        )
    cleaning = ", ".join(options.clean) or "none"
    notes.append(f"Cleaning: {cleaning}.")
    about = {
        "name": source.name,
        "options": {key: value for key, value in vars(options).items()},
        "notes": notes[:1] + source.notes + notes[1:],
    }
    return _datasets(chosen, parts, codes, names, json.dumps(about, ensure_ascii=False))


def _collect(
    part: Part, source: Source, options: Options, labels: Labels, file: Path, notes: list[str]
) -> Rows:
    """Read one part to its end: clean the texts, write them to disk, keep the numbers."""
    import pyarrow as pa

    rows, clean = Rows(file), cleaner(options.clean)
    paired = "text_pair" in source.columns and source.columns["text_pair"] is not None
    schema = pa.schema([(name, pa.string()) for name in _fields(paired)])
    dropped: Counter[str] = Counter()
    first: dict[str, str] = {}
    seen: set[int] = set()
    read = numeric = 0

    def drop(reason: str, row: int) -> None:
        first.setdefault(reason, f"{part.unit} {row:,}")
        dropped[reason] += 1

    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in part.batches():
            texts: list[str] = []
            pairs: list[str] = []
            for at, row in enumerate(batch.row):
                read += 1
                text = _text(batch.text[at], part, row, source.columns["text"], clean)
                name = _label(batch.label[at], part, row, source.columns["label"])
                pair = ""
                if paired and batch.pair is not None:
                    pair = _text(batch.pair[at], part, row, source.columns["text_pair"], clean)
                if name is None and not options.drop_unlabelled:
                    raise CorpusError(
                        f"{part.where}, {part.unit} {row}: column "
                        f"{source.columns['label']!r} is empty.",
                        "Every row needs a label. Drop such rows with drop_unlabelled=True, or "
                        "fill the column in.",
                    )
                if name is None:
                    drop("without a label", row)
                    continue
                if not text or (paired and not pair):
                    drop("with an empty text", row)
                    continue
                whole = f"{text}\x1f{pair}" if paired else text
                key = duplicates.key(whole)
                if options.drop_duplicates:
                    copy = hash((key, name))  # with another label it is no copy
                    if copy in seen:
                        drop("that repeat another row and its label", row)
                        continue
                    seen.add(copy)
                texts.append(text)
                pairs.append(pair)
                numeric += is_number(text)
                rows.codes.append(labels.code(name))
                rows.keys.append(key)
                rows.forms.append(duplicates.key(duplicates.normal_form(whole)))
                if batch.group is not None:
                    rows.groups.append(duplicates.key(str(batch.group[at])))
            columns = [pa.array(values) for values in ([texts, pairs] if paired else [texts])]
            if texts:
                writer.write_batch(pa.record_batch(columns, schema=schema))
    _refuse_useless(part, source, read, len(rows.codes), numeric)
    notes += [
        f"{part.where}: {count:,} rows {reason} left out (the first: {first[reason]})."
        for reason, count in dropped.items()
    ]
    return rows


def _refuse_useless(part: Part, source: Source, read: int, kept: int, numeric: int) -> None:
    if read == 0:
        raise CorpusError(
            f"{part.where} has no rows.", "It has columns, but nothing below their names."
        )
    if kept == 0:
        raise CorpusError(
            f"{part.where}: none of its {read:,} rows has both a text and a label.",
            "Check that text= and label= name the right columns.",
        )
    if numeric == kept:
        raise CorpusError(
            f"{part.where}: column {source.columns['text']!r} holds numbers only.",
            "Name the column with the texts with text=.",
        )


def _text(value: Any, part: Part, row: int, column: str, clean: Any) -> str:
    """The cleaned text; "" when it is missing."""
    if value is None or value != value:  # NaN is not equal to itself
        return ""
    if not isinstance(value, str):
        if isinstance(value, int | float):  # a number among texts, as JSON may have it
            value = str(value)
        else:
            raise CorpusError(
                f"{part.where}, {part.unit} {row}: column {column!r} holds a "
                f"{type(value).__name__}, not a text.",
                "Each cell of this column must be one string.",
            )
    text = clean(value)
    if not text.isascii() and _SURROGATE.search(text):
        text = _SURROGATE.sub("\ufffd", text)  # half a character cannot be stored
    return "" if text.isspace() else text


def _label(value: Any, part: Part, row: int, column: str) -> str | None:
    try:
        return name_of(value)
    except TypeError as error:
        raise CorpusError(
            f"{part.where}, {part.unit} {row}: column {column!r} holds a {error}, "
            "not one label.",
            "Each row needs one label: a string, a whole number, or true and false.",
        ) from None


def _fields(paired: bool) -> list[str]:
    return ["text", "text_pair"] if paired else ["text"]


def _datasets(
    chosen: dict[str, tuple[str, Any]],
    parts: dict[str, Rows],
    codes: dict[str, Any],
    names: list[str],
    about: str,
) -> Any:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, concatenate_datasets

    features = Features({"label": ClassLabel(names=names)})
    splits = DatasetDict()
    for name, (part, rows) in chosen.items():
        labels = Dataset.from_dict({"label": codes[part]}, features=features)
        whole = concatenate_datasets([Dataset.from_file(str(parts[part].file)), labels], axis=1)
        splits[name] = whole.select(rows)
        splits[name].info.description = about
    return splits


def fingerprint(*facts: Any) -> str:
    """A short hash of plain values."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
