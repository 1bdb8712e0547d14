"""The campaign behind notebook 10's table: equal runs, nothing lost, estimates."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks import campaign
from benchmarks import questions as benchmark
from sftkit.course import committed_records
from sftkit.files import PACKAGE


def test_the_headline_has_three_seeds_and_scratch_has_equal_data() -> None:
    jobs = benchmark.jobs()
    assert len({str(job) for job in jobs}) == len(jobs)
    headline = [j for j in jobs if j["questions"] == benchmark.HEADLINE]
    assert sorted(j["seed"] for j in headline if j["model"] == "fine-tuned") == [0, 1, 2]
    pair = [j for j in jobs if j["questions"] == benchmark.SMALLER]
    assert {j["model"] for j in pair} == set(benchmark.MODELS)
    assert len({j["seed"] for j in pair}) == 1
    total = sum(benchmark.estimate(job, []) for job in jobs)
    assert total < 50 * 60


def test_runs_are_kept_once_and_count_for_their_questions(tmp_path) -> None:
    path, jobs = tmp_path / "records.json", benchmark.jobs()
    for job, f1 in ((jobs[2], 0.5), (jobs[0], 0.6), (jobs[2], 0.7)):
        campaign.keep_run(path, {"job": job, "f1": [f1], "corpus": "now"}, jobs)
    runs = json.loads(path.read_text())["runs"]
    assert [(r["job"], r["f1"]) for r in runs] == [(jobs[0], [0.6]), (jobs[2], [0.7])]
    left = benchmark.missing(runs, "now")
    assert left == [job for job in jobs if job not in (jobs[0], jobs[2])]
    assert benchmark.missing(runs, "other") == jobs


def test_estimates_come_from_records_where_there_are_some() -> None:
    job = benchmark.jobs()[0]
    run = {"job": job | {"seed": 9}, "processor_seconds": 77.0}
    assert benchmark.estimate(job, [run]) == 77.0 < benchmark.estimate(job, [])


def test_a_dry_run_says_what_and_how_long() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/questions.py", "--dry-run"],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"of {len(benchmark.jobs())} runs to do, about" in done.stdout


def test_committed_records_are_of_one_corpus() -> None:
    runs = committed_records("questions")
    assert len({run["corpus"] for run in runs}) <= 1
    for run in runs:
        assert 0 <= run["f1"][1] <= run["f1"][0] <= run["f1"][2] <= 1
        assert run["processor_seconds"] > 0 and run["job"] in benchmark.jobs()
