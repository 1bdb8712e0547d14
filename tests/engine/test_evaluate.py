"""Metrics against scikit-learn, intervals against the plain bootstrap, pictures."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from sftkit import evaluate
from sftkit.errors import ParameterError
from sftkit.evaluate.metrics import calibration_error, from_confusion
from sftkit.evaluate.predict import Predictions


def predictions(rows=300, classes=3, seed=0, skill=1.5):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += skill
    return Predictions(logits, labels)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_metrics_from_a_confusion_matrix_equal_scikit_learns(seed, classes):
    found = predictions(40, classes, seed)
    labels = np.minimum(found.labels, classes - 2)  # the last class never occurs
    matrix = sk.confusion_matrix(labels, found.classes, labels=range(classes))
    ours = from_confusion(matrix)
    for average in ("macro", "weighted"):
        f1 = sk.f1_score(
            labels, found.classes, average=average, labels=range(classes), zero_division=0
        )
        assert ours[f"{average} F1"] == pytest.approx(f1)
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, found.classes))


def test_the_interval_is_that_of_the_plain_bootstrap():
    found = predictions()
    report = evaluate.classification_report(found, ["a", "b", "c"])
    generator = np.random.default_rng(1)
    drawn = [generator.integers(0, 300, 300) for _ in range(3000)]
    for name, metric in [
        ("accuracy", sk.accuracy_score),
        ("macro F1", lambda y, p: sk.f1_score(y, p, average="macro")),
    ]:
        plain = [metric(found.labels[i], found.classes[i]) for i in drawn]
        value, low, high = report.values[name]
        assert (low, high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.006)
        assert low < value < high


def test_the_interval_covers_the_truth_about_95_times_in_100():
    """The detector: an interval half as wide covers far less."""
    generator = np.random.default_rng(0)
    truth, covered, covered_by_half = 0.7, 0, 0
    for repetition in range(200):
        right = generator.random(250) < truth
        found = Predictions(np.eye(2)[right.astype(int)], np.ones(250, dtype=int))
        report = evaluate.classification_report(found, ["x", "y"], seed=repetition)
        value, low, high = report.values["accuracy"]
        covered += low <= truth <= high
        half = (high - low) / 4
        covered_by_half += value - half <= truth <= value + half
    assert 180 <= covered <= 199
    assert covered_by_half < 160


def test_a_paired_comparison():
    labels = np.zeros(200, dtype=int)
    a, b = labels.copy(), labels.copy()
    a[:20] = 1  # 20 mistakes
    b[:40] = 1  # the same 20, and 20 more
    result = evaluate.compare(a, b, labels)
    assert result.points == pytest.approx(10.0)
    assert (result.only_first, result.only_second) == (20, 0)
    assert result.clear and 5.5 < result.low < 10 < result.high < 15
    assert result.p_value == pytest.approx(2 * 0.5**20)
    level = evaluate.compare(a, a, labels)
    assert (level.points, level.low, level.high, level.p_value) == (0, 0, 0, 1)
    assert not level.clear
    with pytest.raises(ParameterError):
        evaluate.compare(a[:3], b, labels)


def test_calibration_by_hand():
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    labels = np.array([0, 1, 0, 0])
    # confidence 0.9 with accuracy 0.5, and 0.6 with accuracy 1.0
    assert calibration_error(probs, labels) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_worst_mistakes_come_first_and_their_text_is_escaped():
    logits = np.array([[3.0, 0], [1.0, 0], [0, 2.0]])
    found = Predictions(logits, np.array([1, 1, 1]))
    rows = evaluate.worst_mistakes(found)
    assert [m["row"] for m in rows] == [0, 1]
    table = evaluate.mistakes_table(found, ["<script>alert(1)</script>", "b", "c"], ["n", "p"])
    page = table._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_no_mistakes_in_few_examples_is_not_certainty():
    found = Predictions(np.eye(2)[[0, 1] * 8], np.array([0, 1] * 8))
    report = evaluate.classification_report(found, ["a", "b"])
    value, low, high = report.values["accuracy"]
    # Wilson at 16 of 16: 16 / (16 + z^2) with z = 1.96
    assert (value, high) == (1, 1) and low == pytest.approx(16 / (16 + 1.959964**2), abs=1e-6)


def test_no_examples():
    with pytest.raises(ParameterError):
        evaluate.classification_report(Predictions(np.empty((0, 2)), np.empty(0)), ["a", "b"])


def test_pictures_say_what_they_show():
    import matplotlib

    matplotlib.use("Agg")
    found = predictions()
    report = evaluate.classification_report(found, ["bad", "good", "mixed"])
    pictures = [
        evaluate.confusion_figure(report),
        evaluate.calibration_figure(found, report.calibration_error),
        evaluate.comparison_figure(["a", "b"], [(0.7, 0.65, 0.75), (0.8, 0.7, 0.9)], "b wins"),
        evaluate.training_figure([1.1, 0.9, 0.7], [{"step": 3, "loss": 0.8}], 1.1),
    ]
    for fig, alt in pictures:
        assert len(alt) > 40
        ax = fig.axes[0]
        assert ax.get_xlabel() and ax.get_title(loc="left") or ax.get_title()
