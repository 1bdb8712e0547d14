"""Arguments that must be numbers: checked at once, with errors that name them."""

from __future__ import annotations

import math
import operator
from typing import Any

from sftkit.errors import ParameterError


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least``; numpy's count too, True and 3.0 do not.

    Raises:
        ParameterError: Naming the argument, what was given and what is wanted.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ParameterError(f"{name}={value!r}.", f"Give a whole number of at least {least}.")
    return number


def number(
    name: str, value: Any, *, above: float | None = None, least: float | None = None
) -> float:
    """A finite number, above one bound or at least another.

    Raises:
        ParameterError: As `whole`.
    """
    known = hasattr(value, "__float__") and not isinstance(value, bool | str)
    try:
        found = float(value) if known else math.nan
    except (TypeError, ValueError):
        found = math.nan
    low = (above is not None and not found > above) or (
        least is not None and not found >= least
    )
    if not math.isfinite(found) or low:
        bound = f" above {above}" if above is not None else ""
        bound = f" of at least {least}" if least is not None else bound
        raise ParameterError(f"{name}={value!r}.", f"Give a finite number{bound}.")
    return found
