"""The range test and the exponential schedule, against what a quadratic must do."""

from __future__ import annotations

import math

import pytest
import torch

from sftkit import optim
from sftkit.errors import ParameterError


class Bowl:
    """Gradient descent on half a curvature times theta squared."""

    def __init__(self, curvature: float) -> None:
        self.curvature, self.theta, self.calls = curvature, 1.0, 0

    def take_step(self, lr: float) -> float:
        loss = self.curvature * self.theta**2 / 2
        self.theta -= lr * self.curvature * self.theta
        self.calls += 1
        return loss


@pytest.mark.parametrize("curvature", [0.5, 4.0, 300.0])
def test_a_quadratic_blows_up_soon_after_two_over_its_curvature(curvature):
    bowl = Bowl(curvature)
    found = optim.range_test(bowl.take_step, 1e-6, 1e3, steps=400, smoothing=0.0)
    assert found.diverged and bowl.calls == len(found.lrs) + 1
    # The loss is lowest near 2 / curvature at the latest: beyond, each step raises it.
    assert 0.5 / curvature < found.lowest < 2.1 / curvature
    assert found.suggestion == pytest.approx(found.lowest / 10)


def test_rates_are_geometric_and_the_running_mean_is_unbiased():
    found = optim.range_test(lambda lr: 3.0, 1e-4, 1.0, steps=5, smoothing=0.9)
    assert found.lrs == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert found.smoothed == pytest.approx([3.0] * 5) and not found.diverged


def test_it_stops_at_the_first_loss_that_is_not_finite():
    series = iter([1.0, 0.9, math.nan, 0.1])
    found = optim.range_test(lambda lr: next(series), 1e-3, 1.0, steps=4)
    assert found.losses == (1.0, 0.9) and found.diverged


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"low": 0.0}, "low"),
        ({"low": 1.0, "high": 0.1}, "low"),
        ({"high": math.inf}, "low"),
        ({"low": math.nan}, "low"),
        ({"steps": 1}, "steps"),
        ({"smoothing": 1.0}, "smoothing"),
    ],
)
def test_what_makes_no_test_is_refused(options, says):
    with pytest.raises(ParameterError, match=says):
        optim.range_test(lambda lr: 1.0, **options)


def test_a_loss_that_is_never_finite_is_a_sentence():
    with pytest.raises(ParameterError, match="first step"):
        optim.range_test(lambda lr: math.nan)


@pytest.mark.parametrize(("total", "warmup"), [(12, 0.0), (20, 0.25), (7, 0.5)])
def test_exponential_is_torchs_with_warm_up_before(total, warmup):
    ours = optim.Schedule("exponential", total, warmup, drop=0.05)
    left = total - ours.warmup_steps
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.ExponentialLR(dummy, gamma=0.05 ** (1 / left))
    for step in range(ours.warmup_steps, total):
        assert ours.factor(step) == pytest.approx(dummy.param_groups[0]["lr"], abs=1e-12)
        dummy.step()
        torchs.step()
    assert ours.factor(total) == ours.factor(total + 5) == pytest.approx(0.05)


def test_default_drops_are_as_documented():
    for name, drop in (("exponential", 0.01), ("step", 0.1), ("plateau", 0.5)):
        assert optim.Schedule(name, 10).drop == drop
