"""Predictions, metrics with intervals, comparison of models, and pictures of both."""

from sftkit.evaluate.calibrate import calibrated, fit_temperature, negative_log_likelihood
from sftkit.evaluate.compare import Comparison, Difference, compare, mcnemar
from sftkit.evaluate.figures import (
    calibration_figure,
    comparison_figure,
    confusion_figure,
    training_figure,
)
from sftkit.evaluate.intervals import bootstrap, mean_interval, wilson
from sftkit.evaluate.metrics import (
    Report,
    calibration_error,
    classification_report,
    reliability,
)
from sftkit.evaluate.mistakes import mistakes_table, worst_mistakes
from sftkit.evaluate.power import examples_needed, power
from sftkit.evaluate.predict import Predictions, classify, evaluation, predict

__all__ = [
    "Comparison",
    "Difference",
    "Predictions",
    "Report",
    "bootstrap",
    "calibrated",
    "calibration_error",
    "calibration_figure",
    "classification_report",
    "classify",
    "compare",
    "comparison_figure",
    "confusion_figure",
    "evaluation",
    "examples_needed",
    "fit_temperature",
    "mcnemar",
    "mean_interval",
    "mistakes_table",
    "negative_log_likelihood",
    "power",
    "predict",
    "reliability",
    "training_figure",
    "wilson",
    "worst_mistakes",
]
