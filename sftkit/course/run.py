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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftkit.course import hashes, notebooks
from sftkit.course.parameters import fill, parse
from sftkit.course.records import METRICS_FILE
from sftkit.errors import ParameterError, RunError
from sftkit.files import read_json, write_json

RESULT, FAILURE, NOTEBOOK, PAGE = (
    "result.json",
    "failure.json",
    "notebook.ipynb",
    "notebook.html",
)
PROGRESS = ".progress.json"
SET_BY_RUNNER = ("out", "resume")  # say where and how, not what: no part of the hash


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


@dataclass(frozen=True)
class Plan:
    """A run before it starts: checked parameters, and the hash that names its folder."""

    source: notebooks.Source
    notebook: Any
    parameters: dict[str, Any]  # as the kernel gets them, but for SET_BY_RUNNER
    accepts: frozenset[str]  # those of SET_BY_RUNNER that the notebook has
    hash: str
    parts: dict[str, Any]  # what went into the hash

    def folder(self, store: Path) -> Path:
        """``<store>/<notebook>/<first 12 digits of the hash>``."""
        return Path(store).resolve() / self.source.name / self.hash[:12]


def tell_stderr(line: str) -> None:
    """One line for the person who waits."""
    print(line, file=sys.stderr, flush=True)


def plan(
    notebook: str | Path, parameters: Mapping[str, Any], folder: Path | None = None
) -> Plan:
    """Check the parameters and hash what goes in; nothing is executed.

    Raises:
        ParameterError: The notebook or a parameter is unknown, or a value does not fit.
    """
    source = notebooks.find(notebook, folder)
    content = notebooks.read(source)
    cell = notebooks.parameters_cell(content)
    known = parse(cell.source, source.name) if cell is not None else []
    for name in SET_BY_RUNNER:
        if name in parameters:
            raise ParameterError(
                f"Parameter '{name}' is set by the runner.",
                "Use --store DIR for the folder of all runs, and --resume to go on.",
            )
    accepts = frozenset(p.name for p in known if p.name in SET_BY_RUNNER)
    settable = [p for p in known if p.name not in SET_BY_RUNNER]
    values = fill(settable, parameters, source.name)
    absolute, hashed = hashes.inputs(values, parameters)
    header = notebooks.header(content, source.name)
    texts = [t for v in values.values() for t in (v if isinstance(v, list) else [v])]
    words = {text for text in texts if isinstance(text, str)}
    used = set(header.assets) | (words & hashes.known_assets() if words else set())
    parts = {
        "notebook": hashes.source_hash(content),
        "parameters": hashed,
        "assets": hashes.assets_hash(used),
        "package": hashes.package_hash(hashes.code_of(content)),
    }
    return Plan(source, content, absolute, accepts, hashes.of_json(parts), parts)


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
    import filelock

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
    target = planned.folder(Path(store))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(str(target.parent / f".{target.name}.lock"), timeout=0):
            if not force and (done := finished(planned, target)):
                tell(f"{planned.source.name}: this run is done already; --force repeats it")
                return RunResult(target, done, fresh=False)
            return _run(planned, target, resume, tell)
    except filelock.Timeout:
        raise RunError(
            f"Another process is doing this run at this moment, in {target}.",
            "Wait until it is done; then this command shows its result.",
        ) from None


def finished(planned: Plan, target: Path) -> dict[str, Any] | None:
    """The result in a run's folder if it is whole and belongs to the plan."""
    try:
        data = read_json(target / RESULT)
    except (OSError, ValueError):
        return None
    whole = all((target / name).is_file() for name in data.get("files", [RESULT]))
    return data if data.get("hash") == planned.hash and whole else None


def _run(planned: Plan, target: Path, resume: bool, tell: Callable[[str], None]) -> RunResult:
    aside = target.with_name(f"{target.name}.before")
    if resume:
        _forget_outcome(target)
        if not _has_checkpoints(target):
            tell(f"{planned.source.name}: no checkpoint to go on from; starting afresh")
    elif target.exists():
        _put_aside(target, aside, tell)
    target.mkdir(parents=True, exist_ok=True)
    resume = resume and _has_checkpoints(target)
    started = time.time()
    try:
        executed, facts = _execute(planned, target, resume)
    except RunError as error:
        failure = {"notebook": planned.source.name, "hash": planned.hash, "error": str(error)}
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


def _has_checkpoints(target: Path) -> bool:
    folder = target / "checkpoints"
    return folder.is_dir() and any(folder.iterdir())


def _put_aside(target: Path, aside: Path, tell: Callable[[str], None]) -> None:
    """Keep what is in the folder until the new run has succeeded."""
    if not (target / RESULT).exists() and _has_checkpoints(target):
        tell(
            f"{target.parent.name}: an interrupted run left checkpoints; this run starts "
            f"afresh. They are kept in {aside.name} until it succeeds (to go on from "
            "checkpoints instead, use --resume)"
        )
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(target, aside)


def _execute(planned: Plan, target: Path, resume: bool) -> tuple[Any, dict[str, Any]]:
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
    planned: Plan,
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
    files = [name for name in (NOTEBOOK, PAGE, METRICS_FILE) if (target / name).is_file()]
    return {
        "notebook": planned.source.name,
        "status": "done",
        "hash": planned.hash,
        "parameters": planned.parts["parameters"],
        "seed": planned.parameters.get("seed"),
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
