"""Temperature, McNemar, intervals, power: against other computations and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from sftkit import evaluate
from sftkit.errors import ParameterError
from sftkit.evaluate import Predictions


def sure_of_itself(rows=400, classes=3, seed=0, factor=3.0):
    """Labels drawn from a model's probabilities, and its logits times a factor."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, classes)) * 1.5
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (generator.random((rows, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    return factor * logits, labels.clip(max=classes - 1)


@pytest.mark.parametrize(("rows", "classes", "factor"), [(400, 3, 3), (90, 2, 0.4), (50, 7, 9)])
def test_the_temperature_is_where_a_general_minimizer_finds_it(rows, classes, factor):
    logits, labels = sure_of_itself(rows, classes, seed=rows, factor=factor)

    def loss(temperature):
        z = torch.from_numpy(logits / temperature)
        return torch.nn.functional.cross_entropy(z, torch.from_numpy(labels)).item()

    found = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-9})
    assert evaluate.fit_temperature(logits, labels) == pytest.approx(found.x, rel=1e-5)
    assert evaluate.negative_log_likelihood(logits, labels, 2.5) == pytest.approx(loss(2.5))


@pytest.mark.parametrize("seed", range(10))
def test_the_loss_on_validation_is_never_worse_and_the_classes_stay(seed):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(30, 4)) * 10.0 ** generator.integers(-2, 3)
    labels = generator.integers(0, 4, 30)
    temperature = evaluate.fit_temperature(logits, labels)
    before = evaluate.negative_log_likelihood(logits, labels)
    assert evaluate.negative_log_likelihood(logits, labels, temperature) <= before + 1e-12
    found = evaluate.calibrated(Predictions(logits, labels), temperature)
    assert (found.classes == logits.argmax(axis=1)).all()


def test_temperatures_without_a_minimum_are_the_ends():
    logits = np.eye(3) * 5
    assert evaluate.fit_temperature(logits, [0, 1, 2]) == 0.01  # all right: never sure enough
    assert evaluate.fit_temperature(logits, [1, 2, 0]) == 100.0  # all wrong: never flat enough
    assert evaluate.fit_temperature(np.zeros((4, 3)), [0, 1, 2, 0]) == 100.0


def test_scaling_mends_a_model_that_is_too_sure():
    logits, labels = sure_of_itself(4000)
    half = slice(0, 2000), slice(2000, 4000)
    temperature = evaluate.fit_temperature(logits[half[0]], labels[half[0]])
    assert temperature == pytest.approx(3.0, rel=0.1)
    before = Predictions(logits[half[1]], labels[half[1]])
    after = evaluate.calibrated(before, temperature)
    gap = [evaluate.calibration_error(found.probs, found.labels) for found in (before, after)]
    assert gap[1] < 0.05 < 0.1 < gap[0]


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros(3), [0, 1, 2], "shape"),
        (np.zeros((2, 3)), [0], "shape"),
        (np.zeros((0, 3)), [], "at least one"),
        (np.array([[0.0, np.nan]]), [0], "row 0"),
        (np.zeros((2, 3)), [0, -1], "labels from -1"),
        (np.zeros((2, 3)), [0, 3], "to 3 for 3 classes"),
    ],
)
def test_what_a_temperature_cannot_be_fitted_to(logits, labels, message):
    with pytest.raises(ParameterError, match=message):
        evaluate.fit_temperature(logits, labels)
    with pytest.raises(ParameterError):
        evaluate.negative_log_likelihood(np.zeros((1, 2)), [0], temperature=0)
    with pytest.raises(ParameterError):
        evaluate.calibrated(Predictions(np.zeros((1, 2)), np.zeros(1)), -1.0)


def test_mcnemar_by_hand():
    for first, second in [(3, 9), (9, 3), (0, 5), (6, 6), (40, 61)]:
        m, least = first + second, min(first, second)
        tail = sum(math.comb(m, k) for k in range(least + 1)) / 2**m
        assert evaluate.mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))
    assert evaluate.mcnemar(0, 0) == 1.0
    with pytest.raises(ParameterError):
        evaluate.mcnemar(-1, 3)


def test_wilsons_interval_solves_its_equation():
    z = 1.959963984540054
    for right, n in [(0, 20), (3, 20), (97, 100), (100, 100)]:
        for end in evaluate.wilson(right, n):
            assert abs(right / n - end) == pytest.approx(
                z * math.sqrt(max(end * (1 - end), 0) / n), abs=1e-9
            )
    with pytest.raises(ParameterError):
        evaluate.wilson(5, 4)


def covered(interval, share, n):
    """Exact coverage of an interval for a share: the sum over all outcomes."""
    k = np.arange(n + 1)
    ends = np.array([interval(int(i), n) for i in k])
    holds = (ends[:, 0] <= share) & (share <= ends[:, 1])
    return float(binom.pmf(k, n, share)[holds].sum())


def naive(right, n):
    share = right / n
    half = 1.96 * math.sqrt(share * (1 - share) / n)
    return share - half, share + half


