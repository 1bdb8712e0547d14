"""Sweeps on this machine: what is missing runs, what fails is kept, nothing is lost."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from sftkit.course.sweep import executors, expand, sweep
from sftkit.course.sweep.store import counts, manifest_of, metric_of, states
from sftkit.errors import ParameterError
from tests.sweep.stubs import numbers, quick, times


def test_only_what_is_missing_runs(plan_of, tmp_path, said) -> None:
    plan = plan_of({"x": [1, 2, 3]}, seeds=2)
    first = sweep(plan, store=tmp_path, work=quick, tell=said)
    assert (first.done, first.fresh, first.failed, first.left) == (6, 6, 0, 0)
    assert any("score 1" in line for line in said)
    runs = expand(plan)
    result = tmp_path / "05_stub" / runs[4].hash[:12] / "result.json"
    result.unlink()
    damaged = tmp_path / "05_stub" / runs[1].hash[:12] / "result.json"
    damaged.write_text(damaged.read_text().replace(runs[1].hash, "of another run"))
    more = plan_of({"x": [1, 2, 3, 4]}, seeds=2)
    again = sweep(more, store=tmp_path, work=quick, tell=said)
    assert (again.done, again.fresh) == (8, 4)
    begun = times(tmp_path)
    assert {h for h, n in begun.items() if n == 2} == {runs[4].hash[:12], runs[1].hash[:12]}
    assert sum(begun.values()) == 10
    assert sweep(more, store=tmp_path, work=quick, tell=said).fresh == 0


def test_a_failing_run_is_kept_tried_again_and_stops_nobody(plan_of, tmp_path, said) -> None:
    plan = plan_of({"mode": ["fail", "fail once", "ok"]}, retries=2)
    summary = sweep(plan, store=tmp_path, work=quick, tell=said)
    assert (summary.done, summary.failed, summary.attempts) == (2, 1, 6)
    bad, once, fine = (run.hash[:12] for run in expand(plan))
    assert times(tmp_path) == {bad: 3, once: 2, fine: 1}
    failure = json.loads((tmp_path / "05_stub" / bad / "failure.json").read_text())
    assert (failure["attempts"], failure["cell"]) == (3, 3)
    same = sweep(plan, store=tmp_path, work=quick, tell=said)  # it was tried as often as asked
    assert (same.failed, same.attempts) == (1, 0)
    asked = sweep(plan, store=tmp_path, work=quick, tell=said, retry_failed=True)
    assert (asked.failed, asked.attempts) == (1, 3)


def test_a_worker_that_dies_costs_its_run_alone(plan_of, tmp_path, said) -> None:
    plan = plan_of({"x": [1, 2, 3], "mode": {"values": ["die", "die once"], "when": {"x": 2}}})
    summary = sweep(plan, store=tmp_path, work=quick, tell=said, executor="processes:2")
    assert (summary.done, summary.failed) == (3, 1)
    assert any(line.startswith("a worker died") for line in said)
    failed = [run for run in expand(plan) if run.chosen.get("mode") == "die"]
    text = (tmp_path / "05_stub" / failed[0].hash[:12] / "failure.json").read_text()
    assert "The worker that did this run died" in text


def test_the_budget_of_minutes_ends_it(plan_of, tmp_path, said) -> None:
    plan = plan_of(
        {"mode": "slow", "x": [i / 10 for i in range(200)]}, budget={"minutes": 0.02}
    )
    summary = sweep(plan, store=tmp_path, work=quick, tell=said, executor="processes:1")
    assert summary.done and summary.left == 200 - summary.done > 100
    assert any("minutes are over" in line for line in said)


def test_a_metric_that_is_not_there_is_said_after_the_first_run(
    plan_of, tmp_path, said
) -> None:
    plan = plan_of({"x": [1, 2, 3]}, metric="scores")
    with pytest.raises(
        ParameterError, match=r"'scores' is not among .*\n  There are: score, extra"
    ):
        sweep(plan, store=tmp_path, work=quick, tell=said, executor="processes:1")


def test_the_manifest_tells_the_sweep_without_its_plan(plan_of, tmp_path, said) -> None:
    plan = plan_of({"x": [1, 2], "mode": ["ok", "fail"]})
    sweep(plan, store=tmp_path, work=quick, tell=said)
    manifest = manifest_of(tmp_path)
    found = states(tmp_path, manifest)
    assert counts(found, manifest["total"]) == {
        "done": 2, "running": 0, "failed": 2, "stopped": 0, "waiting": 0,
    }  # fmt: skip
    assert (manifest["name"], manifest["varied"]) == ("p", ["x", "mode"])
    with pytest.raises(ParameterError, match="no sweep named q .*; there is p"):
        manifest_of(tmp_path, "q")


def test_metrics_are_found_by_their_path() -> None:
    data = {
        "metrics": {"a": {"b": {"value": 2, "low": 1}}, "c": 3.5, "t": True},
        "curves": {"x": [{"step": 1, "acc": 0.1}, {"step": 2, "acc": 0.4}, {"acc": 0.3}]},
    }
    assert [metric_of(data, m) for m in ("a.b", "c", "a", "t", "zz")] == [
        2,
        3.5,
        None,
        None,
        None,
    ]
    assert metric_of(data, "evaluations.acc") == 0.4
    assert metric_of(data, "evaluations.acc", maximize=False) == 0.1
    assert metric_of(data, "evaluations.f1") is None


def test_a_large_sweep_is_taken_up_by_reading(plan_of, tmp_path, said) -> None:
    plan = plan_of({"x": [i / 10 for i in range(200)], "k": [1, 2, 3, 4, 5]})
    fill_store(expand(plan), tmp_path)
    start = time.process_time()
    summary = sweep(plan, store=tmp_path, work=quick, tell=said)
    assert (summary.done, summary.fresh, summary.attempts) == (1000, 0, 0)
    assert not times(tmp_path) and time.process_time() - start < 5


def fill_store(runs, store: Path) -> None:
    """Results of runs, as if they had been done."""
    for run in runs:
        folder = store / "05_stub" / run.hash[:12]
        folder.mkdir(parents=True)
        data = {"hash": run.hash, "metrics": {"score": 1.0}, "timings": {"with_page": 1.0}}
        data |= {"parameters": run.planned.parts["parameters"], "files": []}
        (folder / "result.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    "name", ["", "process", "processes:0", "processes:x", "dask://host", "slurm:"]
)
def test_unknown_executors_are_refused(name, plan_of, tmp_path) -> None:
    if name == "slurm:":
        executors.refuse_unknown(name)
        return
    with pytest.raises(ParameterError, match="There is no executor"):
        sweep(plan_of({"x": 1}), store=tmp_path, executor=name)


def test_a_missing_package_is_named_with_the_command() -> None:
    with pytest.raises(ParameterError, match=r"needs the package nopackage(.|\n)*pip install"):
        executors.need("nopackage", "nopackage", "This")


def test_processes_are_sized_by_memory_as_well_as_cores() -> None:
    from sftkit.device import usable_cores

    cores = usable_cores()
    assert executors.size(0.001) == (cores, 1)
    assert executors.size(10_000.0) == (1, cores)
    assert executors.size(10_000.0, wanted=2 * cores) == (2 * cores, 1)


def test_each_worker_has_one_pool_of_threads(plan_of, tmp_path, said) -> None:
    sweep(plan_of({"x": [1, 2]}), store=tmp_path, work=told_threads, tell=said,
          executor="processes:2")  # fmt: skip
    wanted = str(executors.size(1.0, 2)[1])
    assert (tmp_path / "threads.txt").read_text().split() == [wanted, wanted]


def told_threads(job):
    from sftkit.course.sweep import work

    assert work.do(job).state in ("done", "failed")
    with open(Path(job.store) / "threads.txt", "a") as file:
        file.write(os.environ["OMP_NUM_THREADS"] + "\n")
    return quick(job)


@pytest.mark.slow
def test_five_hundred_runs_leak_neither_memory_nor_files(plan_of, tmp_path, said) -> None:
    import psutil

    me = psutil.Process()
    plan = plan_of({"x": [i / 10 for i in range(1, 501)]})
    few = plan_of({"x": [i / 10 for i in range(-50, 0)]}, name="few")
    sweep(few, store=tmp_path / "few", work=quick, tell=said)
    before = me.num_fds() if hasattr(me, "num_fds") else me.num_handles()
    held = me.memory_info().rss
    summary = sweep(plan, store=tmp_path / "many", work=numbers, tell=said)
    assert summary.fresh == 500
    after = me.num_fds() if hasattr(me, "num_fds") else me.num_handles()
    assert after <= before + 2
    assert me.memory_info().rss < held + 40e6
    lines = [line.split() for line in (tmp_path / "many" / "held.txt").read_text().splitlines()]
    for process in {line[0] for line in lines}:
        mine = [(int(rss), int(files)) for pid, rss, files in lines if pid == process]
        early, late = mine[20], mine[-1]
        assert late[1] <= early[1] + 1, "the worker keeps files open"
        assert late[0] < early[0] + 10e6, "the worker's memory grows"
    assert Counter(line[0] for line in lines).total() == 500
