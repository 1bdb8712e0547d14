"""Typed access to the names of a plan; what is wrong becomes a problem with its line."""

from __future__ import annotations

import math

from sftkit.course.sweep.located import At, Problems


class Keys:
    """Typed access to the names of a mapping; what is wrong becomes a problem."""

    def __init__(self, at: At, problems: Problems) -> None:
        self.at, self.problems = at.value if at.is_mapping else {}, problems

    def section(self, name: str, known: set[str]) -> Keys:
        at = self.at.get(name, At({}, None, name))
        if not at.is_mapping:
            there = ", ".join(sorted(known))
            self.problems.add(at, f"names and values are wanted here: {there}")
            return Keys(At({}, None, name), self.problems)
        for key, inner in at.value.items():
            if key not in known:
                there = ", ".join(sorted(known))
                self.problems.add(inner, f"'{key}' is not known here; there are {there}")
        return Keys(at, self.problems)

    def text(self, name: str, default: str) -> str:
        at = self.at.get(name)
        if at is None:
            return default
        if not isinstance(at.value, str | int) or isinstance(at.value, bool):
            self.problems.add(at, f"a text is wanted here, not {at.plain!r}")
            return default
        return str(at.value)

    def choice(self, name: str, known: tuple[str, ...], default: str) -> str:
        at = self.at.get(name)
        if at is None:
            return default
        if at.value not in known:
            self.problems.add(at, f"one of {', '.join(known)} is wanted here, not {at.plain!r}")
            return default
        return str(at.value)

    def whole(self, name: str, default: int | None, least: int) -> int | None:
        at = self.at.get(name)
        if at is None:
            return default
        if type(at.value) is not int or at.value < least:
            text = f"a whole number from {least} on is wanted here, not {at.plain!r}"
            self.problems.add(at, text)
            return default
        return at.value

    def number(self, name: str, default: float | None) -> float | None:
        at = self.at.get(name)
        if at is None:
            return default
        fine = isinstance(at.value, int | float) and not isinstance(at.value, bool)
        if not fine or not (0 < at.value < math.inf):
            self.problems.add(at, f"a number above 0 is wanted here, not {at.plain!r}")
            return default
        return float(at.value)

    def seeds(self) -> tuple[int, ...]:
        """``seeds: 3`` is 0, 1, 2; ``seeds: [7, 8]`` are these."""
        at = self.at.get("seeds")
        if at is None:
            return ()
        if not isinstance(at.value, list):
            return tuple(range(self.whole("seeds", 1, 1) or 1))
        found = at.plain
        fine = all(type(seed) is int and seed >= 0 for seed in found)
        if not fine or not found or len(set(found)) != len(found):
            self.problems.add(at, "different whole numbers from 0 on are wanted here")
            return ()
        return tuple(found)
