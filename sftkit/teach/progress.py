"""Progress of long work: a bar for a person, a small file for a runner outside."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CURVES_FILE = "curves.json"  # in the run's folder: evaluations by the label of the training
STOP_FILE = ".stop"  # beside it: the sweep has given the run up
PROGRESS_FILE = "SFTKIT_PROGRESS"  # environment variable: where to write, set by the runner


class Progress:
    """Counts steps; draws a tqdm bar, and tells the file that the runner watches."""

    def __init__(self, total: int, label: str, done: int = 0) -> None:
        from tqdm.auto import tqdm

        self.total, self.label, self.done = total, label, done
        # Builds and tests set TQDM_DISABLE to keep outputs repeatable; in a notebook tqdm
        # does not look at it by itself.
        quiet = bool(os.environ.get("TQDM_DISABLE"))
        self._bar = tqdm(total=total, initial=done, desc=label, leave=False, disable=quiet)
        self._file = os.environ.get(PROGRESS_FILE)
        self._told = 0.0

    def advance(self, count: int = 1, **facts: Any) -> None:
        """Count steps as done; ``facts`` (loss, rate) are shown beside the bar."""
        self.done += count
        self._bar.set_postfix(facts, refresh=False)
        self._bar.update(count)
        now = time.monotonic()
        if self._file and (now - self._told > 0.3 or self.done >= self.total):
            self._told = now
            self._tell(facts)

    def _tell(self, facts: dict[str, Any]) -> None:
        from sftkit.files import write_json

        state = {"label": self.label, "done": self.done, "total": self.total}
        facts = {name: str(value) for name, value in facts.items()}
        try:
            write_json(Path(str(self._file)), state | {"facts": facts})
        except OSError:  # a watcher's file must never stop the work
            self._file = None

    def close(self) -> None:
        self._bar.close()


@contextmanager
def progress(total: int, label: str, done: int = 0) -> Iterator[Progress]:
    """A bar over ``total`` steps, closed at the end of the block."""
    bar = Progress(total, label, done)
    try:
        yield bar
    finally:
        bar.close()


class StoppedBySweep(Exception):
    """A sweep has seen enough of this run, and uses the time for others."""


def tell_evaluations(label: str, evaluations: list[dict[str, float]]) -> None:
    """Hand the evaluations so far to the runner outside, if there is one.

    The runner keeps them as the run's learning curve; a guided sweep decides by them whether
    the run goes on.

    Args:
        label: Which training, when a notebook has several.
        evaluations: One row of numbers per evaluation, with ``step``; all of them so far.

    Raises:
        StoppedBySweep: The sweep has given the run up.
    """
    from sftkit.files import read_json, write_json

    if not (watched := os.environ.get(PROGRESS_FILE)):
        return
    folder = Path(watched).parent
    try:
        known = read_json(folder / CURVES_FILE)
    except (OSError, ValueError):
        known = {}
    try:
        write_json(folder / CURVES_FILE, known | {label: evaluations})
    except (OSError, ValueError):  # a full disk, or NaN: the work itself says so
        return
    if (folder / STOP_FILE).exists():
        raise StoppedBySweep(f"{label}: given up after {len(evaluations)} evaluations")
