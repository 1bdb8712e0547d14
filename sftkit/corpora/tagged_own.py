"""The user's own tagged sentences: a file, a folder, a ``DatasetDict`` on disk, or a Hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sftkit.corpora import conll, spans
from sftkit.corpora.conll import Sentence
from sftkit.corpora.own import _SPLIT_NAMES, _STEM, _hub_error
from sftkit.errors import CorpusError


def read(
    name_or_path: str | Path, repair: bool = False, encoding: str = "utf-8"
) -> dict[str, list[Sentence]]:
    """The sentences by split; those of a single file are all under ``train``.

    Raises:
        CorpusError: With the file and line, and what to do.
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if name.startswith("hub:"):
        return _hub(name)
    if (path / "dataset_dict.json").is_file():
        return _on_disk(path)
    if path.is_dir():
        return _folder(path, repair, encoding)
    return {"train": list(conll.read(path, encoding, repair))}


def _folder(path: Path, repair: bool, encoding: str) -> dict[str, list[Sentence]]:
    parts: dict[str, list[Sentence]] = {}
    for file in sorted(path.iterdir()):
        named = _STEM.match(file.stem)
        if file.suffix.lower() in conll.KINDS and named:
            part = _SPLIT_NAMES[named[1].lower()]
            parts.setdefault(part, []).extend(conll.read(file, encoding, repair))
    if "train" not in parts:
        raise CorpusError(
            f"The folder {path.name} has no training file.",
            f"Name it train.conll (or {', '.join(list(conll.KINDS)[1:])}).",
        )
    return parts


def _on_disk(path: Path) -> dict[str, list[Sentence]]:
    from datasets import load_from_disk

    return _from_dict(path.name, load_from_disk(str(path)))


def _hub(name: str) -> dict[str, list[Sentence]]:
    from datasets import load_dataset

    ident, _, config = name.removeprefix("hub:").partition(":")
    try:
        loaded = load_dataset(f"hf://datasets/{ident}", config or None)
    except Exception as error:  # many kinds, from several libraries
        raise _hub_error(ident, config, error) from error
    return _from_dict(name, loaded)


def _from_dict(name: str, loaded: Any) -> dict[str, list[Sentence]]:
    parts: dict[str, list[Sentence]] = {}
    for given, data in loaded.items():
        part = _SPLIT_NAMES.get(given.lower())
        column = next((c for c in ("tags", "ner_tags") if c in data.column_names), None)
        if part is None or column is None or "tokens" not in data.column_names:
            continue
        names = getattr(getattr(data.features[column], "feature", None), "names", None)
        parts[part] = []
        for row, (tokens, tags) in enumerate(zip(data["tokens"], data[column], strict=True), 1):
            known = [names[tag] if names else tag for tag in tags]
            where = f"{name} ({given}), row {row}"
            conll._check_lists(where, tokens, known)
            if wrong := spans.problem(known, spans.scheme_of([known])):
                raise CorpusError(f"{where}: {wrong[1]}", "Mend the tags of this row.")
            if tokens:
                parts[part].append(Sentence(tokens, spans.convert(known, "BIO"), f"row {row}"))
    if "train" not in parts:
        raise CorpusError(
            f"{name} has no training split with 'tokens' and 'tags' (or 'ner_tags').",
            f"It has {', '.join(loaded)}.",
        )
    return parts
