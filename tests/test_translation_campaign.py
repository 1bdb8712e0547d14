"""The campaign behind notebook 11's table: equal runs, and what is recorded."""

from __future__ import annotations

import pytest

from benchmarks import translation as benchmark
from sftkit.course import committed_records


def test_the_headline_has_three_seeds_with_and_without() -> None:
    jobs = benchmark.jobs()
    for group, models in (
        ("headline", (benchmark.PRETRAINED, benchmark.SCRATCH, benchmark.LONGER)),
        ("long", (benchmark.PRETRAINED, benchmark.SCRATCH)),
        ("language", (benchmark.PRETRAINED, benchmark.SCRATCH)),
    ):
        for model in models:
            mine = [j for j in jobs if (j["group"], j["model"]) == (group, model)]
            assert sorted(j["seed"] for j in mine) == [0, 1, 2]
    rates = [j["lr"] for j in jobs if j["group"] == "tuning"]
    assert sorted(rates) == sorted([*benchmark.RATES] * 2)  # as many for both
    assert not {j["seed"] for j in jobs if j["group"] == "tuning"} & set(benchmark.SEEDS)
    assert sum(benchmark.guess(job) for job in jobs) < 100 * 60


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


def test_committed_records_have_their_score_inside_its_interval() -> None:
    for run in committed_records("translation"):
        assert run["bleu"][1] <= run["bleu"][0] <= run["bleu"][2]
