"""The same sweep on a Dask cluster and through submitit, by one argument."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sftkit.course.sweep import expand, sweep
from sftkit.errors import RunError
from tests.sweep.stubs import log_of, quick, slow, times

ROOT = Path(__file__).parents[2]


def cluster(workers: int):
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
    )


def address(running) -> str:
    return running.scheduler_address.replace("tcp://", "dask://")


def test_a_dask_cluster_does_the_same_runs(plan_of, tmp_path, said) -> None:
    plan = plan_of({"x": [1, 2, 3], "mode": ["ok", "fail"]})
    here = sweep(plan, store=tmp_path / "here", work=quick, tell=said)
    with cluster(1) as running:
        there = sweep(plan, store=tmp_path / "there", work=quick, tell=said,
                      executor=address(running))  # fmt: skip
    assert (there.done, there.failed) == (here.done, here.failed) == (3, 3)
    assert times(tmp_path / "there") == times(tmp_path / "here")


def test_a_scheduler_that_is_not_there_is_said(plan_of, tmp_path, monkeypatch) -> None:
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "2s"}),
        pytest.raises(RunError, match="no Dask scheduler at tcp://127.0.0.1:9"),
    ):
        sweep(plan_of({"x": 1}), store=tmp_path, executor="dask://127.0.0.1:9")


def test_submitit_runs_jobs_as_futures(plan_of, tmp_path, said) -> None:
    plan = plan_of({"x": [1, 2]})
    summary = sweep(plan, store=tmp_path, work=quick, tell=said, executor="submitit-local:2")
    assert (summary.done, summary.fresh) == (2, 2)
    assert len(times(tmp_path)) == 2


@pytest.mark.slow
def test_kernels_run_on_dask_with_inputs_that_came_along(plan_of, tmp_path, said) -> None:
    plan = plan_of({"x": [1, 2]})
    with cluster(2) as running:
        summary = sweep(plan, store=tmp_path, tell=said, executor=address(running))
    assert summary.done == 2 and len(log_of(tmp_path)) == 2


@pytest.mark.slow
def test_a_killed_dask_worker_costs_nothing(plan_of, tmp_path, said) -> None:
    import psutil

    plan = plan_of({"x": [i / 10 for i in range(10)], "mode": "slow"})
    with cluster(2) as running:
        killed = []

        def kill_one(progress) -> None:
            if progress.done >= 3 and not killed:
                pid = next(iter(running.workers.values())).pid
                killed.append(pid)
                psutil.Process(pid).kill()

        summary = sweep(plan, store=tmp_path, work=slow, tell=said, watch=kill_one,
                        executor=address(running))  # fmt: skip
    assert killed and (summary.done, summary.failed) == (10, 0)


@pytest.mark.slow
def test_a_lost_scheduler_ends_in_a_sentence_and_the_sweep_goes_on(
    plan_of, notebooks, tmp_path, said
) -> None:
    plan = plan_of({"x": [i / 10 for i in range(12)], "mode": "slow"})
    store = tmp_path / "s"
    code = "from tests.sweep.test_clusters import serve; serve()"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
                               text=True)  # fmt: skip
    assert process.stdout is not None
    where = process.stdout.readline().strip()

    def end_it(progress) -> None:
        if progress.done >= 3:
            process.kill()

    with pytest.raises(RunError, match="is gone"):
        sweep(plan, store=store, work=slow, tell=said, watch=end_it, executor=where)
    done = len(list(store.glob("*/*/result.json")))
    assert 3 <= done < 12
    time.sleep(2)  # the workers notice
    summary = sweep(plan, store=store, work=slow, tell=said)
    assert summary.done == 12 and summary.fresh <= 12 - done


def serve() -> None:
    with cluster(2) as running:
        print(address(running), flush=True)
        time.sleep(300)


def test_a_store_at_an_address_keeps_notebooks_there_and_records_here(
    plan_of, tmp_path, said, monkeypatch
) -> None:
    monkeypatch.setenv("SFTKIT_CACHE", str(tmp_path / "cache"))
    plan = plan_of({"x": [1.0]})
    there = f"file://{tmp_path / 'there'}"
    summary = sweep(plan, store=there, tell=said, executor="processes:1")
    assert (summary.done, summary.fresh) == (1, 1)
    name = expand(plan)[0].hash[:12]
    assert (tmp_path / "there" / "05_stub" / name / "notebook.html").is_file()
    record = json.loads((summary.store / "05_stub" / name / "result.json").read_text())
    assert record["metrics"]["score"]["value"] == pytest.approx(1.0, abs=0.1)
    (summary.store / "05_stub" / name / "result.json").unlink()
    again = sweep(plan, store=there, tell=said, executor="processes:1")
    assert (again.done, again.fresh) == (1, 0)
