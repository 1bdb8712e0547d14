"""The user's own data: a file, a folder, a ``DatasetDict`` on disk, or a Hub id."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sftkit.corpora.json_files import json_unit
from sftkit.corpora.readers import KINDS, READERS, Columns, read_dataset
from sftkit.corpora.source import Batch, Part, Source
from sftkit.errors import CorpusError
from sftkit.files import sha256

_SPLIT_NAMES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation",
    "val": "validation", "dev": "validation", "eval": "validation", "test": "test",
}  # fmt: skip
_STEM = re.compile(rf"({'|'.join(_SPLIT_NAMES)})(?:[-_.].*)?$", re.I)


def open_path(path: Path, columns: Columns) -> Source:
    """The source for a file or a folder that exists.

    Raises:
        CorpusError: The kind of file is not known, or a folder holds no data.
    """
    if path.is_file():
        notes: list[str] = []
        unit = _unit(path, columns.encoding)
        part = Part(path.name, partial(_read, path, columns, notes), unit)
        return _source(path.name, {"all": part}, {path.name: sha256(path)}, columns, notes)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _on_disk(path, columns)
    return _folder(path, columns)


def open_hub(name: str, columns: Columns) -> Source:
    """The source for a data set of the Hugging Face Hub.

    Args:
        name: ``ID`` or ``ID:CONFIGURATION``, without ``hub:``.
        columns: The columns to read.
    """
    return _from_dict(f"hub:{name}", load_hub(name), columns)


def load_hub(name: str) -> Any:
    """A ``DatasetDict`` of the Hub, by ``ID`` or ``ID:CONFIGURATION``.

    Raises:
        CorpusError: It does not exist, or the Hub cannot be reached.
    """
    from datasets import DatasetDict, load_dataset

    ident, _, config = name.partition(":")
    try:
        # With the prefix, a folder here of the same name is never taken for it.
        loaded = load_dataset(f"hf://datasets/{ident}", config or None)
    except Exception as error:  # many kinds, from several libraries
        raise _hub_error(ident, config, error) from error
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})


def split_name(name: str) -> str | None:
    """The split that a name such as ``dev`` stands for; None: none."""
    return _SPLIT_NAMES.get(name.lower())


def _read(path: Path, columns: Columns, notes: list[str]) -> Iterator[Batch]:
    return READERS[_kind(path)](path, columns, notes)


def _kind(path: Path) -> str:
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise CorpusError(
            f"{path.name}: files that end in {path.suffix or 'nothing'} are not read.",
            f"Use one of {', '.join(KINDS)}.",
        )
    return kind


def _unit(path: Path, encoding: str) -> str:
    return json_unit(path, encoding) if _kind(path) == "json" else "row"


def named_files(path: Path, kinds: Collection[str], notes: list[str]) -> dict[str, list[Path]]:
    """The files of a folder by the splits that they are named after.

    Args:
        kinds: Endings that are read, the usual one first.
        notes: Receives a line about files that are not read.

    Returns:
        With ``train``; a file that is alone may have any name.

    Raises:
        CorpusError: There is no training file, or two files contradict each other.
    """
    files = sorted(
        file
        for file in path.iterdir()
        if file.is_file() and file.suffix.lower() in kinds and not file.name.startswith(".")
    )
    if not files:
        held = sorted(file.name for file in path.iterdir())[:10]
        usual = next(iter(kinds))
        raise CorpusError(
            f"The folder {path.name} holds no data files.",
            f"It needs files such as train{usual} and test{usual} ({', '.join(kinds)}), or "
            f"what DatasetDict.save_to_disk wrote. It holds: {', '.join(held) or 'nothing'}.",
        )
    found: dict[str, list[Path]] = {}
    for file in files:
        if named := _STEM.match(file.stem):
            found.setdefault(_SPLIT_NAMES[named[1].lower()], []).append(file)
    if not found and len(files) == 1:
        return {"train": files}
    if "train" not in found:
        usual, *others = kinds
        raise CorpusError(
            f"The folder {path.name} has no training file.",
            f"Name it train{usual} (or {', '.join(others)}). It holds: "
            f"{', '.join(file.name for file in files[:10])}.",
        )
    if unread := [file.name for file in files if not _STEM.match(file.stem)]:
        notes.append(f"Not read, because their names name no split: {', '.join(unread)}.")
    for name, several in found.items():
        if len({file.suffix.lower() for file in several}) > 1 or (
            len(several) > 1 and not all(re.search(r"\d", file.stem) for file in several)
        ):
            raise CorpusError(
                f"The folder {path.name} has several {name} files: "
                f"{', '.join(file.name for file in several)}.",
                "Keep one, or number them (train-1.csv, train-2.csv) if they belong together.",
            )
    _refuse_same(path, found)
    return found


def _folder(path: Path, columns: Columns) -> Source:
    """A folder with files named after the splits, or with one file."""
    notes: list[str] = []
    found = named_files(path, tuple(KINDS), notes)
    hashes = {file.name: sha256(file) for several in found.values() for file in several}
    parts = {}
    for name in ("train", "validation", "test"):
        if several := found.get(name, []):
            where = several[0].name if len(several) == 1 else f"{name} files of {path.name}"
            read = partial(_read_all, several, columns, notes)
            parts[name] = Part(where, read, _unit(several[0], columns.encoding))
    if list(parts) == ["train"]:
        parts = {"all": parts["train"]}
    return _source(path.name, parts, hashes, columns, notes)


def _read_all(files: list[Path], columns: Columns, notes: list[str]) -> Iterator[Batch]:
    for file in files:
        yield from _read(file, columns, notes)


def _refuse_same(path: Path, found: dict[str, list[Path]]) -> None:
    owner: dict[str, Path] = {}
    for several in found.values():
        for file in several:
            twin = owner.setdefault(sha256(file), file)
            if twin is not file:
                raise CorpusError(
                    f"{path.name}: {twin.name} and {file.name} are the same file.",
                    "A model must be tested on rows that it was not trained on. Keep one of "
                    "the two: missing splits are made from the training rows.",
                )


def _on_disk(path: Path, columns: Columns) -> Source:
    return _from_dict(path.name, load_disk(path), columns)


def load_disk(path: Path) -> Any:
    """What ``save_to_disk`` wrote, as a ``DatasetDict``; a single table is its split ``all``.

    Raises:
        CorpusError: It cannot be read.
    """
    from datasets import Dataset, DatasetDict, load_from_disk

    try:
        loaded = load_from_disk(str(path))
    except Exception as error:
        raise CorpusError(
            f"The folder {path.name} cannot be read as a data set: {_line(error)}",
            "Write it again with DatasetDict.save_to_disk.",
        ) from error
    return DatasetDict({"all": loaded}) if isinstance(loaded, Dataset) else loaded


def _from_dict(name: str, loaded: Any, columns: Columns) -> Source:
    splits: dict[str, Any] = {}
    notes: list[str] = []
    for given, dataset in loaded.items():
        named = split_name(given)
        if named is None and given != "all":
            notes.append(f"The split {given!r} is not used.")
        elif named or len(loaded) == 1:
            splits[named or "all"] = dataset
    if "train" not in splits and "all" not in splits:
        raise CorpusError(
            f"{name} has no training split.", f"It has: {', '.join(map(str, loaded))}."
        )
    if list(splits) == ["train"]:
        splits = {"all": splits["train"]}
    parts: dict[str, Part] = {}
    identity: dict[str, str] = {}
    for key in ("all", "train", "validation", "test"):
        if key in splits:
            where = f"{name} ({key})"
            parts[key] = Part(where, partial(read_dataset, splits[key], columns, where))
            identity[key] = splits[key]._fingerprint
    return _source(name, parts, identity, columns, notes)


def _source(
    name: str,
    parts: dict[str, Part],
    identity: dict[str, str],
    columns: Columns,
    notes: list[str],
) -> Source:
    names: dict[str, Any] = {
        "text": columns.text,
        "text_pair": columns.text_pair,
        "label": columns.label,
    }
    return Source(name, parts, identity, columns=names, notes=notes)


def _hub_error(ident: str, config: str, error: Exception) -> CorpusError:
    said = _line(error)
    kinds = " ".join(kind.__name__ for kind in type(error).__mro__) + said
    if "onfig name is missing" in said or "BuilderConfig" in said:
        return CorpusError(
            f"hub:{ident}: the configuration {config!r} does not exist or is missing. {said}",
            "Name one after a second colon, as in hub:ID:CONFIGURATION.",
        )
    if re.search(r"Offline|Connect|Timeout|resolve|LocalEntryNotFound", kinds):
        return CorpusError(
            f"hub:{ident}: the Hugging Face Hub cannot be reached. {said}",
            "Connect this machine, or fetch the data set elsewhere, save it with "
            "DatasetDict.save_to_disk or as CSV, and give that path instead.",
        )
    return CorpusError(
        f"hub:{ident} cannot be loaded. {said}",
        "Check the id on the Hub's web page (OWNER/NAME). Private data sets need a login.",
    )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
