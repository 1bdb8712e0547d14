"""Exercises that check themselves, and name the likely mistake instead of raising."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Case = tuple[Any, ...]  # the arguments of one call


def check(
    name: str,
    answer: Callable[..., Any],
    solution: Callable[..., Any],
    cases: Sequence[Case],
    mistakes: Sequence[tuple[Callable[..., Any], str]] = (),
    tolerance: float = 1e-6,
) -> bool:
    """Compare a reader's function with the solution, and print one sentence.

    Args:
        name: What the exercise is called.
        answer: The reader's function. One that raises NotImplementedError is not begun.
        solution: Gives the right result for each case.
        cases: Arguments to try, edge cases among them.
        mistakes: ``(function, sentence)``: wrong functions that readers write, and what to
            tell those whose results equal theirs.
        tolerance: Largest absolute difference of numbers.

    Returns:
        Whether the answer is right on every case.
    """
    for case in cases:
        expected = solution(*case)
        try:
            found = answer(*case)
        except NotImplementedError:
            print(f"{name}: not begun. Replace the line that raises NotImplementedError.")
            return False
        except Exception as problem:  # whatever the reader's code raises is theirs to read
            print(f"{name}: your code raises {type(problem).__name__}: {problem}")
            return False
        if not _close(found, expected, tolerance):
            print(
                f"{name}: not right yet. {_likely(case, found, expected, mistakes, tolerance)}"
            )
            return False
    print(f"{name}: right on {len(cases)} cases.")
    return True


def _likely(
    case: Case,
    found: Any,
    expected: Any,
    mistakes: Sequence[tuple[Callable[..., Any], str]],
    tolerance: float,
) -> str:
    for wrong, sentence in mistakes:
        if _close(found, wrong(*case), tolerance):
            return sentence
    arguments = ", ".join(_short(argument) for argument in case)
    return f"For ({arguments}) it gives {_short(found)}; expected {_short(expected)}."


def _close(a: Any, b: Any, tolerance: float) -> bool:
    import numpy as np

    try:
        a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    except (TypeError, ValueError):
        return bool(type(a) is type(b) and a == b)
    return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)


def _short(value: Any, most: int = 80) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= most else text[: most - 1] + "…"
