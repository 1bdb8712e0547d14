"""Small things to sweep over: a notebook of milliseconds, and jobs without a kernel."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from sftkit.course.sweep import Plan, sweep
from sftkit.course.sweep.work import Job, Outcome
from sftkit.files import write_json

CELLS = """\
# %% [markdown]
# # A stub

# %% tags=["parameters"]
x: float = 1.0  # a number
k: int = 2  # evaluations
kind: str = "plain"  # plain or fancy
extra: int = 0  # counts where kind is fancy
mode: str = "ok"  # ok, fail, die, wait or slow
many: list[int] = [1, 2]  # a list
seed: int = 0  # of the noise
out: str = ""  # folder for results
resume: bool = False  # go on from the last checkpoint

# %%
import os, random, time
from pathlib import Path

from sftkit.course import record
from sftkit.teach.progress import tell_evaluations

with open(Path(out).parent / "log.txt", "a") as log:
    log.write(f"{Path(out).name} {'resumed' if resume else 'afresh'}\\n")
if mode == "wait" and not resume:
    (Path(out) / "checkpoints").mkdir(exist_ok=True)
    (Path(out) / "checkpoints" / "step-1").mkdir(exist_ok=True)
    (Path(out) / "pid").write_text(str(os.getpid()))
    time.sleep(60)

# %%
noise = random.Random(f"{seed} {x}").gauss(0, 0.01)
rows = []
for step in range(1, k + 1):
    if mode == "slow":
        time.sleep(1.0)
    rows.append({"step": step, "training_loss": 1 / step, "accuracy": x * step / k + noise})
    tell_evaluations("training", rows)
if mode == "die":
    os.kill(os.getpid(), 9)
if mode == "fill":
    (Path(out) / "model").write_bytes(bytes(4_000_000))
if mode == "fail":
    raise ValueError("<b>no good</b>")

# %%
record(out, {"score": {"value": x + noise, "low": x - 0.1, "high": x + 0.1}, "extra": extra})
"""


def write_notebook(folder: Path, write_source) -> Path:
    write_source(folder / "src" / "05_stub.py", CELLS, "{minutes: 1}")
    return folder


def log_of(store: Path) -> list[str]:
    """What was done, in order: ``HASH afresh``."""
    try:
        return (store / "05_stub" / "log.txt").read_text().splitlines()
    except FileNotFoundError:
        return []


def times(store: Path) -> Counter:
    """How often each run was begun."""
    return Counter(line.split()[0] for line in log_of(store))


def quick(job: Job) -> Outcome:
    """A run without a kernel: its result is there at once."""
    folder = job.planned.folder(Path(job.store))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / "log.txt", "a") as log:
        log.write(f"{folder.name} afresh\n")
    p = job.planned.parameters
    if p["mode"] == "fail" or (p["mode"] == "fail once" and job.attempt == 1):
        failure = {"hash": job.planned.hash, "error": "no good", "attempts": job.attempt}
        write_json(folder / "failure.json", failure | {"cell": 3, "seconds": 0.1})
        return Outcome("failed", 0.1, error="no good", cell=3)
    if p["mode"] == "die" or (
        p["mode"] == "die once" and times(Path(job.store))[folder.name] == 1
    ):
        time.sleep(0.5)  # so that another run is under way
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    if p["mode"] == "slow":
        time.sleep(0.3)
    data = {
        "status": "done",
        "hash": job.planned.hash,
        "parameters": job.planned.parts["parameters"],
        "seed": p["seed"],
        "metrics": {"score": {"value": p["x"] + 0.001 * p["seed"]}, "extra": p["extra"]},
        "timings": {"with_page": 0.1},
        "files": [],
    }
    (folder / "result.json").unlink(missing_ok=True)
    (folder / "failure.json").unlink(missing_ok=True)
    write_json(folder / "result.json", data)
    return Outcome("done", 0.1, data)


def slow(job: Job) -> Outcome:
    """As `quick`, under the run's lock and half a second long."""
    from sftkit.course.run import whole_result
    from sftkit.files import Held, held

    folder = job.planned.folder(Path(job.store))
    try:
        with held(folder.parent, f".{folder.name}"):
            if whole_result(folder, job.planned.hash) is not None:
                return Outcome("done", 0.0, whole_result(folder, job.planned.hash))
            time.sleep(0.4)
            return quick(job)
    except Held:
        return Outcome("busy")


def busy_loop(job: Job) -> Outcome:
    """As `quick`, after two seconds of computing on one core."""
    start = time.process_time()
    while time.process_time() - start < 2.0:
        sum(i * i for i in range(10_000))
    return quick(job)


def numbers(job: Job) -> Outcome:
    """As `quick`, and tells what the worker holds: memory and open files."""
    import psutil

    outcome = quick(job)
    process = psutil.Process()
    handles = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    with open(Path(job.store) / "held.txt", "a") as held:
        held.write(f"{process.pid} {process.memory_info().rss} {handles}\n")
    return outcome


if __name__ == "__main__":  # python -m tests.sweep.stubs PLAN STORE NOTEBOOKS WORK EXECUTOR
    plan, store, notebooks, work, executor = sys.argv[1:]
    made = sweep(
        Plan.read(plan, Path(notebooks)), store=store, executor=executor, work=globals()[work]
    )
    print(made.done, made.fresh, made.failed)
