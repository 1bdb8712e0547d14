"""How long a plan will take and how much memory, judged by earlier runs in the store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftkit.course import notebooks
from sftkit.course.sweep.runs import Run
from sftkit.files import read_json

NEAREST = 5
MOST_READ = 300  # earlier runs, the newest
RUNNER_GB = 0.3  # the worker beside its kernel


@dataclass(frozen=True)
class Estimate:
    """Of a number of runs.

    Attributes:
        seconds: Of all runs one after the other; None when nothing is known.
        memory: GB of one run, kernel and worker; None when nothing is known.
        basis: What it rests on, in words.
    """

    seconds: float | None
    memory: float | None
    basis: str

    def words(self, at_once: int) -> str:
        """A sentence for a person who decides whether to wait."""
        if self.seconds is None:
            return self.basis
        time = duration(self.seconds / max(1, at_once))
        memory = f", {self.memory:.1f} GB for each" if self.memory else ""
        return f"about {time} with {at_once} at a time{memory} ({self.basis})"


def earlier(store: Path, notebook: str) -> list[dict[str, Any]]:
    """Results of the notebook's runs in a store, the newest first, of any version."""
    paths = Path(store).glob(f"{notebook}/*/result.json")
    newest = sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
    found = []
    for path in newest[:MOST_READ]:
        try:
            found.append(read_json(path))
        except (OSError, ValueError):
            continue
    return found


def estimate(runs: list[Run], known: list[dict[str, Any]]) -> Estimate:
    """Time and memory of runs, from the nearest earlier ones.

    A run is near when it has the same parameters, or numbers of nearly the same size. Times
    are averaged over the nearest few, weighted by nearness.
    """
    if not runs:
        return Estimate(0.0, None, "nothing to do")
    peaks = [data["peak_memory_gb"] for data in known if data.get("peak_memory_gb")]
    memory = round(max(peaks) + RUNNER_GB, 2) if peaks else None
    if not known:
        header = notebooks.header(runs[0].planned.notebook)
        if not header.minutes:
            return Estimate(None, None, "no earlier runs to judge the time by")
        seconds = 60.0 * header.minutes * len(runs)
        return Estimate(seconds, None, "no earlier runs; by the notebook's own minutes")
    seen: dict[int, float] = {}
    total = 0.0
    for run in runs:
        if run.number not in seen:
            seen[run.number] = _seconds(run.planned.parts["parameters"], known)
        total += seen[run.number]
    return Estimate(total, memory, f"by {len(known)} earlier runs")


def _seconds(parameters: Mapping[str, Any], known: list[dict[str, Any]]) -> float:
    near = sorted(
        (distance(parameters, data["parameters"]), i, data["timings"]["with_page"])
        for i, data in enumerate(known)
    )[:NEAREST]
    weights = [1 / (0.05 + d) for d, _, _ in near]
    return sum(w * s for w, (_, _, s) in zip(weights, near, strict=True)) / sum(weights)


def distance(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """How far two runs' parameters are apart; the seed does not count."""
    total = 0.0
    for name in a.keys() | b.keys():
        x, y = a.get(name), b.get(name)
        if x == y or name == "seed":
            continue
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (x, y))
        if numbers and x > 0 and y > 0:  # type: ignore[operator]
            total += min(3.0, abs(math.log(x / y)))  # type: ignore[operator]
        else:
            total += 1.0
    return total


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
