"""The benchmark really runs; its FLOPs are torch's; the campaign's records stay whole."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import campaign
from benchmarks.classification import GOALS, summarize
from benchmarks.flops import Sizes, machine_limit, step_flops, training_flops
from benchmarks.turns import ROOT, interval
from sftkit import losses, models
from sftkit.files import read_json
from sftkit.models.dropout import CheapDropout
from tests.engine import tiny


def counted(model, examples, rows):
    """FLOPs of a forward and a backward pass as torch counts them."""
    model.train()
    with FlopCounterMode(display=False) as counter:
        loss_sum, _ = losses.classification()(model, examples.batch(rows))
        loss_sum.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("train", ["all", "no-embeddings", "top-1"])
def test_flops_are_what_torch_counts(train):
    """With the attention written out: torch's counter misses products inside fused kernels."""
    model = tiny.model(head="first", layers=3)
    model.set_attn_implementation("eager")
    models.set_trainable(model, train)
    examples, rows = tiny.examples(24), list(range(10))
    trained, cached = model, 0
    if train == "top-1":
        trained, examples = models.cache_frozen(model, examples)
        cached = 2
    tokens = int(examples.lengths[rows].max())
    ours = step_flops(Sizes.of(model.config), len(rows), tokens, cached)
    assert ours == pytest.approx(counted(trained, examples, rows), rel=0.03)
    assert ours != pytest.approx(step_flops(Sizes.of(model.config), 10, tokens + 1, cached))


@pytest.mark.parametrize("layers", [1, 3])
def test_flops_without_what_is_not_read_are_what_torch_counts(layers):
    model = tiny.model(head="first", layers=layers, dropout=0.1)
    assert models.skip_unread(model)
    examples, rows = tiny.examples(24), list(range(10))
    tokens = int(examples.lengths[rows].max())
    sizes = Sizes.of(model.config)
    with CheapDropout():  # attention as two products that the counter sees
        found = counted(model, examples, rows)
    assert step_flops(sizes, 10, tokens, skipped=True) == pytest.approx(found, rel=0.03)
    assert step_flops(sizes, 10, tokens) > 1.2 * found


def test_flops_by_hand():
    """D=2, F=3, one block, one head, two classes; one example of two tokens."""
    sizes = Sizes(2, 3, 1, 1, 2)
    linear = 4 * (2 * 2 * 2 * 2) + 2 * (2 * 2 * 2 * 3)
    attention = 2 * (2 * 2 * 2 * 2)
    head = 2 * 1 * 2 * 2 + 2 * 1 * 2 * 2
    assert step_flops(sizes, 1, 2) == 3 * (linear + attention + head)
    assert training_flops(sizes, [(1, 2), (1, 2)]) == 2 * step_flops(sizes, 1, 2)


def test_the_limit_is_a_plausible_speed():
    with torch.no_grad():
        limit = machine_limit(Sizes(64, 256, 2, 2, 3), [(8, 16)] * 4, seconds=0.005)
    assert 0.01 < limit < 1e5


def measured(name, seed, speed, accuracy):
    return {
        "contestant": name,
        "seed": seed,
        "seconds": 1 / speed,
        "examples_per_second": speed,
        "accuracy": accuracy,
        "peak_memory_mb": 1000.0,
        "achieved_gflops": 60.0,
        "limit_gflops": 80.0,
        "positions": 10,
    }


def test_the_summary_pairs_repetitions():
    ours = ((1, 40, 0.7), (0, 20, 0.72), (2, 60, 0.74))
    runs = [measured("ours", s, v, a) for s, v, a in ours]
    runs += [
        measured("trainer-default", s, v, a)
        for s, v, a in ((0, 10, 0.71), (1, 10, 0.73), (2, 20, 0.72))
    ]
    over = summarize(runs)["trainer-default"]["ours_over_this"]
    assert over["ratio_of_medians"] == 4.0
    assert (over["paired_ratio_min"], over["paired_ratio_max"]) == (2.0, 4.0)
    assert over["accuracy_difference"][0] == pytest.approx(0.0)
    assert over["equal_accuracy"] is True
    assert summarize(runs)["ours"]["limit_share"] == 0.75
    worse = [measured("ours", s, 1, 0.6 + s / 1e3) for s in range(3)]
    worse += [measured("trainer-tuned", s, 1, 0.7 + s / 2e3) for s in range(3)]
    assert summarize(worse)["trainer-tuned"]["ours_over_this"]["equal_accuracy"] is False


def test_the_interval_is_students():
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert mean - low == pytest.approx(high - mean)
    assert interval([1.0]) is None


