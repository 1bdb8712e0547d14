"""The user's own questions: a SQuAD file, a folder, a ``DatasetDict`` on disk, or a Hub id."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from sftkit.corpora import duplicates, split, squad
from sftkit.corpora.own import _SPLIT_NAMES, _STEM, _hub_error
from sftkit.corpora.squad import Item
from sftkit.errors import CorpusError

SHARE = 0.15  # of the user's questions for validation, and again for test


def read(name_or_path: str | Path, encoding: str = "utf-8") -> dict[str, list[Item]]:
    """The questions by split; those of a single file are all under ``train``.

    Raises:
        CorpusError: With the file and question, and what to do.
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if name.startswith("hub:"):
        return _hub(name)
    if (path / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        return _from_dict(path.name, load_from_disk(str(path)))
    if path.is_file():
        return {"train": squad.read(path, encoding)}
    parts: dict[str, list[Item]] = {}
    for file in sorted(path.glob("*.json")):
        if named := _STEM.match(file.stem):
            part = _SPLIT_NAMES[named[1].lower()]
            parts.setdefault(part, []).extend(squad.read(file, encoding))
    if "train" not in parts:
        raise CorpusError(
            f"The folder {path.name} has no training file.", "Name it train.json."
        )
    return parts


def _hub(name: str) -> dict[str, list[Item]]:
    from datasets import load_dataset

    ident, _, config = name.removeprefix("hub:").partition(":")
    try:
        loaded = load_dataset(f"hf://datasets/{ident}", config or None)
    except Exception as error:  # many kinds, from several libraries
        raise _hub_error(ident, config, error) from error
    return _from_dict(name, loaded)


def _from_dict(name: str, loaded: Any) -> dict[str, list[Item]]:
    parts: dict[str, list[Item]] = {}
    for given, data in loaded.items():
        part, columns = _SPLIT_NAMES.get(given.lower()), set(data.column_names)
        if part is None or not {"context", "question"} <= columns:
            continue
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
        squad.check_all(rows, f"{name} ({given})")
        parts[part] = rows
    if "train" not in parts:
        raise CorpusError(
            f"{name} has no training split with 'context' and 'question'.",
            f"It has {', '.join(loaded)}.",
        )
    return parts


def completed(
    parts: dict[str, list[Item]], seed: int
) -> tuple[dict[str, list[Item]], list[str]]:
    """Make the splits that are not given: near-copies of a context stay together."""
    import numpy as np

    notes: list[str] = []
    every = [item for name in split.SPLITS for item in parts.get(name, [])]
    groups = dict(
        zip(
            dict.fromkeys(item.context for item in every),
            duplicates.near_groups(dict.fromkeys(item.context for item in every)).tolist(),
            strict=True,
        )
    )
    later: set[int] = set()
    for name in reversed([name for name in split.SPLITS if name in parts]):
        kept = [item for item in parts[name] if groups[item.context] not in later]
        if lost := len(parts[name]) - len(kept):
            notes.append(f"{lost:,} {name} questions left out: later splits have the context.")
        parts[name] = kept
        later |= {groups[item.context] for item in kept}
    missing = [name for name in ("validation", "test") if name not in parts]
    if missing:
        pool = parts["train"]
        numbers = {"validation": split.VALIDATION, "test": split.TEST}
        sizes = {numbers[name]: SHARE for name in missing}
        keys = np.array([duplicates.key(item.context) for item in pool], dtype=np.uint64)
        of_item = np.array([groups[item.context] for item in pool])
        side = split.carve(np.zeros(len(pool), int), of_item, keys, sizes, seed, False)
        for number, name in enumerate(split.SPLITS):
            if name == "train" or name in missing:
                parts[name] = [
                    item for item, at in zip(pool, side, strict=True) if at == number
                ]
    if empty := [name for name in split.SPLITS if not parts[name]]:
        raise CorpusError(
            f"No questions are left for {', '.join(empty)}.",
            "Give at least some ten contexts that differ, or the splits as files of a folder.",
        )
    return parts, notes
