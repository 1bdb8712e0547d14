"""Rows in splits: what tagged sentences, questions and conversations share.

A loader of such data says how a file and a table become rows. Here are the doors (a file, a
folder, a ``DatasetDict`` on disk, a Hub id), the splits without copies, and the cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sftkit.corpora import duplicates, own, split
from sftkit.corpora.loading import _code, _no_bars
from sftkit.corpora.prepare import fingerprint
from sftkit.errors import CorpusError
from sftkit.files import cache_folder, folder_in_one_piece, locked, sha256

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Row = TypeVar("Row")
Parts = dict[str, list[Row]]
LEAST = 10  # different rows that splits can be made of


def read(
    name_or_path: str | Path,
    kinds: Sequence[str],
    of_file: Callable[[Path], list[Row]],
    of_table: Callable[[Dataset, str], list[Row] | None],
    *,
    columns: str = "",
    notes: list[str],
) -> Parts[Row]:
    """The user's rows by split; those of a single file are all under ``train``.

    Args:
        name_or_path: A file, a folder of files named after the splits, a ``DatasetDict`` on
            disk, or ``hub:ID[:CONFIGURATION]``.
        kinds: Endings of files in a folder, the usual one first.
        of_file: The rows of a file.
        of_table: The rows of a split of a data set, whose name is for errors; None where it
            has not the columns.
        columns: Those it needs, for the error when no training split has them.
        notes: Receives a line per split that is not used.

    Raises:
        CorpusError: With what is missing, and what to do.
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if name.startswith("hub:"):
        loaded = own.load_hub(name.removeprefix("hub:"))
    elif (path / "dataset_dict.json").is_file():
        name, loaded = path.name, own.load_disk(path)
    elif path.is_dir():
        files = own.named_files(path, kinds, notes)
        return {
            part: [r for f in several for r in of_file(f)] for part, several in files.items()
        }
    else:
        return {"train": of_file(path)}
    parts: Parts[Row] = {}
    for given, table in loaded.items():
        part = own.split_name(str(given))
        rows = None if part is None else of_table(table, f"{name} ({given})")
        if part is None or rows is None:
            notes.append(f"The split {given!r} is not used.")
        else:
            parts[part] = rows
    if "train" not in parts:
        wanted = f" with {columns}" if columns else ""
        raise CorpusError(
            f"{name} has no training split{wanted}.", f"It has {', '.join(map(str, loaded))}."
        )
    return parts


def near_copies(parts: Parts[Row], text: Callable[[Row], str]) -> dict[str, list[int]]:
    """The group of near-copies that each row is in, numbered through all splits."""
    groups = iter(duplicates.near_groups(text(row) for rows in parts.values() for row in rows))
    return {name: [int(next(groups)) for _ in rows] for name, rows in parts.items()}


def finished(
    parts: Parts[Row],
    groups: Mapping[str, Sequence[int]],
    content: Callable[[Row], str],
    notes: list[str],
    *,
    what: str,
    share: float,
    seed: int,
    stratum: Callable[[Row], str] = lambda row: "",
) -> Parts[Row]:
    """Splits without copies; those that are not given are made of the training rows.

    What a later split has something alike of, an earlier one leaves out.

    Args:
        groups: Per split, the group of each row: rows of one group are alike, and are never on
            two sides.
        content: What decides, with the seed, where a row goes.
        notes: Receives a line per split that lost rows.
        what: What the rows are, for errors.
        share: Of the training rows, for each split that is made.
        seed: Another seed gives other splits.
        stratum: The shares of its values stay equal, as far as groups allow.

    Raises:
        CorpusError: The rows are too few, or too much alike.
    """
    import numpy as np

    result: Parts[Row] = {}
    taken: set[int] = set()
    for name in reversed([name for name in split.SPLITS if name in parts]):
        kept = [at for at, group in enumerate(groups[name]) if group not in taken]
        if left_out := len(parts[name]) - len(kept):
            notes.append(f"{name}: {left_out:,} rows like rows of later splits are left out.")
        taken |= set(groups[name])
        result[name] = [parts[name][at] for at in kept]
    sides = {"validation": split.VALIDATION, "test": split.TEST}
    if missing := {side: share for name, side in sides.items() if name not in parts}:
        pool, alike = result["train"], np.array([groups["train"][at] for at in kept])
        if (different := len(np.unique(alike))) < LEAST:
            raise CorpusError(
                f"{different} different {what} are too few to make splits of.",
                f"Give at least {LEAST} (copies of each other count once), or a folder with "
                "train, validation and test files.",
            )
        strata = np.unique([stratum(row) for row in pool], return_inverse=True)[1]
        keys = np.array([duplicates.key(content(row)) for row in pool], dtype=np.uint64)
        chosen = split.carve(strata, alike, keys, missing, seed, True)
        for side, name in enumerate(split.SPLITS):
            if name == "train" or name not in parts:
                result[name] = [r for r, at in zip(pool, chosen, strict=True) if at == side]
    if empty := [name for name in split.SPLITS if not result[name]]:
        raise CorpusError(
            f"No {what} are left for {', '.join(empty)}.",
            "Too many are alike: add others, or give the splits yourself.",
        )
    return result


