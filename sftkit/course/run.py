"""Run a notebook with parameters; a run is done when its ``result.json`` is there.

A run's folder is named after the hash of everything that goes in: the notebook's cells, the
parameters, the bytes of input files, the pinned assets and the package's own modules. The
same run is therefore never done twice, and a changed one never passes for the old.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftkit.course.planned import SET_BY_RUNNER, PlannedRun, prepare
from sftkit.course.records import METRICS_FILE
from sftkit.errors import ParameterError, RunError
from sftkit.files import Held, held, read_json, write_json
from sftkit.teach.progress import CURVES_FILE

RESULT, FAILURE, NOTEBOOK, PAGE = (
    "result.json",
    "failure.json",
    "notebook.ipynb",
    "notebook.html",
)
PROGRESS = ".progress.json"

__all__ = ["SET_BY_RUNNER", "RunResult", "finished", "plan", "run", "run_planned"]


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: Where everything is.
        data: The content of ``result.json``.
        fresh: Whether the notebook ran now; False when the run had been done before.
    """

    folder: Path
    data: dict[str, Any]
    fresh: bool

    @property
    def metrics(self) -> dict[str, Any]:
        return self.data["metrics"]

    @property
    def html(self) -> Path:
        return self.folder / PAGE


class Busy(RunError):
    """Another process does the same run at this moment."""


def tell_stderr(line: str) -> None:
    """One line for the person who waits."""
    print(line, file=sys.stderr, flush=True)


def plan(
    notebook: str | Path, parameters: Mapping[str, Any], folder: Path | None = None
) -> PlannedRun:
    """Check the parameters and hash what goes in; nothing is executed.

    Raises:
        ParameterError: The notebook or a parameter is unknown, or a value does not fit.
    """
    return prepare(notebook, folder).run(parameters)


def run(
    notebook: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
    resume: bool = False,
    store: Path | str = Path("runs"),
    folder: Path | None = None,
    tell: Callable[[str], None] = tell_stderr,
) -> RunResult:
    """Run a notebook, unless the same run is done already.

    Args:
        notebook: Number, name or path.
        parameters: Values, or texts as typed on a command line.
        force: Run again even if the run is done.
        resume: Go on from the last checkpoint of an interrupted run.
        store: Folder of all runs.
        folder: The notebooks' folder; the checkout's by default.
        tell: Receives lines for the person who waits.

    Raises:
        ParameterError: Before anything starts.
        RunError: A cell failed, the kernel died, or another process does the same run.
    """
    if force and resume:
        raise ParameterError(
            "A run cannot be both repeated from the start and resumed.",
            "Give either --force or --resume.",
        )
    planned = plan(notebook, parameters or {}, folder)
    if resume and "resume" not in planned.accepts:
        raise ParameterError(
            f"{planned.source.name} cannot be resumed: it has no parameter 'resume'.",
            "Run it from the start; without --force a finished run is not repeated.",
        )
    return run_planned(planned, store, force=force, resume=resume, tell=tell)


def run_planned(
    planned: PlannedRun,
    store: Path | str,
    *,
    force: bool = False,
    resume: bool = False,
    tell: Callable[[str], None] = tell_stderr,
) -> RunResult:
    """As `run`, for a run that has been planned.

    Raises:
        Busy: Another process does the same run.
        RunError: A cell failed, or the kernel died.
    """
    target = planned.folder(Path(store))
    try:
        with held(target.parent, f".{target.name}"):
            if not force and (done := finished(planned, target)):
                tell(f"{planned.source.name}: this run is done already; --force repeats it")
                return RunResult(target, done, fresh=False)
            return _run(planned, target, resume, tell)
    except Held as owner:
        raise Busy(
            f"This run is being done at this moment, in {target}, by {owner}.",
            "Wait until it is done; then this command shows its result.",
        ) from None


def finished(planned: PlannedRun, target: Path) -> dict[str, Any] | None:
    """The result in a run's folder if it is whole and belongs to the plan."""
    return whole_result(target, planned.hash)


def whole_result(target: Path, digest: str) -> dict[str, Any] | None:
    """The result in a run's folder if it is whole and has this hash."""
    try:
        data = read_json(target / RESULT)
    except (OSError, ValueError):
        return None
    whole = all((target / name).is_file() for name in data.get("files", [RESULT]))
    return data if data.get("hash") == digest and whole else None


