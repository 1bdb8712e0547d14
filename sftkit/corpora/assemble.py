"""Which rows belong together, and which split each of them goes to."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftkit.corpora import duplicates, split
from sftkit.corpora.source import Source
from sftkit.errors import CorpusError


@dataclass(frozen=True)
class Options:
    """What ``load`` was asked for, once defaults are filled in."""

    clean: tuple[str, ...]
    validation: float
    test: float
    seed: int
    stratify: bool
    group: str | None  # "near-duplicates", "duplicates", None; else a column
    drop_unlabelled: bool
    drop_duplicates: bool

    @property
    def group_column(self) -> str | None:
        known = (None, "near-duplicates", "duplicates")
        return None if self.group in known else self.group


@dataclass
class Rows:
    """The kept rows of one part: texts on disk, numbers in memory.

    Attributes:
        file: Arrow stream with ``text`` and perhaps ``text_pair``.
        codes: Provisional class of each row.
        keys: Hash of the cleaned text.
        forms: Hash of the text's normal form.
        groups: Hash of the value in the group column, if one is used.
    """

    file: Path
    codes: array = field(default_factory=lambda: array("i"))
    keys: array = field(default_factory=lambda: array("Q"))
    forms: array = field(default_factory=lambda: array("Q"))
    groups: array = field(default_factory=lambda: array("Q"))


def _texts(rows: Rows) -> Iterator[str]:
    """The texts of a part, read from disk batch by batch."""
    import pyarrow as pa

    with pa.memory_map(str(rows.file)) as stream:
        for batch in pa.ipc.open_stream(stream):
            columns = [column.to_pylist() for column in batch.columns]
            if len(columns) == 1:
                yield from columns[0]
            else:
                yield from map("\x1f".join, zip(*columns, strict=True))


def group_rows(parts: dict[str, Rows], options: Options, notes: list[str]) -> dict[str, Any]:
    """The group of each row, numbered through all parts, so that parts can be compared."""
    import numpy as np

    sizes = [len(rows.codes) for rows in parts.values()]
    total = sum(sizes)
    if options.group_column:
        flat = np.concatenate([np.asarray(rows.groups, np.uint64) for rows in parts.values()])
        kind = f"equal {options.group_column!r}"
    elif options.group is None:
        flat, kind = np.arange(total), ""
    elif options.group == "near-duplicates" and total <= duplicates.NEAR_LIMIT:
        flat = duplicates.near_groups(t for rows in parts.values() for t in _texts(rows))
        kind = "near-duplicate texts"
    else:
        flat = np.concatenate([np.asarray(rows.forms, np.uint64) for rows in parts.values()])
        kind = "texts that differ in case, punctuation or numbers at most"
        if options.group == "near-duplicates":
            notes.append(
                f"More than {duplicates.NEAR_LIMIT:,} rows: near-duplicates are not searched "
                "for, only duplicates."
            )
    flat = duplicates.first_appearance(flat)
    size = np.bincount(flat)
    if kind and (size > 1).any():
        notes.append(
            f"{size[size > 1].sum():,} rows form {(size > 1).sum():,} groups of {kind}; the "
            f"largest has {size.max():,} rows."
        )
    bounds = np.cumsum([0, *sizes])
    return {
        name: flat[low:high]
        for name, low, high in zip(parts, bounds[:-1], bounds[1:], strict=True)
    }


def choose_rows(
    source: Source,
    options: Options,
    parts: dict[str, Rows],
    codes: dict[str, Any],
    groups: dict[str, Any],
    names: list[str],
    notes: list[str],
) -> dict[str, tuple[str, Any]]:
    """For each split: the part it comes from and its rows in their order."""
    import numpy as np

    pool = "all" if "all" in parts else "train"
    wanted = {
        side: size
        for side, size in ((split.VALIDATION, options.validation), (split.TEST, options.test))
        if split.SPLITS[side] not in parts
    }
    keys = {name: np.asarray(rows.keys, np.uint64) for name, rows in parts.items()}
    _check_sizes(source, wanted, len(codes[pool]))
    if wanted and options.stratify:
        _check_classes(source, pool, parts, codes, groups, names, notes)
    side = split.carve(
        codes[pool], groups[pool], keys[pool], wanted, options.seed, options.stratify
    )
    chosen: dict[str, tuple[str, Any]] = {}
    for number, name in enumerate(split.SPLITS):
        part = pool if name == "train" or name not in parts else name
        rows = np.flatnonzero(side == number) if part == pool else np.arange(len(codes[part]))
        # Given splits are ordered by content alone: the same first rows for all seeds.
        seed = options.seed if part == pool else 0
        order = split.nested_order(codes[part][rows], keys[part][rows], seed, options.stratify)
        chosen[name] = (part, rows[order])
    _check_labels(source, chosen, codes, names)
    if len(parts) > 1:
        _count_across(source, parts, groups, notes)
    return chosen


def _check_sizes(source: Source, wanted: dict[int, float], rows: int) -> None:
    taken = sum(size if size >= 1 else size * rows for size in wanted.values())
    least = len(wanted) + 1
    if rows < least or rows - taken < 1:
        sizes = ", ".join(f"{split.SPLITS[side]}={size:g}" for side, size in wanted.items())
        raise CorpusError(
            f"{source.name}: {rows:,} rows are too few for {sizes}.",
            "Choose smaller splits, or add rows.",
        )


def _check_classes(
    source: Source,
    pool: str,
    parts: dict[str, Rows],
    codes: dict[str, Any],
    groups: dict[str, Any],
    names: list[str],
    notes: list[str],
) -> None:
    """A class needs a group for each split that is made."""
    import numpy as np

    needed = 1 + sum(name not in parts for name in split.SPLITS[1:])
    rows = np.bincount(codes[pool], minlength=len(names))
    have = split.groups_per_class(codes[pool], groups[pool], len(names))
    rare = [at for at in range(len(names)) if rows[at] > 0 and have[at] < needed]
    if not rare:
        return
    listed = ", ".join(f"{names[at]!r} ({rows[at]})" for at in rare[:10])
    listed += f" and {len(rare) - 10} more" if len(rare) > 10 else ""
    if source.embedded or pool == "train":
        notes.append(f"Classes too small to be in every split that we make: {listed}.")
        return
    raise CorpusError(
        f"{source.name}: too few separate texts in classes {listed} for {needed} splits.",
        f"Each class needs at least {needed} texts that are not copies of each other. Merge "
        "small classes, add rows, give your own splits in a folder, or pass stratify=False.",
    )


def _check_labels(
    source: Source, chosen: dict[str, tuple[str, Any]], codes: dict[str, Any], names: list[str]
) -> None:
    """Labels that are never trained on cannot be learnt."""
    present = {split: set(codes[part][rows].tolist()) for split, (part, rows) in chosen.items()}
    for name in ("validation", "test"):
        if alone := sorted(present[name] - present["train"]):
            listed = ", ".join(repr(names[code]) for code in alone[:10])
            raise CorpusError(
                f"{source.name}: labels of the {name} split that no training row has: "
                f"{listed}.",
                "Check their spelling (upper and lower case count), add training rows with "
                "them, or remove these rows.",
            )


def _count_across(
    source: Source, parts: dict[str, Rows], groups: dict[str, Any], notes: list[str]
) -> None:
    import numpy as np

    trained = np.unique(groups["train"])
    whose = "published" if source.published else "given"
    for name in parts:
        if name != "train":
            count = int(np.isin(groups[name], trained).sum())
            notes.append(
                f"The {name} split is the {whose} one. {count:,} of its {len(groups[name]):,} "
                "rows are in a group that also has training rows; they stay where they are."
            )
