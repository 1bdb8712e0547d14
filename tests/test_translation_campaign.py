"""The campaign behind notebook 11's table: equal runs, nothing lost, estimates."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import campaign
from benchmarks import translation as benchmark
from sftkit.course import committed_records
from sftkit.files import PACKAGE


def test_the_headline_has_three_seeds_with_and_without() -> None:
    jobs = benchmark.jobs()
    assert len({str(job) for job in jobs}) == len(jobs)
    for group, models in (
        ("headline", (benchmark.PRETRAINED, benchmark.SCRATCH, benchmark.LONGER)),
        ("language", (benchmark.PRETRAINED, benchmark.SCRATCH)),
    ):
        for model in models:
            mine = [j for j in jobs if (j["group"], j["model"]) == (group, model)]
            assert sorted(j["seed"] for j in mine) == [0, 1, 2]
    rates = [j["lr"] for j in jobs if j["group"] == "tuning"]
    assert sorted(rates) == sorted([*benchmark.RATES] * 2)  # as many for both
    assert not {j["seed"] for j in jobs if j["group"] == "tuning"} & set(benchmark.SEEDS)
    assert sum(benchmark.estimate(job, []) for job in jobs) < 100 * 60


def test_runs_are_kept_once_and_count_for_their_pairs(tmp_path) -> None:
    path, jobs = tmp_path / "records.json", benchmark.jobs()
    for job, bleu in ((jobs[2], 5.0), (jobs[0], 6.0), (jobs[2], 7.0)):
        campaign.keep_run(path, {"job": job, "bleu": [bleu], "corpus": "now"}, jobs)
    runs = json.loads(path.read_text())["runs"]
    assert [(r["job"], r["bleu"]) for r in runs] == [(jobs[0], [6.0]), (jobs[2], [7.0])]
    now = {benchmark.LANGUAGE: "now", benchmark.SECOND: "now"}
    assert benchmark.missing(runs, now) == [j for j in jobs if j not in (jobs[0], jobs[2])]
    assert benchmark.missing(runs, {k: "other" for k in now}) == jobs
    assert {j["group"] for j in benchmark.missing([], now, ["size"])} == {"size"}


def test_the_rate_is_chosen_on_validation_for_each_kind() -> None:
    tuned = [j for j in benchmark.jobs() if j["group"] == "tuning"]
    runs = [{"job": j, "bleu": [float(i)]} for i, j in enumerate(tuned)]
    assert benchmark.best_rate(runs, benchmark.LONGER) == benchmark.RATES[-1]
    assert benchmark.best_rate(runs[:2], benchmark.ALL_TEXTS) == benchmark.RATES[1]


@pytest.mark.parametrize("model", [benchmark.ALL_TEXTS, "nearest"])
def test_one_job_from_beginning_to_end(model, monkeypatch) -> None:
    monkeypatch.setattr(benchmark, "SIZES", {"width": 16, "layers": 1, "heads": 2})
    monkeypatch.setitem(benchmark.EPOCHS_AT, 40, (1, 0.02))
    job = {"group": "size", "model": model, "language": "de-DE", "pairs": 40, "seed": 0}
    rate = {"job": {"group": "tuning", "model": benchmark.PRETRAINED, "lr": 1e-3}, "bleu": [1]}
    monkeypatch.setattr(benchmark, "BEAM", {"beams": 1})
    done = benchmark.one_job(job, [rate])
    assert done["split"] == "test" and done["train_pairs"] == 40
    assert 0 <= done["bleu"][1] <= done["bleu"][0] <= done["bleu"][2] <= 100
    if model != "nearest":
        # All texts of the training side, however few pairs there are.
        assert done["denoising_texts"] > 1_000 and done["lr"] == 1e-3


def test_a_dry_run_says_what_and_how_long() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/translation.py", "--dry-run"],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"of {len(benchmark.jobs())} runs to do, about" in done.stdout


def test_committed_records_are_of_one_corpus_each() -> None:
    runs = committed_records("translation")
    for language in (benchmark.LANGUAGE, benchmark.SECOND):
        assert len({r["corpus"] for r in runs if r["job"]["language"] == language}) <= 1
    for run in runs:
        assert run["bleu"][1] <= run["bleu"][0] <= run["bleu"][2]
        assert run["processor_seconds"] > 0 and run["job"] in benchmark.jobs()