def _run(
    planned: PlannedRun, target: Path, resume: bool, tell: Callable[[str], None]
) -> RunResult:
    aside = target.with_name(f"{target.name}.before")
    if resume:
        _forget_outcome(target)
        if not has_checkpoints(target):
            tell(f"{planned.source.name}: no checkpoint to go on from; starting afresh")
    elif target.exists():
        _put_aside(target, aside, tell)
    target.mkdir(parents=True, exist_ok=True)
    resume = resume and has_checkpoints(target)
    started = time.time()
    try:
        executed, facts = _execute(planned, target, resume)
    except RunError as error:
        failure = {
            "notebook": planned.source.name,
            "hash": planned.hash,
            "parameters": planned.parts["parameters"],
            "error": str(error),
            "cell": getattr(error, "cell", None),
            "seconds": round(time.time() - started, 3),
        }
        write_json(target / FAILURE, failure)
        raise
    finally:
        (target / PROGRESS).unlink(missing_ok=True)
    data = _result(planned, target, executed, facts, started, resume)
    write_json(target / RESULT, data)
    shutil.rmtree(aside, ignore_errors=True)
    return RunResult(target, data, fresh=True)


def _forget_outcome(target: Path) -> None:
    """Take away what an earlier attempt said about itself; checkpoints stay."""
    for name in (RESULT, FAILURE, METRICS_FILE, NOTEBOOK, PAGE):
        (target / name).unlink(missing_ok=True)


def has_checkpoints(target: Path) -> bool:
    """Whether a run's folder holds something to go on from."""
    folder = target / "checkpoints"
    # Hidden files are locks and what a killed process has not finished.
    return folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())


def _put_aside(target: Path, aside: Path, tell: Callable[[str], None]) -> None:
    """Keep what is in the folder until the new run has succeeded."""
    if not (target / RESULT).exists() and has_checkpoints(target):
        tell(
            f"{target.parent.name}: an interrupted run left checkpoints; this run starts "
            f"afresh. They are kept in {aside.name} until it succeeds (to go on from "
            "checkpoints instead, use --resume)"
        )
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(target, aside)


def _execute(planned: PlannedRun, target: Path, resume: bool) -> tuple[Any, dict[str, Any]]:
    """The executed notebook, written to the run's folder also when it fails."""
    from sftkit.course.engine import execute

    given = {name: {"out": str(target), "resume": resume}[name] for name in planned.accepts}
    return execute(
        planned.notebook,
        planned.source.name,
        planned.parameters | given,
        target / NOTEBOOK,
        target / PROGRESS,
    )


def _result(
    planned: PlannedRun,
    target: Path,
    executed: Any,
    facts: dict[str, Any],
    started: float,
    resumed: bool,
) -> dict[str, Any]:
    """The content of ``result.json``; writes the page on the way."""
    from sftkit.course.html import to_html

    to_html(target / NOTEBOOK, target / PAGE, planned.parameters)
    try:
        recorded = read_json(target / METRICS_FILE)
    except FileNotFoundError:
        recorded = {"metrics": {}}
    cells = [
        {
            "cell": cell.execution_count,
            "begins": cell.source.strip().split("\n")[0][:80],
            "seconds": round(cell.metadata.get("papermill", {}).get("duration") or 0.0, 3),
        }
        for cell in executed.cells
        if cell.cell_type == "code"
    ]
    with suppress(FileNotFoundError):
        recorded["curves"] = read_json(target / CURVES_FILE)
    files = [name for name in (NOTEBOOK, PAGE, METRICS_FILE) if (target / name).is_file()]
    return {
        "notebook": planned.source.name,
        "status": "done",
        "hash": planned.hash,
        "parameters": planned.parts["parameters"],
        "seed": planned.parameters.get("seed"),
        "repetition": planned.parts.get("repetition", 0),
        **recorded,
        "timings": {
            "seconds": round(sum(cell["seconds"] for cell in cells), 3),
            "with_page": round(time.time() - started, 3),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "cells": cells,
        },
        "resumed": resumed,
        **facts,
        "hashes": planned.parts,
        "files": files,
    }
