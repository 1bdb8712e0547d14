"""The campaign behind notebook 12's last table: all seeds, and what is recorded."""

from __future__ import annotations

from benchmarks import summaries as benchmark
from sftkit.course import committed_records


def test_every_trained_model_has_three_seeds() -> None:
    jobs = benchmark.jobs()
    for model in (benchmark.SCRATCH, benchmark.DENOISED, benchmark.TUNED):
        assert [j["seed"] for j in jobs if j["model"] == model] == [0, 1, 2]
    assert sum(benchmark.CAMPAIGN.guess(job) for job in jobs) < 75 * 60


def test_committed_records_are_shares() -> None:
    for run in committed_records("summaries"):
        assert 0 <= run["rougeL"] <= 1