def dataset(
    parts: Parts[Row],
    table: Callable[[list[Row]], Dataset],
    *,
    what: str,
    name: str,
    notes: Iterable[str],
) -> DatasetDict:
    """The splits as a ``DatasetDict`` whose notes `corpora.notes` reads."""
    from datasets import DatasetDict

    counts = ", ".join(f"{part} {len(parts[part]):,}" for part in split.SPLITS)
    about = {"name": name, "options": {}, "notes": [f"{what}: {counts}.", *notes]}
    data = DatasetDict()
    for part in split.SPLITS:
        data[part] = table(parts[part])
        data[part].info.description = json.dumps(about, ensure_ascii=False)
    return data


def cached(kind: str, made_from: Sequence[Any], make: Callable[[], DatasetDict]) -> DatasetDict:
    """What ``make`` gives; kept in the cache until ``made_from`` or the code changes."""
    from datasets import DatasetDict, load_from_disk

    folder = cache_folder() / "corpora" / f"{kind}-{fingerprint(*made_from, _code())}"
    if not (folder / "dataset_dict.json").is_file():
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not (folder / "dataset_dict.json").is_file():
                with _no_bars(), folder_in_one_piece(folder) as final:
                    make().save_to_disk(str(final))
    data = load_from_disk(str(folder))
    assert isinstance(data, DatasetDict)
    return data


def check_limit(limit: int | None) -> None:
    """Refuse a limit that is no number of rows."""
    whole = isinstance(limit, Integral) and not isinstance(limit, bool)
    if limit is not None and not (whole and limit >= 1):
        raise CorpusError(f"limit={limit!r}.", "Give a whole number from 1, or None.")


def order(contents: Iterable[str], limit: int | None, seed: int) -> list[int]:
    """Rows in an order drawn from content and seed: a smaller limit is part of a larger."""
    keys = [duplicates.key(content) for content in contents]
    chosen = split.nested_order([0] * len(keys), keys, seed, stratify=False)
    return [int(at) for at in chosen[:limit]]


def existing(name_or_path: str | Path, embedded: Collection[str]) -> Path:
    """The file or folder that is meant.

    Raises:
        CorpusError: There is none.
    """
    found = Path(name_or_path).expanduser()
    if not found.exists():
        raise CorpusError(
            f"There is no data set and no file or folder {str(name_or_path)!r}.",
            f"Embedded are {', '.join(embedded)}. A data set of the Hub is 'hub:ID'.",
        )
    return found


def identity(name_or_path: str | Path, embedded: Collection[str]) -> dict[str, str]:
    """The hashes of a file, or of all files of a folder; of a Hub id, its name."""
    if str(name_or_path).startswith("hub:"):
        return {str(name_or_path): ""}
    path = existing(name_or_path, embedded)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file.relative_to(path.parent)): sha256(file) for file in files}
