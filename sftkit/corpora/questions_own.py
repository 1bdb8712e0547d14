"""The user's own questions: a SQuAD file, a folder, a ``DatasetDict`` on disk, or a Hub id."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from sftkit.corpora import parts, squad
from sftkit.corpora.squad import Item


def read(
    name_or_path: str | Path, notes: list[str], encoding: str = "utf-8"
) -> dict[str, list[Item]]:
    """The questions by split; those of a single file are all under ``train``.

    Raises:
        CorpusError: With the file and question, and what to do.
    """
    return parts.read(
        name_or_path,
        (".json",),
        lambda file: squad.read(file, encoding),
        _of_table,
        columns="'context' and 'question'",
        notes=notes,
    )


def _of_table(data: Any, where: str) -> list[Item] | None:
    columns = set(data.column_names)
    if not {"context", "question"} <= columns:
        return None
    if {"texts", "starts"} <= columns:
        rows = [Item(**{f.name: row[f.name] for f in fields(Item)}) for row in data]
    else:
        rows = [
            Item(
                str(row.get("id", number)),
                row.get("title", ""),
                row["context"],
                row["question"],
                list(row["answers"]["text"]),
                list(row["answers"]["answer_start"]),
            )
            for number, row in enumerate(data)
        ]
    squad.check_all(rows, where)
    return rows
