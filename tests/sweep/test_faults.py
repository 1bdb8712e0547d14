"""Interrupts, kills, a full disk, two sweeps at once: with real processes and kernels."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest

from sftkit.course.report import write_report
from sftkit.course.report.rows import MEASURED
from sftkit.course.sweep import expand, sweep
from tests.sweep.stubs import log_of, times

ROOT = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def start(plan, tmp_path: Path, notebooks: Path, *more: str) -> subprocess.Popen:
    """``sftkit sweep`` in a process of its own."""
    path = tmp_path / f"{plan.name}.yaml"
    path.write_text(plan.text)
    command = [
        sys.executable,
        "-m",
        "sftkit",
        "sweep",
        str(path),
        "--store",
        str(tmp_path / "s"),
    ]
    heard = None
    if os.name == "posix":  # a shell starts background work with interrupts ignored
        heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(
        [*command, "--folder", str(notebooks), *more], cwd=ROOT, text=True, preexec_fn=heard,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(
    what: Callable[[], object], seconds: float = 60, process: subprocess.Popen | None = None
) -> None:
    """Wait until it is so; not longer than these seconds, nor than the process lives."""
    end = time.monotonic() + seconds
    while not what():
        if process is not None and process.poll() is not None:
            pytest.fail(f"it ended before that: {process.communicate()}")
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@POSIX
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_sweep_leaves_nothing_behind_and_goes_on(
    how, plan_of, notebooks, tmp_path
) -> None:
    plan = plan_of({"mode": ["ok", "wait"]})
    process = start(plan, tmp_path, notebooks, "--executor", "processes:1")
    store = tmp_path / "s"
    quick_run, waiting = (run.planned.folder(store) for run in expand(plan))
    try:
        wait_for(lambda: (waiting / "pid").is_file() and (waiting / "pid").read_text())
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2  # a worker and a kernel
        process.send_signal(how)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    if how == signal.SIGINT:
        assert process.returncode == 130 and "the same command goes on from there" in said
    psutil.wait_procs(family, timeout=10)
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert (quick_run / "result.json").exists() and not (waiting / "result.json").exists()
    again = start(plan, tmp_path, notebooks, "--executor", "processes:1")
    out, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert "p: 2 done (1 of them now)" in out
    assert log_of(store) == [
        f"{quick_run.name} afresh",
        f"{waiting.name} afresh",
        f"{waiting.name} resumed",  # from its checkpoint
    ]


@POSIX
def test_a_killed_kernel_and_a_failing_cell_are_kept_and_reported(
    plan_of, notebooks, tmp_path, said
) -> None:
    plan = plan_of({"mode": ["die", "fail", "ok"]}, retries=1)
    summary = sweep(plan, store=tmp_path, tell=said, executor="processes:2")
    assert (summary.done, summary.failed, summary.attempts) == (1, 2, 5)
    dead, failed, _ = (run.planned.folder(tmp_path) for run in expand(plan))
    facts = [json.loads((f / "failure.json").read_text()) for f in (dead, failed)]
    assert [(f["attempts"], f["cell"]) for f in facts] == [(2, 4), (2, 4)]
    assert "the kernel died" in facts[0]["error"] and "no good" in facts[1]["error"]
    partial = json.loads((failed / "notebook.ipynb").read_text())
    assert any("ValueError" in str(cell.get("outputs")) for cell in partial["cells"])
    page = write_report(tmp_path).page.read_text()
    assert "&lt;b&gt;no good&lt;/b&gt;" in page and "<b>no good" not in page
    assert f"05_stub/{failed.name}/notebook.ipynb" in page


@POSIX
def test_a_full_disk_stops_the_sweep_and_costs_no_attempt(plan_of, notebooks, tmp_path) -> None:
    disk = tmp_path / "s"
    disk.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)]
    if subprocess.run(size, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        plan = plan_of({"mode": ["ok", "fill"]})
        process = start(plan, tmp_path, notebooks, "--executor", "processes:1")
        _, said = process.communicate(timeout=120)
        assert process.returncode == 2, said
        assert "No space is left" in said and "the same command goes on" in said
        fine, full = (run.planned.folder(disk) for run in expand(plan))
        assert (fine / "result.json").exists() and not (full / "result.json").exists()
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        again = start(plan, tmp_path, notebooks, "--executor", "processes:1")
        out, said = again.communicate(timeout=120)
        assert again.returncode == 0, said
        assert "p: 2 done (1 of them now)" in out
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_two_sweeps_on_one_store_share_the_work(plan_of, notebooks, tmp_path) -> None:
    plan = plan_of({"x": [i / 10 for i in range(12)]})
    path, store = tmp_path / "p.yaml", tmp_path / "s"
    path.write_text(plan.text)
    command = [sys.executable, "-m", "tests.sweep.stubs", str(path), str(store), str(notebooks)]
    both = [
        subprocess.Popen([*command, "slow", "processes:1"], cwd=ROOT, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    found = [process.communicate(timeout=120) for process in both]
    done = [list(map(int, out.split())) for out, _ in found]
    assert [d[0] for d in done] == [12, 12], found
    assert set(times(store).values()) == {1} and len(times(store)) == 12
    assert min(d[1] for d in done) > 0  # both took part


@POSIX
@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_the_unbroken_one(
    plan_of, notebooks, tmp_path, said
) -> None:
    """24 runs: the sweep killed twice, a worker killed once, one run that fails."""
    plan = plan_of(
        {"x": [1, 2, 3], "k": [1, 2], "mode": {"when": {"x": 3, "k": 2}, "values": ["fail"]}},
        seeds=4,
    )
    whole, store = tmp_path / "whole", tmp_path / "s"
    sweep(plan, store=whole, tell=said)
    for kills in range(2):
        process = start(plan, tmp_path, notebooks)
        wait_for(lambda n=4 + 5 * kills: len(list(store.glob("*/*/result.json"))) >= n)
        process.kill()
        process.communicate()
    process = start(plan, tmp_path, notebooks)
    wait_for(lambda: len(list(store.glob("*/*/result.json"))) >= 14)
    a_worker_of(process).kill()
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors  # some runs failed, as planned
    assert "20 done" in out and "4 failed" in out
    assert records(write_report(store).table, store) == records(
        write_report(whole).table, whole
    )


def a_worker_of(process: subprocess.Popen) -> psutil.Process:
    """One of the worker processes of a sweep."""
    children = psutil.Process(process.pid).children()
    return next(p for p in children if "spawn_main" in " ".join(p.cmdline()))


def records(table: Path, store: Path) -> list[dict]:
    """The rows of a report without what was measured."""
    frame = pd.read_csv(table).drop(columns=list(MEASURED))
    frame["error"] = frame["error"].str.replace(str(store), "STORE")
    return json.loads(frame.to_json(orient="records"))