def test_wilson_keeps_its_coverage_where_the_naive_interval_loses_it():
    assert covered(naive, 0.98, 100) < 0.9 < 0.94 < covered(evaluate.wilson, 0.98, 100)
    assert covered(naive, 0.5, 100) == pytest.approx(
        covered(evaluate.wilson, 0.5, 100), abs=0.01
    )


def f1(sums):
    right, predicted, true = sums[..., 0], sums[..., 1], sums[..., 2]
    return 2 * right / (predicted + true)


def test_the_bootstrap_of_sums_is_that_of_drawn_rows():
    generator = np.random.default_rng(0)
    true = generator.integers(1, 5, 300)
    predicted = generator.integers(1, 5, 300)
    right = generator.integers(0, np.minimum(true, predicted) + 1)
    sums = np.stack([right, predicted, true], axis=1)
    value, low, high = evaluate.bootstrap(sums, f1)
    assert value == pytest.approx(2 * right.sum() / (predicted + true).sum())
    draws = [generator.integers(0, 300, 300) for _ in range(4000)]
    plain = [f1(sums[rows].sum(axis=0)) for rows in draws]
    assert (low, high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.004)
    few = evaluate.bootstrap(sums, f1, replicates=7)
    assert few[0] == value


def test_the_bootstrap_of_a_difference_is_paired(monkeypatch):
    """The detector: drawn apart, two models that err alike get a far wider interval."""
    generator = np.random.default_rng(1)
    first = (generator.random(500) < 0.8).astype(int)
    second = first.copy()
    second[:5] = 0
    labels = np.ones(500, dtype=int)

    def share(sums):
        return sums[..., 0] / 500

    value, low, high = evaluate.bootstrap(first[:, None], share, second[:, None])
    known = evaluate.compare(first, second, labels)
    assert 100 * value == pytest.approx(known.points)
    assert (100 * low, 100 * high) == pytest.approx((known.low, known.high), abs=0.25)
    apart = [
        evaluate.bootstrap(part[:, None], share, seed=i)
        for i, part in enumerate((first, second))
    ]
    assert high - low < 0.5 * (apart[0][2] - apart[0][1])
    # In pieces, as when the examples are many, nothing is lost.
    monkeypatch.setattr("sftkit.evaluate.intervals.CELLS", 5_000)
    pieces = evaluate.bootstrap(first[:, None], share, second[:, None])
    assert pieces[0] == value and pieces[1:] == pytest.approx((low, high), abs=0.003)


@pytest.mark.parametrize("sums", [np.zeros(4), np.zeros((0, 2))])
def test_what_the_bootstrap_refuses(sums):
    with pytest.raises(ParameterError):
        evaluate.bootstrap(sums, f1)
    with pytest.raises(ParameterError):
        evaluate.bootstrap(np.ones((4, 3)), f1, np.ones((5, 3)))


def rejected(n, difference, disagreement, repetitions=20_000):
    """Share of simulated test sets on which the difference is seen at 5 %."""
    generator = np.random.default_rng(0)
    shares = [(disagreement + difference) / 2, (disagreement - difference) / 2]
    drawn = generator.multinomial(n, [*shares, 1 - disagreement], size=repetitions)
    wins, losses = drawn[:, 0], drawn[:, 1]
    z = (wins - losses) / np.sqrt(np.maximum(wins + losses, 1))
    return float((np.abs(z) > 1.959964).mean())


@pytest.mark.parametrize(
    ("difference", "disagreement"), [(0.02, 0.12), (0.05, 0.2), (0.01, 0.05)]
)
def test_the_number_of_examples_gives_the_power(difference, disagreement):
    n = evaluate.examples_needed(difference, disagreement)
    assert evaluate.power(n, difference, disagreement) == pytest.approx(0.8, abs=0.005)
    assert rejected(n, difference, disagreement) == pytest.approx(0.8, abs=0.02)
    assert rejected(n // 2, difference, disagreement) < 0.65  # the detector sees half of it
    more = evaluate.examples_needed(-difference, disagreement, power=0.95)
    assert rejected(more, difference, disagreement) == pytest.approx(0.95, abs=0.02)


def test_without_spread_the_difference_is_seen_or_not():
    assert evaluate.power(100, 1.0, 1.0) == 1.0
    assert evaluate.power(3, 1.0, 1.0) == 0.0
    assert evaluate.examples_needed(1.0, 1.0) == 4


@pytest.mark.parametrize(
    ("difference", "disagreement", "wanted"),
    [(0.0, 0.1, 0.8), (0.2, 0.1, 0.8), (0.1, 1.1, 0.8), (0.1, 0.2, 1.0)],
)
def test_impossible_plans(difference, disagreement, wanted):
    with pytest.raises(ParameterError):
        evaluate.examples_needed(difference, disagreement, wanted)


def test_impossible_tests():
    with pytest.raises(ParameterError):
        evaluate.power(0, 0.1, 0.2)
    with pytest.raises(ParameterError):
        evaluate.power(10, 0.1, 0.2, level=0)
