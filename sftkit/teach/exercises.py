"""Exercises that check themselves, and name the likely mistake instead of raising."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

Case = tuple[Any, ...]  # the arguments of one call
PROVE = "SFTKIT_PROVE_EXERCISES"  # environment variable of builds and tests


class Exercise:
    """What an answer must do. Call it with the reader's function; it prints one sentence.

    Builds and tests set ``SFTKIT_PROVE_EXERCISES``: then every exercise shows, while it is
    made, that each of its planted mistakes fails with its own sentence.

    Args:
        name: What the exercise is called.
        reference: Gives the right result for each case: a function that shares no code with
            the solution (a library's), or the list of the results.
        cases: Arguments to try, edge cases among them; not those of the text.
        mistakes: ``(function, sentence)``, at least two: wrong functions that readers write,
            and what to tell those whose results equal theirs.
        tolerance: Largest absolute difference of numbers.
    """

    def __init__(
        self,
        name: str,
        reference: Callable[..., Any] | Sequence[Any],
        cases: Sequence[Case],
        mistakes: Sequence[tuple[Callable[..., Any], str]],
        tolerance: float = 1e-6,
    ) -> None:
        self.name, self.cases, self.mistakes = name, list(cases), list(mistakes)
        self.tolerance = tolerance
        if callable(reference):
            self.expected = [reference(*copy.deepcopy(case)) for case in self.cases]
        else:
            self.expected = list(reference)
        if len(self.expected) != len(self.cases):
            raise ValueError(
                f"{name}: {len(self.expected)} results for {len(self.cases)} cases"
            )
        if os.environ.get(PROVE):
            self._prove()

    def __call__(self, answer: Callable[..., Any]) -> None:
        """Try an answer on every case, and print one sentence."""
        self.passes(answer)

    def passes(self, answer: Callable[..., Any]) -> bool:
        """As a call, and says whether the answer is right on all cases."""
        for case, expected in zip(self.cases, self.expected, strict=True):
            try:
                found = answer(*copy.deepcopy(case))
            except NotImplementedError:
                print(
                    f"{self.name}: not begun. Replace the line that raises NotImplementedError."
                )
                return False
            except Exception as problem:  # whatever the reader's code raises is theirs to read
                kind = type(problem).__name__
                print(f"{self.name}: your code raises {kind}: {_short(problem, 300)}")
                return False
            if not _close(found, expected, self.tolerance):
                print(f"{self.name}: not right yet. {self._likely(case, found, expected)}")
                return False
        print(f"{self.name}: right on {len(self.cases)} cases.")
        return True

    def _likely(self, case: Case, found: Any, expected: Any) -> str:
        for wrong, sentence in self.mistakes:
            try:
                result = wrong(*copy.deepcopy(case))
            except Exception:  # a wrong function may fail where a right one does not
                continue
            if _close(found, result, self.tolerance):
                return sentence
        if found is None:
            return "Your function returns nothing: is there a return?"
        here, there = _shape(found), _shape(expected)
        if here is not None and there is not None and here != there:
            return f"The result has shape {here}; expected {there}."
        arguments = ", ".join(_short(repr(argument)) for argument in case)
        return (
            f"For ({arguments}) it gives {_short(repr(found))}; "
            f"expected {_short(repr(expected))}."
        )

    def _prove(self) -> None:
        """Every planted mistake must fail, and be told its own sentence."""
        assert len(self.mistakes) >= 2, f"{self.name}: plant at least two mistakes"
        for wrong, sentence in self.mistakes:
            said = StringIO()
            with redirect_stdout(said):
                passed = self.passes(wrong)
            assert not passed, f"{self.name}: a mistake passes: {sentence}"
            assert sentence in said.getvalue(), (
                f"{self.name}: the mistake of {sentence!r} is told {said.getvalue()!r}"
            )


def _close(a: Any, b: Any, tolerance: float) -> bool:
    import numpy as np

    try:
        a, b = _array(a), _array(b)
    except (TypeError, ValueError):
        return _same(a, b)
    if a.dtype == object or b.dtype == object:
        return False
    return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)


def _array(value: Any) -> Any:
    import numpy as np

    if value is None or isinstance(value, str | bytes | dict | set):
        raise TypeError
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype=float)


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(type(a) is type(b) and a == b)
    except Exception:  # arrays inside lists have no single truth value
        return False


def _shape(value: Any) -> tuple[int, ...] | None:
    try:
        return tuple(_array(value).shape)
    except (TypeError, ValueError):
        return None


def _short(value: Any, most: int = 80) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 1] + "…"
