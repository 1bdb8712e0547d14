"""Predictions, metrics with intervals, comparison of models, and pictures of both."""

from sftkit.evaluate.compare import Comparison, compare
from sftkit.evaluate.figures import (
    calibration_figure,
    comparison_figure,
    confusion_figure,
    training_figure,
)
from sftkit.evaluate.metrics import Report, classification_report
from sftkit.evaluate.mistakes import mistakes_table, worst_mistakes
from sftkit.evaluate.predict import Predictions, classify, evaluation, predict

__all__ = [
    "Comparison",
    "Predictions",
    "Report",
    "calibration_figure",
    "classification_report",
    "classify",
    "compare",
    "comparison_figure",
    "confusion_figure",
    "evaluation",
    "mistakes_table",
    "predict",
    "training_figure",
    "worst_mistakes",
]
