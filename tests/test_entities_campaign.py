"""The campaign behind notebook 09's curve: the same runs for all, and what is recorded."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import entities
from sftkit.course import committed_records
from sftkit.evaluate import tagging


def test_every_encoder_gets_the_same_runs_and_is_tuned_before_its_curve() -> None:
    jobs = entities.jobs()
    for group in ("tuning", "curve"):
        plans = [
            [
                {k: v for k, v in job.items() if k != "model"}
                for job in jobs
                if job["model"] == name and job["group"] == group
            ]
            for name in entities.MODELS
        ]
        assert plans[0] and all(plan == plans[0] for plan in plans)
    last_tuning = max(i for i, job in enumerate(jobs) if job["group"] == "tuning")
    first = min(
        i for i, j in enumerate(jobs) if j["group"] == "curve" and j["model"] in entities.MODELS
    )
    assert last_tuning < first and entities.TUNING_SEED not in entities.SEEDS


def test_the_rate_is_the_best_on_validation() -> None:
    def run(name, lr, f1):
        return {"job": {"group": "tuning", "model": name, "lr": lr}, "f1": [f1, 0, 1]}

    runs = [run("a", 1e-3, 0.7), run("a", 2e-3, 0.6), run("b", 5e-4, 0.9)]
    assert entities.best_rate(runs, "a") == 1e-3 and entities.best_rate(runs, "b") == 5e-4


def test_the_baseline_is_tuned_at_each_size_up_to_a_limit() -> None:
    job = {"group": "curve", "model": "features", "sentences": entities.GRID_UP_TO, "seed": 1}
    runs = [{"job": job, "chosen": {"c1": 0.1, "c2": 0.01}}]
    assert entities.grid(8_000, 1, runs) == ((0.1, 0.01),)
    assert entities.grid(8_000, 0, runs) == entities.grid(500, 1, runs) == entities.GRID


def test_a_run_of_the_baseline_is_recorded_with_its_counts(monkeypatch) -> None:
    whole = entities.corpus(40, 0)
    small = {k: v.select(range(min(30, len(v)))) for k, v in whole.items()}
    monkeypatch.setattr(entities, "corpus", lambda size, seed: type(whole)(small))
    monkeypatch.setattr(entities, "STEPS", 10)
    monkeypatch.setattr(entities, "GRID", ((0.0, 0.1),))
    job = {"group": "curve", "model": "features", "sentences": 40, "seed": 0}
    done = entities.one_job(job, [])
    sums = np.array([done["counts"][k].split() for k in tagging.COUNTS], int).sum(axis=1)
    assert done["f1"][0] == pytest.approx(2 * sums[0] / (sums[1] + sums[2]))
    assert done["split"] == "test"


def test_committed_records_are_of_the_right_split() -> None:
    for run in committed_records("entities"):
        assert run["split"] == ("validation" if run["job"]["group"] == "tuning" else "test")
        assert 0 < run["f1"][1] <= run["f1"][0] <= run["f1"][2] < 1
