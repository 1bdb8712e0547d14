"""The contract of `exact`: which case applies, and that its tolerances hold here."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from sftkit import exact, losses
from sftkit.batches import Batches, Examples, Ragged
from sftkit.course.facts import compare_results, gather
from sftkit.fit import fit
from tests.engine import tiny

HERE = exact.conditions()


def changed(name, value):
    other = copy.deepcopy(HERE)
    if isinstance(value, dict):
        other[name] |= value
    else:
        other[name] = value
    return other


def test_the_same_conditions_promise_identical_bits_also_after_json():
    case = exact.compare(HERE, json.loads(json.dumps(HERE)))
    assert case.identical and case.tolerance == 0 and str(case) == "identical bits"


@pytest.mark.parametrize(
    ("name", "value", "kind", "why"),
    [
        ("threads", 99, "threads", f"threads: {HERE['threads']} and 99"),
        ("processes", 2, "processes", "processes: 1 and 2"),
        ("processor", "Z80", "machine", "and Z80"),
        ("instructions", "SSE1", "machine", "and SSE1"),
        ("device", "NVIDIA A100", "machine", "device: cpu and NVIDIA A100"),
        ("platform", "Plan9 vax", "machine", "and Plan9 vax"),
        ("flags", {"deterministic_algorithms": "?"}, "machine", "deterministic_algorithms"),
        ("environment", {"MKL_CBWR": "COMPATIBLE"}, "machine", "MKL_CBWR: None and COMPATIBLE"),
        ("versions", {"torch": "1.0"}, "versions", f"torch: {torch.__version__} and 1.0"),
        ("versions", {"numpy": None}, "versions", "numpy"),
        ("threads", None, "unknown", "not recorded: threads"),
        ("device", None, "unknown", "not recorded: device"),
    ],
)
def test_every_difference_is_named_and_makes_its_case(name, value, kind, why):
    case = exact.compare(HERE, changed(name, value))
    assert case.name == kind and why in "; ".join(case.why) and why in str(case)
    assert case.tolerance == exact.TOLERANCES.get(kind)


def test_the_largest_difference_decides_and_a_gpu_needs_its_flag():
    both = changed("threads", 99) | {"versions": HERE["versions"] | {"torch": "1.0"}}
    case = exact.compare(HERE, both)
    assert case.name == "versions" and len(case.why) == 2
    gpu = changed("device", "NVIDIA A100")
    assert exact.compare(gpu, gpu).name == "threads"
    gpu["flags"] = gpu["flags"] | {"deterministic_algorithms": True}
    assert exact.compare(gpu, gpu).identical


def test_results_of_runs_are_compared():
    parts = {"notebook": "a", "parameters": {"lr": 1}, "assets": {}, "package": "b"}
    ours = json.loads(json.dumps(gather() | {"hashes": parts}))
    assert compare_results(ours, ours).identical
    case = compare_results(ours, ours | {"hashes": parts | {"parameters": {"lr": 2}}})
    assert case.name == "another run" and case.tolerance is None
    assert "another parameters" in str(case)
    old = {name: value for name, value in ours.items() if name != "conditions"}
    assert compare_results(ours, old).name == "unknown"


def tiny_run(threads, seed=0):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model, batches = tiny.model(dropout=0.1), Batches(tiny.examples(160), 8)
        options = {"max_steps": 20, "lr": 1e-3, "precision": "fp32", "seed": seed}
        state = fit(model, batches, losses.classification(), **options)
    finally:
        torch.set_num_threads(before)
    return np.array(state.losses), torch.cat([p.detach().flatten() for p in model.parameters()])


def test_same_threads_same_bits_and_other_threads_within_the_tolerance():
    (one, weights), (again, same), (two, _) = tiny_run(1), tiny_run(1), tiny_run(2)
    assert np.array_equal(one, again) and torch.equal(weights, same)
    assert np.abs(two / one - 1).max() < exact.TOLERANCES["threads"]
    other, _ = tiny_run(1, seed=1)  # broken variant: other numbers of dropout
    assert np.abs(other / one - 1).max() > exact.TOLERANCES["machine"]


@pytest.mark.slow
def test_threads_on_a_real_model():
    from sftkit import models

    def run(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            model, _ = models.load("minilm", ["a", "b", "c"], dropout=0.1)
            generator = np.random.default_rng(0)
            lengths = generator.integers(8, 33, 80)
            ids = generator.integers(1000, 20000, lengths.sum()).astype(np.int32)
            ragged = Ragged(ids, lengths)
            labels = (ids[ragged.starts[:-1]] % 3).astype(np.int64)
            batches = Batches(Examples({"input_ids": ragged, "labels": labels}), 4)
            options = {"max_steps": 20, "lr": 2e-4, "precision": "fp32"}
            return np.array(fit(model, batches, losses.classification(), **options).losses)
        finally:
            torch.set_num_threads(before)

    one, again, two = run(1), run(1), run(2)
    assert np.array_equal(one, again)
    worst = np.abs(two / one - 1).max()
    print(f"one thread and two, MiniLM, 20 steps: losses differ by {worst:.1e}")
    assert worst < exact.TOLERANCES["threads"]


def test_on_a_cpu_no_measured_speed_decides_the_precision(monkeypatch) -> None:
    """What is fast depends on the moment; identical bits must not."""
    from sftkit import device

    monkeypatch.setattr(device, "probe_precision", lambda kind: ("bf16", "it is faster now"))
    assert device.auto_precision("cpu") == "fp32"
    assert device.auto_precision("cuda") == "bf16"
