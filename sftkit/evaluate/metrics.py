"""Metrics of a classifier with 95 % bootstrap intervals.

Accuracy, precision, recall and F1 all follow from the confusion matrix. Drawing N examples
with replacement is the same as drawing a confusion matrix from a multinomial distribution
with the observed shares, so thousands of replicates cost milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics as sk

from sftkit.errors import ParameterError
from sftkit.evaluate.intervals import REPLICATES, wilson
from sftkit.evaluate.predict import Predictions
from sftkit.teach.show import Table

NAMES = ("accuracy", "macro F1", "weighted F1", "micro F1", "macro precision", "macro recall")


@dataclass(frozen=True)
class Report:
    """The metrics of one model on one set of examples.

    Attributes:
        values: Metric to ``(value, low, high)``, the ends of the 95 % interval.
        per_class: Rows of name, precision, recall, F1, and number of true examples.
        confusion: ``(C, C)``, true classes down, predicted classes across.
        calibration_error: Mean distance of confidence from accuracy, 0 to 1.
    """

    values: dict[str, tuple[float, float, float]]
    per_class: list[tuple[str, float, float, float, int]]
    confusion: np.ndarray
    class_names: list[str]
    calibration_error: float

    def table(self, caption: str = "") -> Table:
        """Metrics with their intervals, in percent."""
        rows: list[tuple[Any, ...]] = [
            (n, 100 * v, 100 * low, 100 * high) for n, (v, low, high) in self.values.items()
        ]
        rows.append(("calibration error", 100 * self.calibration_error, "", ""))
        return Table(rows, ("metric", "%", "95 % from", "to"), caption, digits=1)

    def class_table(self, caption: str = "") -> Table:
        """Precision, recall and F1 of each class, in percent."""
        rows = [(n, 100 * p, 100 * r, 100 * f, c) for n, p, r, f, c in self.per_class]
        return Table(
            rows, ("class", "precision", "recall", "F1", "examples"), caption, digits=1
        )

    def as_metrics(self, calibration: bool = True) -> dict[str, Any]:
        """For a run's record: value and interval of each metric.

        Args:
            calibration: False for models whose scores are not probabilities.
        """
        metrics: dict[str, Any] = {
            name.replace(" ", "_").lower(): {"value": value, "low": low, "high": high}
            for name, (value, low, high) in self.values.items()
        }
        return metrics | ({"calibration_error": self.calibration_error} if calibration else {})


def classification_report(
    found: Predictions, class_names: Sequence[str], *, seed: int = 0
) -> Report:
    """Metrics of predictions, with intervals by the percentile bootstrap.

    When every example is right, or every one wrong, all metrics get Wilson's interval (1927).
    Values come from scikit-learn. A class that is never predicted has precision 0.

    Raises:
        ParameterError: When there is nothing to evaluate.
    """
    if len(found.labels) == 0:
        raise ParameterError("there are no examples to evaluate.", "Give at least one.")
    truth, guess = found.labels, found.classes
    ids = list(range(len(class_names)))
    confusion = sk.confusion_matrix(truth, guess, labels=ids)
    values = {"accuracy": float(sk.accuracy_score(truth, guess))}
    for average in ("macro", "weighted", "micro"):
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            truth, guess, labels=ids, average=average, zero_division=0
        )
        values[f"{average} F1"] = float(f1)
        if average == "macro":
            values |= {"macro precision": float(precision), "macro recall": float(recall)}
    replicates = from_confusion(_resample(confusion, seed))
    intervals = {
        name: (values[name], *np.quantile(replicates[name], [0.025, 0.975]).tolist())
        for name in NAMES
    }
    if values["accuracy"] in (0.0, 1.0):
        # Nothing varies between replicates, so the bootstrap gives an interval of no width,
        # however few examples there are. Wilson's interval for a share does not.
        low, high = wilson(int(values["accuracy"] * len(truth)), len(truth))
        intervals = {name: (values[name], low, high) for name in NAMES}
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        truth, guess, labels=ids, zero_division=0
    )
    per_class = [
        (name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, name in enumerate(class_names)
    ]
    error = calibration_error(found.probs, truth)
    return Report(intervals, per_class, confusion, list(class_names), error)


def _resample(confusion: np.ndarray, seed: int) -> np.ndarray:
    """Bootstrap replicates of a confusion matrix, ``(REPLICATES, C, C)``."""
    total = int(confusion.sum())
    shares = confusion.ravel() / total
    drawn = np.random.default_rng(seed).multinomial(total, shares, size=REPLICATES)
    return drawn.reshape(REPLICATES, *confusion.shape)


def from_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """All metrics from confusion matrices of shape ``(..., C, C)``.

    Macro averages run over all C classes; precision, recall and F1 of a class that is
    neither true nor predicted are 0, as in scikit-learn with ``zero_division=0``.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    true, guessed = confusion.sum(axis=-1), confusion.sum(axis=-2)
    total = confusion.sum(axis=(-2, -1)).astype(float)

    def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.divide(a, b, out=np.zeros_like(a), where=b > 0)

    precision, recall = divide(right, guessed), divide(right, true)
    f1 = divide(2 * right, (true + guessed).astype(float))
    accuracy = right.sum(axis=-1) / total
    return {
        "accuracy": accuracy,
        "macro F1": f1.mean(axis=-1),
        "weighted F1": (f1 * true).sum(axis=-1) / total,
        "micro F1": accuracy,  # the same thing when each example has one class
        "macro precision": precision.mean(axis=-1),
        "macro recall": recall.mean(axis=-1),
    }


def reliability(
    probs: np.ndarray, labels: np.ndarray, bins: int = 10
) -> list[tuple[float, float, int]]:
    """Mean confidence, accuracy and number of examples, by confidence in equal bins."""
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        (float(confidence[index == b].mean()), float(right[index == b].mean()), int(n))
        for b in range(bins)
        if (n := (index == b).sum())
    ]


def calibration_error(probs: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015): mean |confidence - accuracy|."""
    rows = reliability(probs, labels, bins)
    return sum(n * abs(c - a) for c, a, n in rows) / max(len(labels), 1)
