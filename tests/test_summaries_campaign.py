"""The campaign behind notebook 12's last table: all seeds, nothing lost, one corpus."""

from __future__ import annotations

import subprocess
import sys

from benchmarks import summaries as benchmark
from sftkit.course import committed_records
from sftkit.files import PACKAGE


def test_every_trained_model_has_three_seeds() -> None:
    jobs = benchmark.jobs()
    for model in (benchmark.SCRATCH, benchmark.DENOISED, benchmark.TUNED):
        assert [j["seed"] for j in jobs if j["model"] == model] == [0, 1, 2]
    assert len({str(job) for job in jobs}) == len(jobs)
    assert sum(benchmark.SECONDS[job["model"]] for job in jobs) < 75 * 60


def test_a_record_counts_for_its_texts_only() -> None:
    jobs = benchmark.jobs()
    runs = [{"job": jobs[1], "corpus": "now"}]
    assert benchmark.missing(runs, "now") == [job for job in jobs if job != jobs[1]]
    assert benchmark.missing(runs, "other") == jobs


def test_a_dry_run_says_what_and_how_long() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/summaries.py", "--dry-run"],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"of {len(benchmark.jobs())} runs to do, about" in done.stdout


def test_committed_records_are_of_one_corpus() -> None:
    runs = committed_records("summaries")
    assert len({run["corpus"] for run in runs}) <= 1
    for run in runs:
        assert 0 <= run["rougeL"] <= 1 and run["job"] in benchmark.jobs()
