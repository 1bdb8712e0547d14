"""What is done, running, failed and left: while a sweep runs, and from its store alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftkit.course.sweep.estimate import duration
from sftkit.course.sweep.plan import Plan
from sftkit.course.sweep.runs import Run
from sftkit.course.sweep.store import counts, metric_of, states


def number(value: Any) -> str:
    """A parameter's value, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def label_of(chosen: dict[str, Any], varied: list[str], seed: int | None, copy: int = 0) -> str:
    """``lr=0.0002 train=all seed=1``: what tells a run from the others."""
    parts = [f"{name}={number(chosen[name])}" for name in varied if name in chosen]
    parts += [f"seed={seed}"] if seed is not None else []
    parts += [f"repetition={copy}"] if copy else []
    return " ".join(parts) or "the run"


@dataclass
class Progress:
    """The state of a sweep under way, for those who look on."""

    plan: Plan
    total: int
    executor: str = ""
    done: int = 0
    failed: int = 0
    stopped: int = 0
    running: dict[str, Run] = field(default_factory=dict)
    values: list[tuple[Run, float]] = field(default_factory=list)  # of the runs done
    seconds: list[float] = field(default_factory=list)  # of the runs done now

    def label(self, run: Run) -> str:
        return label_of(run.chosen, self.plan.varied, run.seed, run.repetition)

    def begin(self, run: Run) -> None:
        self.running[run.hash] = run

    def end(self, run: Run) -> None:
        """It is not under way any more, and will come again."""
        self.running.pop(run.hash, None)

    def settle(self, run: Run, state: str, value: float | None, seconds: float) -> None:
        self.end(run)
        setattr(self, state, getattr(self, state) + 1)
        if value is not None:
            self.values.append((run, value))
        if seconds:
            self.seconds.append(seconds)

    @property
    def settled(self) -> int:
        return self.done + self.failed + self.stopped

    @property
    def seconds_left(self) -> float | None:
        """By the mean of the runs done now; None before the first."""
        if not self.seconds:
            return None
        mean = sum(self.seconds) / len(self.seconds)
        return mean * (self.total - self.settled) / max(1, len(self.running))

    @property
    def words(self) -> str:
        """``12 of 60 done, 2 running, 1 failed, about 14 min left``."""
        parts = [f"{self.done} of {self.total} done", f"{len(self.running)} running"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.stopped} given up"] if self.stopped else []
        if self.seconds_left is not None and self.settled < self.total:
            parts.append(f"about {duration(self.seconds_left)} left")
        return ", ".join(parts)


class Bar:
    """A bar for a person, a line per run for a log."""

    def __init__(self, progress: Progress, tell: Callable[[str], None]) -> None:
        self.progress, self.tell = progress, tell
        self.person = sys.stderr.isatty()
        self._bar: Any = None

    def __enter__(self) -> Bar:
        if self.person:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self.progress.total, unit="run", desc=self.progress.plan.name
            )
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def refresh(self) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(self.progress.words, refresh=False)
            self._bar.update(self.progress.settled - self._bar.n)
            self._bar.refresh()

    def line(
        self, run: Run, state: str, value: float | None, seconds: float, error: str
    ) -> None:
        """A run has ended."""
        shown = f"{self.progress.plan.metric} {value:.4g}" if value is not None else state
        text = f"{self.progress.label(run)}: {shown}"
        text += f" ({duration(seconds)})" if seconds else ""
        if state == "failed" and error:
            text += f"\n    {error.splitlines()[0]}"
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            self.tell(f"[{self.progress.settled}/{self.progress.total}] {text}")
            if self.progress.settled % 10 == 0:
                self.tell(self.progress.words)


def status_words(store: Path, manifest: dict[str, Any]) -> list[str]:
    """Lines for ``sftkit status``: the counts, the best, what runs, what failed."""
    found = states(store, manifest)
    counted = counts(found, manifest["total"])
    head = ", ".join(
        f"{n} {'given up' if name == 'stopped' else name}" for name, n in counted.items() if n
    )
    lines = [f"{manifest['name']}: {head or 'nothing planned'}, of {manifest['total']} runs"]
    times = [s.data["timings"]["with_page"] for s in found if s.name == "done"]
    left = manifest["total"] - counted["done"] - counted["failed"] - counted["stopped"]
    if times and left:
        mean = sum(times) / len(times)
        lines.append(f"left: about {duration(mean * left)} of one worker's time")
    best = _best(manifest, found)
    if best:
        lines.append(best)
    for run, state in zip(manifest["runs"], found, strict=True):
        name = label_of(run["chosen"], manifest["varied"], run["seed"], run["repetition"])
        if state.name == "running":
            lines.append(f"running: {name}{_step(store, manifest, run)}")
        elif state.name == "failed":
            first = state.data.get("error", "").splitlines() or [""]
            lines.append(f"failed:  {name}: {first[0]}")
    return lines


def _best(manifest: dict[str, Any], found: list[Any]) -> str:
    metric = manifest["metric"]
    values = [
        (metric_of(state.data, metric, manifest["maximize"]), run)
        for run, state in zip(manifest["runs"], found, strict=True)
        if metric and state.name == "done"
    ]
    known = [(value, run) for value, run in values if value is not None]
    if not known:
        return ""
    sign = 1 if manifest["maximize"] else -1
    value, run = max(known, key=lambda pair: sign * pair[0])
    name = label_of(run["chosen"], manifest["varied"], run["seed"], run["repetition"])
    return f"best:    {name}: {metric} {value:.4g} (a single run: see the report for means)"


def _step(store: Path, manifest: dict[str, Any], run: dict[str, Any]) -> str:
    """How far a run under way has come, as its kernel tells."""
    from sftkit.course.run import PROGRESS
    from sftkit.course.sweep.store import run_folder
    from sftkit.files import read_json

    path = run_folder(store, manifest["notebook"], run["hash"]) / PROGRESS
    try:
        state, age = read_json(path), time.time() - path.stat().st_mtime
    except (OSError, ValueError):
        return ""
    return f", {state['label']} {state['done']}/{state['total']}, {age:.0f} s ago"
