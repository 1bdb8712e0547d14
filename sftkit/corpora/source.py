"""What a reader hands over: parts of raw rows, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

BATCH = 5_000  # rows held in memory at a time


@dataclass
class Batch:
    """Raw rows. All lists have the same length.

    Attributes:
        row: Where each row stands in its file, for messages.
        text: The texts; None or "" when missing.
        label: The labels, of any plain type; None when missing.
        pair: The second texts, or None when there are none.
        group: Values of the group column, or None.
    """

    row: list[int]
    text: list[Any]
    label: list[Any]
    pair: list[Any] | None = None
    group: list[Any] | None = None


@dataclass
class Part:
    """One file, or one split of something larger.

    Attributes:
        where: Its name in messages, such as ``reviews.csv``.
        batches: Gives the rows from the beginning; may be called more than once.
        unit: What ``Batch.row`` counts: ``row``, ``line``, or ``item`` of a list.
    """

    where: str
    batches: Callable[[], Iterator[Batch]]
    unit: str = "row"


@dataclass
class Source:
    """A data set before it is cleaned and split.

    Attributes:
        name: Its name in messages.
        parts: ``{"all": part}`` when we make the splits; else ``train`` and further ones.
        identity: Hash or version of every input, for the key of the cache.
        clean: Cleaning steps unless the caller names others.
        validation, test: Sizes of the splits we make, unless the caller names others.
        drop_duplicates: Repeated rows are left out unless the caller wants them.
        published: The given splits are those of the literature.
        columns: Names of the text, pair and label columns, for messages.
        notes: What the reader did or noticed; may grow while ``parts`` are read.
        embedded: One of our own data sets: tolerant of classes with one or two rows.
    """

    name: str
    parts: dict[str, Part]
    identity: dict[str, str]
    clean: tuple[str, ...] = ("unicode", "control", "whitespace")
    validation: float = 0.1
    test: float = 0.1
    drop_duplicates: bool = False
    published: bool = False
    columns: dict[str, str] = field(
        default_factory=lambda: {"text": "text", "text_pair": "text_pair", "label": "label"}
    )
    notes: list[str] = field(default_factory=list)
    embedded: bool = False
