"""The user's own tagged sentences: a file, a folder, a ``DatasetDict`` on disk, or a Hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sftkit.corpora import conll, parts, spans
from sftkit.corpora.conll import Sentence
from sftkit.errors import CorpusError


def read(
    name_or_path: str | Path, notes: list[str], repair: bool = False, encoding: str = "utf-8"
) -> dict[str, list[Sentence]]:
    """The sentences by split; those of a single file are all under ``train``.

    Raises:
        CorpusError: With the file and line, and what to do.
    """
    return parts.read(
        name_or_path,
        tuple(conll.KINDS),
        lambda file: list(conll.read(file, encoding, repair)),
        _of_table,
        columns="'tokens' and 'tags' (or 'ner_tags')",
        notes=notes,
    )


def _of_table(data: Any, where: str) -> list[Sentence] | None:
    column = next((c for c in ("tags", "ner_tags") if c in data.column_names), None)
    if column is None or "tokens" not in data.column_names:
        return None
    names = getattr(getattr(data.features[column], "feature", None), "names", None)
    sentences = []
    for row, (tokens, tags) in enumerate(zip(data["tokens"], data[column], strict=True), 1):
        known = [names[tag] if names else tag for tag in tags]
        place = f"{where}, row {row}"
        conll._check_lists(place, tokens, known)
        if wrong := spans.problem(known, spans.scheme_of([known])):
            raise CorpusError(f"{place}: {wrong[1]}", "Mend the tags of this row.")
        if tokens:
            sentences.append(Sentence(tokens, spans.convert(known, "BIO"), f"row {row}"))
    return sentences