def test_a_quick_run_for_real(tmp_path):
    """Real tweets, real model, three contestants, a process each."""
    out = tmp_path / "c.json"
    names = ["ours", "trainer-tuned", "ours-top-2"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "classification.py", "--quick", "--rows", "64"]
        + ["--contestants", *names, "--out", out],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        # One thread: two would wait for each other when tests run side by side.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = read_json(out)
    assert [run["contestant"] for run in result["runs"]] == names
    by_name = {run["contestant"]: run for run in result["runs"]}
    assert by_name["ours"]["seconds"] > 0
    for run in result["runs"]:
        assert run["examples_per_second"] == pytest.approx(64 / run["seconds"])
        assert 0 < run["accuracy"] <= 1 and run["peak_memory_mb"] > 200
    # The same rows in batches by length: two batches, so the padded positions are close.
    assert by_name["trainer-tuned"]["positions"] == pytest.approx(
        by_name["ours"]["positions"], rel=0.2
    )
    assert by_name["ours-top-2"]["gflop"] < by_name["ours"]["gflop"]
    assert result["goals"] == GOALS and result["form"] == "quick"
    assert result["configurations"]["trainer-tuned"]["arguments"]["train_sampling_strategy"]
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert "examples / s, medians" in result["figure"]["alt"]


# -- campaign -------------------------------------------------------------------------------


RESULT = {
    "metrics": {
        key: {"accuracy": {"value": 0.75, "low": 0.7, "high": 0.8}}
        for key in ("svm", "frozen", "tuned")
    }
    | {"train_rows": 100},
    "timings": {"seconds": 105.0, "with_page": 107.0, "started": "2026-01-02T03:04:05Z",
                "cells": [{}]},
    "versions": {"torch": "2.13.0"},
    "device": "cpu", "threads": 2, "cores": 2, "machine": "Linux x86_64", "gflops": None,
    "hash": "aa", "hashes": {"notebook": "n", "package": "p", "parameters": {}, "assets": {}},
    "resumed": False,
}  # fmt: skip


def test_the_plan_is_what_the_notebook_reads():
    plan = campaign.jobs()
    curve = [j for j in plan if j.group == "label-curve"]
    assert {(j.parameters["limit"], j.parameters["seed"]) for j in curve} == {
        (limit, seed) for limit in (100, 300, 1000, 4000) for seed in (0, 1, 2)
    }
    seeds = {}
    for job in plan:
        if job.group == "benchmarks":
            assert job.parameters["limit"] == 0
            seeds.setdefault(job.parameters["data"], []).append(job.parameters["seed"])
    assert seeds == {
        "reuters-r8": [0, 1, 2],
        "tweets": [0, 1, 2],
        "news-topics": [0, 1, 2],
        "reuters-r52": [0],
        "newsgroups": [0],
    }
    assert len({job.key for job in plan}) == len(plan)


def test_every_job_is_accepted_by_the_notebook():
    from sftkit.course.run import plan

    hashes = {plan(campaign.NOTEBOOK, job.parameters).hash for job in campaign.jobs()}
    assert len(hashes) == len(campaign.jobs())


def test_records_grow_and_survive_interruption(tmp_path):
    path, plan, seen = tmp_path / "records.json", campaign.jobs(), []

    def runner(parameters):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(parameters)
        return copy.deepcopy(RESULT)

    with pytest.raises(KeyboardInterrupt):
        campaign.work_off(plan[::-1], runner, path)  # out of order on purpose
    records = campaign.read_records(path)
    assert [r["parameters"] for r in records] == [j.parameters for j in plan[-2:]]
    assert records[0]["hashes"] == {"notebook": "n", "package": "p"}
    assert records[0]["date"] == "2026-01-02" and "cells" not in records[0]["timings"]
    todo = campaign.show_plan(plan, records, {"notebook": "n", "package": "q"}, force=False)
    assert len(todo) == len(plan) - 2 and plan[-1] not in todo
    again = campaign.merge(records, records[0] | {"hash": "bb"}, plan)
    assert [r["hash"] for r in again] == ["bb", "aa"]


def test_drift_and_limits_are_told(tmp_path, capsys):
    path, plan = tmp_path / "records.json", campaign.jobs()[:3]
    assert campaign.work_off(plan, lambda p: copy.deepcopy(RESULT), path, minutes=-1) == 0
    assert campaign.work_off(plan[:2], lambda p: copy.deepcopy(RESULT), path) == 2
    capsys.readouterr()
    records = campaign.read_records(path)
    campaign.show_plan(plan, records, {"notebook": "n", "package": "p"}, False)
    assert "older version" not in capsys.readouterr().out
    campaign.show_plan(plan, records, {"notebook": "m", "package": "p"}, False)
    said = capsys.readouterr().out
    assert said.count("older version") == 2 and "1 of 3 runs to do" in said
    assert len(campaign.show_plan(plan, records, {}, force=True)) == 3


def test_the_estimate_learns_from_records():
    job = campaign.jobs()[0]
    record = campaign.as_record(job, RESULT)
    assert campaign.estimate(job, [record]) == pytest.approx(105.0)
    assert campaign.estimate(campaign.jobs()[-1], [record]) > campaign.estimate(job, [record])


def test_the_command_plans_and_refuses():
    script = str(ROOT / "benchmarks" / "campaign.py")
    plan = subprocess.run(
        [sys.executable, script, "label-curve", "--dry-run"], capture_output=True, text=True
    )
    assert plan.returncode == 0, plan.stderr
    assert plan.stdout.count("label-curve") == 12 and "of 12 runs to do" in plan.stdout
    wrong = subprocess.run([sys.executable, script, "curves"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "no group curves" in wrong.stderr
