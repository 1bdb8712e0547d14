"""Where a sweep's runs come from, and what is said of it in the end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sftkit.course.sweep.runs import Run


@dataclass
class Summary:
    """How a sweep ended.

    Attributes:
        done, failed, stopped, left: Numbers of runs; ``left`` were not begun (budget).
        fresh: Runs that were done now, not before.
    """

    store: Path
    name: str
    done: int = 0
    failed: int = 0
    stopped: int = 0
    left: int = 0
    fresh: int = 0
    attempts: int = 0
    why: str = ""


class Source(Protocol):
    """Gives runs: a list of them, or a search."""

    total: int

    @property
    def runs(self) -> list[Run]: ...
    def take(self) -> list[Run]: ...
    def land(self, run: Run, state: str, data: dict[str, Any] | None) -> list[Run]: ...
    def watch(self, under_way: list[Run]) -> list[Run]: ...


class Listed:
    """The runs of a grid or a random search."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs, self.total = runs, len(runs)
        self._next = deque(runs)

    def take(self) -> list[Run]:
        return [self._next.popleft()] if self._next else []

    def land(self, run: Run, state: str, data: dict[str, Any] | None) -> list[Run]:
        return []

    def watch(self, under_way: list[Run]) -> list[Run]:
        return []
