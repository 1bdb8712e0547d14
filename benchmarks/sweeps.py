"""What a sweep costs beside its runs, and what a second worker brings.

    python benchmarks/sweeps.py            # about 4 minutes on 2 quiet cores
    python benchmarks/sweeps.py --full     # about 15
    python benchmarks/sweeps.py --quick    # a smoke test

Three things. The same runs on a Dask cluster of one worker and of two, each worker with one
thread, in turns. A run's overhead: its wall time less the time of its notebook's cells; the
first run of a process, and the second, for which the runner's own imports are done. And a
large plan: seconds to expand and check it, and to find that all of its runs are done.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import turns
from sftkit.files import write_json, write_text

CONTESTANTS = {"ours-one": "one Dask worker", "ours-two": "two Dask workers"}
GOALS = {
    "two_workers": 1.7,
    "overhead_seconds": 6.0,
    "expand_seconds": 2.0,
    "resume_seconds": 5.0,
}
NOTEBOOK = """\
# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   sftkit: {minutes: 1}
# ---

# %% tags=["parameters"]
x: int = 0  # makes runs different
rate: float = 0.1  # so does this
products: int = 10  # how much there is to do
out: str = ""  # folder for results; empty means: show only

# %%
import torch
from sftkit.course import record

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(x)
a = torch.randn(600, 600, generator=generator)
for _ in range(products):
    a = a @ a
    a /= a.norm()

# %%
record(out, {"score": float(a[0, 0])})
"""


def _plan(folder: Path, name: str, parameters: dict[str, Any], **more: Any) -> Any:
    from sftkit.course.sweep import Plan

    path = folder / "work.py"
    if not path.is_file():
        write_text(path, NOTEBOOK)
    content = {"name": name, "notebook": str(path), "parameters": parameters}
    return Plan.of(content | {"metric": "score"} | more)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One measurement of the kind that the contestant's name says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if job["contestant"] in CONTESTANTS:
            return _workers(job, folder)
        return (
            _overhead(job, folder) if job["contestant"] == "overhead" else _large(job, folder)
        )


def _workers(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Seconds of a sweep on a cluster that is up; every worker has done a run before."""
    from distributed import LocalCluster

    from sftkit.course.sweep import sweep

    count = {"ours-one": 1, "ours-two": 2}[job["contestant"]]
    with LocalCluster(
        n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        where = cluster.scheduler_address.replace("tcp://", "dask://")

        def seconds(name: str, runs: list[int]) -> float:
            plan = _plan(folder, name, {"x": runs, "products": job["products"]})
            begin = time.perf_counter()
            done = sweep(plan, store=folder / "runs", executor=where, tell=lambda line: None)
            if done.fresh != len(runs):
                sys.exit(f"{done.fresh} of {len(runs)} runs were done: {done}")
            return time.perf_counter() - begin

        seconds("warm", list(range(1_000, 1_000 + count)))
        taken = seconds("work", list(range(job["runs"])))
    return {"seconds": taken, "seconds_per_run": taken / job["runs"]}


def _overhead(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Wall seconds of a run less those of its cells: first and second run of a process."""
    from sftkit.course.run import run

    _plan(folder, "once", {"x": 0})
    found = {}
    for number, name in enumerate(("first", "second")):
        begin = time.perf_counter()
        given = {"x": number, "products": job["products"]}
        done = run(folder / "work.py", given, store=folder / "runs", tell=lambda line: None)
        own = done.data["timings"]["seconds"]
        found |= {f"{name}_overhead": time.perf_counter() - begin - own, f"{name}_cells": own}
    return found


def _large(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Seconds to read and expand a plan, and to go through it when all runs are done."""
    from sftkit.course.run import RESULT as DONE
    from sftkit.course.sweep import expand, sweep
    from sftkit.course.sweep.store import run_folder

    expand(_plan(folder, "warm", {"x": [0, 1]}))  # imports are not the plan's
    begin = time.perf_counter()
    values = {"x": list(range(job["planned"] // 10)), "rate": [i / 10 for i in range(10)]}
    plan = _plan(folder, "large", values)
    runs = expand(plan)
    expanding = time.perf_counter() - begin
    for run in runs:
        place = run_folder(folder / "runs", plan.prepared.source.name, run.hash)
        content = {"hash": run.hash, "status": "done", "parameters": run.chosen}
        content |= {"metrics": {"score": 0.5}, "timings": {"with_page": 1.0}, "files": []}
        write_json(place / DONE, content)
    begin = time.perf_counter()
    again = sweep(plan, store=folder / "runs", tell=lambda line: None)
    if again.done != len(runs) or again.fresh:
        sys.exit(f"not all of {len(runs)} runs were found done: {again}")
    return {
        "planned": len(runs),
        "expand_seconds": expanding,
        "resume_seconds": time.perf_counter() - begin,
    }


def told(run: dict[str, Any]) -> str:
    """One line about a measurement."""
    return ", ".join(
        f"{key.replace('_', ' ')} {run[key]:.2f}"
        for key in ("seconds_per_run", "first_overhead", "second_overhead", "expand_seconds",
                    "resume_seconds") if key in run
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    options = turns.parser(__doc__, "more and longer runs").parse_args(arguments)
    form, out = turns.form(options), turns.result_file(options, "sweeps")
    sizes = {
        "quick": {"runs": 2, "products": 2, "planned": 200},
        "short": {"runs": 6, "products": 200, "planned": 10_000},
        "full": {"runs": 12, "products": 400, "planned": 10_000},
    }[form]
    started, repetitions = time.time(), turns.REPETITIONS[form]
    shared = {"keep": form != "quick"}
    work = {"runs": sizes["runs"], "products": sizes["products"]}
    runs = turns.take_turns("benchmarks.sweeps", CONTESTANTS, repetitions, work, told, **shared)
    single = {"products": sizes["products"]}
    alone = turns.take_turns(
        "benchmarks.sweeps", ["overhead"], repetitions, single, told, **shared
    )
    large = turns.take_turns(
        "benchmarks.sweeps",
        ["large"],
        repetitions,
        {"planned": sizes["planned"]},
        told,
        **shared,
    )
    speed_up = turns.ratio(runs, "ours-one", "ours-two", "seconds")
    summary = {
        "workers": turns.medians(runs, ["seconds", "seconds_per_run"]) | {"speed_up": speed_up},
        "overhead": turns.medians(
            alone, ["first_overhead", "second_overhead", "first_cells", "second_cells"]
        )["overhead"],
        "large": turns.medians(large, ["planned", "expand_seconds", "resume_seconds"])["large"],
    }
    title = f"Two workers are {speed_up['ratio_of_medians']:.2f} times as fast as one"
    panels = [("seconds_per_run", 1.0, "seconds per run")]
    figure = turns.points(runs, CONTESTANTS, panels, title, out.with_suffix(".png"))
    write_json(out, turns.header(
        started, form=form, **turns.machine(),
        settings={**sizes, "repetitions": repetitions}, goals=GOALS, summary=summary,
        runs=[*runs, *alone, *large], figure=figure,
    ))  # fmt: skip
    overhead = statistics.median(turns.column(alone, "overhead", "first_overhead"))
    print(f"{title}. A run's overhead is {overhead:.1f} s; {told(summary['large'])}")


if __name__ == "__main__":
    main()
