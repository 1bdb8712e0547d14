"""From raw labels to class names: sorted, numbered, and refused when they are no classes."""

from __future__ import annotations

import math
import re
from typing import Any

from sftkit.errors import CorpusError

MAX_CLASSES = 1_000
MISSING = frozenset(["", "nan", "NaN", "NA", "N/A", "#N/A", "null", "NULL"])
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def is_number(text: str) -> bool:
    """Whether the text is one number and nothing else."""
    return _NUMBER.fullmatch(text.strip()) is not None


def name_of(value: Any) -> str | None:
    """The class name that a raw value stands for; None when the label is missing.

    Whole numbers lose their decimal point (2.0 is class "2").

    Raises:
        TypeError: The value is a list or an object, not one label.
    """
    if value is None:
        return None
    if isinstance(value, str):
        name = value.strip()
        return None if name in MISSING else name
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    raise TypeError(type(value).__name__)


class Labels:
    """Class names and their codes, collected row by row."""

    def __init__(self, where: str, column: str) -> None:
        self.where, self.column = where, column
        self.codes: dict[str, int] = {}

    def code(self, name: str) -> int:
        """The provisional number of a class: the order of first appearance."""
        code = self.codes.get(name)
        if code is None:
            code = self.codes[name] = len(self.codes)
            if code >= 20 * MAX_CLASSES:  # certainly too many; do not read a file of ids whole
                raise self.too_many(f"more than {code:,}")
        return code

    def too_many(self, how_many: str) -> CorpusError:
        some = ", ".join(map(repr, list(self.codes)[:4]))
        return CorpusError(
            f"{self.where}: column {self.column!r} has {how_many} different labels "
            f"(at most {MAX_CLASSES:,}), among them {some}.",
            "It looks like a column of ids or of free text. Name the label column with label=.",
        )

    def finish(self) -> tuple[list[str], list[int]]:
        """The sorted class names, and the final code of each provisional one.

        Names that are all whole numbers are sorted as numbers, others as text; so the order
        never depends on the order of the rows.

        Raises:
            CorpusError: One class only, too many, or numbers with fractions.
        """
        names = list(self.codes)
        if names and all(map(is_number, names)):
            if fraction := next((name for name in names if not float(name).is_integer()), None):
                self._refuse_numbers(fraction, len(names))
            names = [str(int(float(name))) for name in names]  # "1.0" and "1" are one class
            ordered = sorted(set(names), key=int)
        else:
            ordered = sorted(set(names))
        if len(ordered) > MAX_CLASSES:
            raise self.too_many(f"{len(ordered):,}")
        if len(ordered) == 1:
            raise CorpusError(
                f"{self.where}: every row has the label {ordered[0]!r}.",
                "Classification needs at least two classes. Check the label column "
                f"({self.column!r}) and add rows of another class.",
            )
        number = {name: code for code, name in enumerate(ordered)}
        return ordered, [number[name] for name in names]

    def _refuse_numbers(self, example: str, count: int) -> None:
        raise CorpusError(
            f"{self.where}: column {self.column!r} holds {count:,} different numbers with "
            f"fractions, such as {example}.",
            "That looks like a quantity to predict, not like classes. Turn it into classes "
            "first (for instance low, middle, high), or name another column with label=.",
        )
