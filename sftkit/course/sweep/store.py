"""What a store knows about a sweep: its manifest, and the state of each run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftkit.course.run import FAILURE, RESULT, whole_result
from sftkit.course.sweep.plan import EVALUATIONS, Plan
from sftkit.course.sweep.runs import Run
from sftkit.course.sweep.work import STOPPED
from sftkit.errors import ParameterError
from sftkit.files import read_json, write_json

SWEEPS, MANIFEST = "sweeps", "manifest.json"
STATES = ("done", "running", "failed", "stopped", "waiting")


@dataclass(frozen=True)
class State:
    """The state of one run, as its folder tells it.

    Attributes:
        name: One of `STATES`.
        data: The content of the file that says so.
    """

    name: str
    data: dict[str, Any]


def sweep_folder(store: Path, name: str) -> Path:
    """Where a sweep's manifest and report are."""
    return Path(store) / SWEEPS / name


def run_folder(store: Path, notebook: str, digest: str) -> Path:
    return Path(store) / notebook / digest[:12]


def state_of(folder: Path, digest: str) -> State:
    """Read a run's state. Only a whole result with the right hash is done."""
    if (data := whole_result(folder, digest)) is not None:
        return State("done", data)
    for name, file in (("stopped", STOPPED), ("failed", FAILURE)):
        try:
            data = read_json(folder / file)
        except (OSError, ValueError):
            continue
        if data.get("hash") == digest and not (folder / RESULT).exists():
            return State(name, data)
    return State("running" if _is_held(folder) else "waiting", {})


def _is_held(folder: Path) -> bool:
    """Whether a process is at work in a run's folder, as far as can be seen from here."""
    import platform

    import psutil

    try:
        owner = read_json(folder.parent / f".{folder.name}.json")
    except (OSError, ValueError):
        return False
    return owner["host"] != platform.node() or psutil.pid_exists(owner["process"])


def write_manifest(store: Path, plan: Plan, runs: Iterable[Run], total: int) -> Path:
    """Write what the sweep consists of, so that status and report need no plan."""
    content = {
        "name": plan.name,
        "notebook": plan.prepared.source.name,
        "metric": plan.metric,
        "maximize": plan.maximize,
        "varied": plan.varied,
        "retries": plan.retries,
        "total": total,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "plan": plan.text,
        "runs": [
            {
                "number": run.number,
                "hash": run.hash,
                "chosen": run.chosen,
                "seed": run.seed,
                "repetition": run.repetition,
            }
            for run in runs
        ],
    }
    path = sweep_folder(store, plan.name) / MANIFEST
    write_json(path, content)
    return path


def manifests(store: Path) -> list[dict[str, Any]]:
    """The sweeps of a store, the newest first."""
    found = [read_json(path) for path in Path(store).glob(f"{SWEEPS}/*/{MANIFEST}")]
    return sorted(found, key=lambda m: m["written"], reverse=True)


def manifest_of(store: Path, name: str | None = None) -> dict[str, Any]:
    """One sweep's manifest; the newest unless named.

    Raises:
        ParameterError: There is none.
    """
    found = manifests(store)
    chosen = [m for m in found if name in (None, m["name"])]
    if not chosen:
        there = "; there is " + ", ".join(m["name"] for m in found) if found else ""
        what = f"no sweep named {name}" if name else "no sweep"
        raise ParameterError(
            f"There is {what} in {store}{there}.",
            "Start one with: sftkit sweep plan.yaml",
        )
    return chosen[0]


def states(store: Path, manifest: dict[str, Any]) -> list[State]:
    """The states of a sweep's runs, in the order of its manifest."""
    notebook = manifest["notebook"]
    return [
        state_of(run_folder(store, notebook, run["hash"]), run["hash"])
        for run in manifest["runs"]
    ]


def counts(found: Iterable[State], total: int = 0) -> dict[str, int]:
    """How many runs are in each state; those that are not yet planned are waiting."""
    counted = dict.fromkeys(STATES, 0)
    seen = 0
    for state in found:
        counted[state.name] += 1
        seen += 1
    counted["waiting"] += max(0, total - seen)
    return counted


def metric_of(data: dict[str, Any], metric: str, maximize: bool = True) -> float | None:
    """A run's metric from its result; None when it is not there.

    Args:
        metric: ``tuned.accuracy`` for a number that the notebook recorded, or
            ``evaluations.accuracy`` for the best on the run's learning curve.
    """
    if metric.startswith(EVALUATIONS):
        name = metric.removeprefix(EVALUATIONS)
        rows = [row for rows in data.get("curves", {}).values() for row in rows]
        values = [row[name] for row in rows if name in row]
        return (max if maximize else min)(values) if values else None
    value: Any = data.get("metrics", {})
    for part in metric.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    if isinstance(value, dict):
        value = value.get("value")
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if fine else None


def names(data: dict[str, Any]) -> list[str]:
    """The names of all numbers in a result, as a plan would write them."""
    found = []

    def collect(value: Any, path: str) -> None:
        if isinstance(value, dict) and "value" not in value:
            for name, inner in value.items():
                collect(inner, f"{path}.{name}" if path else name)
        elif path:
            found.append(path)

    collect(data.get("metrics", {}), "")
    rows = [row for rows in data.get("curves", {}).values() for row in rows]
    return found + sorted({f"evaluations.{name}" for row in rows for name in row})
