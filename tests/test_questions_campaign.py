"""The campaign behind notebook 10's table: its headline and what is recorded."""

from __future__ import annotations

from benchmarks import questions as benchmark
from sftkit.course import committed_records


def test_the_headline_has_three_seeds_and_scratch_has_equal_data() -> None:
    jobs = benchmark.jobs()
    headline = [j for j in jobs if j["questions"] == benchmark.HEADLINE]
    assert sorted(j["seed"] for j in headline if j["model"] == "fine-tuned") == [0, 1, 2]
    pair = [j for j in jobs if j["questions"] == benchmark.SMALLER]
    assert {j["model"] for j in pair} == set(benchmark.MODELS)
    assert len({j["seed"] for j in pair}) == 1
    seconds = {size: 0.0 for size in benchmark.PASSES}
    for job in jobs:
        seconds[job["questions"]] += benchmark.CAMPAIGN.guess(job)
    headline_seconds = seconds.pop(benchmark.HEADLINE)
    assert sum(seconds.values()) < 50 * 60
    assert headline_seconds < 5 * 3600  # in float32, on one core


def test_committed_records_are_shares() -> None:
    for run in committed_records("questions"):
        assert 0 <= run["f1"][1] <= run["f1"][0] <= run["f1"][2] <= 1
