"""Losses and optimizers against torch, schedules against a list worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sftkit import losses, optim
from sftkit.errors import ParameterError
from tests.engine import tiny


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 20),
    smoothing=st.sampled_from([0.0, 0.1]),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sum_over_count_is_torchs_mean(rows, smoothing, weighted, seed):
    torch.manual_seed(seed)
    logits = torch.randn(rows, 4, dtype=torch.float64)
    labels = torch.randint(0, 4, (rows,))
    labels[1::3] = -100
    weights = torch.rand(4, dtype=torch.float64) + 0.1 if weighted else None
    loss_sum, n = losses.cross_entropy(
        logits, labels, class_weights=weights, label_smoothing=smoothing
    )
    mean = functional.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)
    assert torch.allclose(loss_sum / n, mean, atol=1e-12)


def test_balanced_weights_equal_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0, 0, 0, 1, 2, 2]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.array(labels))
    assert losses.balanced_weights(labels, 3) == pytest.approx(expected.tolist())
    with pytest.raises(ParameterError, match="class"):
        losses.balanced_weights([0, 0], 2)


def test_decay_is_for_matrices_only():
    groups = optim.parameter_groups(tiny.model(), weight_decay=0.1, head_lr_factor=5.0)
    for group in groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])
    by_name = {group["name"]: group for group in groups}
    assert set(by_name) == {"body", "body decayed", "head", "head decayed"}
    assert by_name["head decayed"]["factor"] == 5.0
    assert [tuple(p.shape) for p in by_name["head decayed"]["params"]] == [(3, 16)]
    counted = sum(len(group["params"]) for group in groups)
    assert counted == len(list(tiny.model().parameters()))


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        ("constant", 0.0, [1, 1, 1, 1, 1, 1]),
        ("linear", 0.0, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("linear", 1 / 3, [1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4]),
        ("cosine", 0.0, [(1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]),
        ("step", 0.0, [1, 1, 0.1, 0.1, 0.01, 0.01]),
    ],
)
def test_rates_step_by_step(name, warmup, expected):
    assert optim.rates(name, 6, 1.0, warmup) == pytest.approx(expected)


def test_plateau_drops_after_patience_and_remembers():
    schedule = optim.Schedule("plateau", 100, drop=0.5, patience=2)
    seen = []
    for score in (0.5, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7):
        schedule.observe(score)
        seen.append(schedule.factor(10))
    assert seen == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    twin = optim.Schedule("plateau", 100, drop=0.5, patience=2)
    twin.restore(schedule.state())
    assert twin.state() == schedule.state() and twin.factor(10) == 0.25


def test_a_schedule_of_one_step_does_not_divide_by_zero():
    for name in optim.SCHEDULES:
        for warmup in (0.0, 0.5, 0.99):
            assert 0 < optim.Schedule(name, 1, warmup).factor(0) <= 1


@pytest.mark.parametrize("clip", [None, 0.5, 100.0])
def test_clip_and_divide_equals_torchs_two_passes(clip):
    a, b = tiny.model(), tiny.model()
    for twin in (a, b):
        torch.manual_seed(1)
        for p in twin.parameters():
            p.grad = torch.randn_like(p)
    norm = optim.clip_and_divide(list(a.parameters()), 7.0, clip)
    for p in b.parameters():
        p.grad /= 7.0
    expected = torch.nn.utils.clip_grad_norm_(b.parameters(), clip or math.inf)
    assert torch.allclose(norm, expected)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: optim.Schedule("lineer", 5),
        lambda: optim.Schedule("linear", 5, 1.0),
        lambda: optim.make_optimizer("lion", [], 1e-3),
    ],
)
def test_unknown_names_are_refused(call):
    with pytest.raises(ParameterError):
        call()
