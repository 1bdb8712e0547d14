"""A sweep of real fine-tuning: broken again and again here, whole on a Dask cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sftkit.course.report import write_report
from sftkit.course.sweep import Plan, expand, sweep
from tests.sweep.test_clusters import address, cluster
from tests.sweep.test_faults import POSIX, ROOT, a_worker_of, records, start, wait_for

NOTEBOOKS = ROOT / "notebooks"
TIMES = ("examples_per_second", "gflops_float32")
PATIENCE = 900  # seconds; a run takes about 20 of one core, half of them imports


def plan_of_24() -> Plan:
    """MiniLM on 240 tweets: 24 runs, one of which asks for a head that is none."""
    parameters = {
        "train": ["head", "top-1"],
        "lr": [1e-3, 2e-3, 4e-3],
        "seed": [0, 1, 2, 3],
        "head": {"when": {"train": "head", "lr": 4e-3, "seed": 3}, "values": ["middle"]},
        "fit_head_first": False,
        "limit": 240,
        "max_length": 32,
        "epochs": 6.0,
        "validation_rows": 120,
        "test_rows": 120,
        "hand_steps": 0,
    }
    content = {"name": "real", "notebook": "07", "parameters": parameters}
    return Plan.of(content | {"metric": "evaluations.accuracy", "retries": 1}, NOTEBOOKS)


def compared(table: Path, store: Path) -> list[dict]:
    """A report's rows; of what the notebook recorded, all but the times that it took."""
    return [
        {k: v for k, v in row.items() if k not in TIMES and not k.startswith("seconds.")}
        for row in records(table, store)
    ]


@POSIX
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_broken_sweep_reports_what_an_unbroken_one_on_a_cluster_does(tmp_path, said) -> None:
    """Killed twice, then one worker killed; against two Dask workers left in peace."""
    plan, store = plan_of_24(), tmp_path / "s"
    assert len(expand(plan)) == 24

    def results() -> int:
        return len(list(store.glob("*/*/result.json")))

    began: list[subprocess.Popen] = []
    try:
        for enough in (4, 9, 13):
            process = start(plan, tmp_path, NOTEBOOKS)
            began.append(process)
            wait_for(lambda n=enough: results() >= n, PATIENCE, process)
            (a_worker_of(process) if enough == 13 else process).kill()
            out, errors = process.communicate(timeout=PATIENCE)
    finally:
        for process in began:
            process.kill()
    assert process.returncode == 1, errors  # one run failed, as planned
    assert "23 done" in out and "1 failed" in out

    whole = tmp_path / "whole"
    with cluster(2) as running:
        summary = sweep(plan, store=whole, tell=said, executor=address(running))
    assert (summary.done, summary.failed) == (23, 1)
    broken, unbroken = (write_report(place) for place in (store, whole))
    found, wanted = (
        compared(report.table, place) for report, place in ((broken, store), (unbroken, whole))
    )
    assert found == wanted
    assert {"tuned.accuracy", "svm.macro_f1"} <= found[0].keys()
    page = Path(broken.page).read_text()
    assert "middle" in page and "23" in page
