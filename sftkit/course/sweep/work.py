"""One run of a sweep, in the process that does it. What comes back is a small record."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sftkit.course import hashes
from sftkit.course.planned import PlannedRun
from sftkit.course.run import FAILURE, Busy, finished, has_checkpoints, run_planned
from sftkit.errors import RunError
from sftkit.files import read_json, write_json

STOPPED = "stopped.json"  # in the run's folder: a guided sweep gave it up
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
LARGEST_INPUT = 50_000_000  # bytes that travel with a job
FULL_TEXTS = tuple(f"[Errno {number}]" for number in FULL)


@dataclass(frozen=True)
class Job:
    """A run on its way to a worker: everything that it needs, wherever that is.

    Attributes:
        store: Folder of all runs, as the worker sees it, or an address.
        attempt: From 1.
        threads: Of the kernel; 0 leaves them as they are.
        inputs: Files that parameters name, for workers that do not see this machine's.
        fetch: Whether pinned assets may be missing where the worker is.
    """

    planned: PlannedRun
    store: str
    attempt: int = 1
    threads: int = 0
    inputs: dict[str, bytes] = field(default_factory=dict)
    fetch: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        state: ``done``, ``failed``, ``stopped`` (given up by the sweep), ``busy`` (another
            process does it) or ``full`` (no space left).
        data: The content of ``result.json`` when it is done.
    """

    state: str
    seconds: float = 0.0
    data: dict[str, Any] | None = None
    error: str = ""
    cell: int | None = None
    host: str = ""
    process: int = 0


Work = Callable[[Job], Outcome]


def do(job: Job) -> Outcome:
    """Run the notebook of a job. Nothing that goes wrong in it is raised."""
    started = time.monotonic()
    for name in THREADS if job.threads else ():
        os.environ[name] = str(job.threads)  # kernels inherit it
    try:
        outcome = _do(job)
    except Busy:
        outcome = Outcome("busy")
    except RunError as error:
        outcome = _failed(job, error, str(error))
    except OSError as error:
        state = "full" if error.errno in FULL else "failed"
        text = f"{type(error).__name__}: {error}"
        outcome = Outcome(state, error=text) if state == "full" else _failed(job, error, text)
    except Exception as error:  # a fault of ours must not take the sweep down
        outcome = _failed(job, error, f"{type(error).__name__}: {error}")
    seconds = round(time.monotonic() - started, 3)
    return replace(outcome, seconds=seconds, host=platform.node(), process=os.getpid())


def _do(job: Job) -> Outcome:
    from sftkit.course.sweep.remote import working_store

    planned = job.planned
    code = hashes.code_of(planned.notebook)
    if hashes.package_hash(code) != planned.parts["package"]:
        raise RunError(
            f"The worker on {platform.node()} has another version of sftkit.",
            "Install the same version there, and start the workers again.",
        )
    if job.fetch and planned.parts["assets"]:
        from sftkit import assets

        assets.fetch(list(planned.parts["assets"]))
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(working_store(job.store, planned))
        if job.inputs:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sftkit-in-")))
            planned = _with_inputs(planned, job.inputs, place)
        target = planned.folder(store)
        resume = (
            "resume" in planned.accepts
            and not (target / FAILURE).exists()
            and has_checkpoints(target)
            and not finished(planned, target)
        )
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))  # lines per cell
        done = run_planned(planned, store, resume=resume, tell=lambda line: None)
    return Outcome("done", data=done.data)


def _failed(job: Job, error: Exception, text: str) -> Outcome:
    """The outcome of a run that raised; its folder says how often it was tried."""
    cell = getattr(error, "cell", None)
    if any(number in text for number in FULL_TEXTS):
        return Outcome("full", error=text, cell=cell)
    target = job.planned.folder(Path(job.store)) if "://" not in job.store else None
    stopped = getattr(error, "ename", "") == "StoppedBySweep"
    if target is not None and target.is_dir():
        failure = target / FAILURE
        known = read_json(failure) if failure.is_file() else {"error": text}
        facts = known | {"hash": job.planned.hash, "attempts": job.attempt}
        if stopped:
            write_json(target / STOPPED, facts)
            failure.unlink(missing_ok=True)
        else:
            write_json(failure, facts)
    return Outcome("stopped" if stopped else "failed", error=text, cell=cell)


def inputs_of(planned: PlannedRun) -> dict[str, bytes]:
    """Small files that parameters name, to travel with the job."""
    found = {}
    for value in planned.parameters.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and Path(item).is_absolute() and Path(item).is_file():
                if Path(item).stat().st_size > LARGEST_INPUT:
                    continue  # the workers must see it where it is
                found[item] = Path(item).read_bytes()
    return found


def _with_inputs(planned: PlannedRun, inputs: dict[str, bytes], place: Path) -> PlannedRun:
    """The run with the files that came along, where they are not on this machine."""
    moved = {}
    for number, (name, content) in enumerate(inputs.items()):
        if not Path(name).exists():
            path = place / str(number) / Path(name).name
            path.parent.mkdir()
            path.write_bytes(content)
            moved[name] = str(path)

    def at(value: Any) -> Any:
        if isinstance(value, list):
            return [at(item) for item in value]
        return moved.get(value, value) if isinstance(value, str) else value

    parameters = {name: at(value) for name, value in planned.parameters.items()}
    return replace(planned, parameters=parameters)
