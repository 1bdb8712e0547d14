"""Temperature scaling: make a classifier's probabilities mean what they say.

Dividing all logits by one number, the temperature, changes how sure the model is and never
which class it prefers. The temperature is fitted on validation data (Guo et al. 2017, "On
Calibration of Modern Neural Networks").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

from sftkit.errors import ParameterError
from sftkit.evaluate.predict import Predictions

COLDEST, HOTTEST = 0.01, 100.0  # where there is no best temperature between, the nearer end


def negative_log_likelihood(
    logits: np.ndarray, labels: Sequence[int] | np.ndarray, temperature: float = 1.0
) -> float:
    """Mean of -log p of the true class, in nats, for ``softmax(logits / temperature)``.

    Args:
        logits: ``(N, C)``.
        labels: ``(N,)``, the true classes.
        temperature: Above 0.
    """
    if not temperature > 0:
        raise ParameterError(f"temperature={temperature}.", "It must be above 0.")
    z, y = _checked(logits, labels)
    z = z / temperature
    return float(np.mean(logsumexp(z, axis=1) - z[range(len(y)), y]))


def fit_temperature(logits: np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """The temperature with the smallest negative log-likelihood.

    In ``b = 1 / temperature`` that loss is convex: its slope is the mean of the expected logit
    less the true class's logit, and its curvature the mean variance of the logits under the
    model. So Newton's method finds the minimum; a bracket around the root of the slope keeps
    its steps inside.

    Args:
        logits: ``(N, C)``, of validation examples. Never those that are reported on.
        labels: ``(N,)``, the true classes.

    Returns:
        A temperature from 0.01 to 100. An end is returned where the loss still falls there:
        0.01 when each example is right, 100 when the logits say nothing.
    """
    z, y = _checked(logits, labels)
    z = z - z.max(axis=1, keepdims=True)
    true = z[range(len(y)), y]

    def slope_and_curvature(b: float) -> tuple[float, float]:
        p = np.exp(b * z)
        p /= p.sum(axis=1, keepdims=True)
        mean = (p * z).sum(axis=1)
        variance = (p * (z - mean[:, None]) ** 2).sum(axis=1)
        return float(np.mean(mean - true)), float(np.mean(variance))

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope_and_curvature(low)[0] >= 0:
        return HOTTEST
    if slope_and_curvature(high)[0] <= 0:
        return COLDEST
    b = 1.0
    for _ in range(200):
        slope, curvature = slope_and_curvature(b)
        low, high = (b, high) if slope < 0 else (low, b)
        new = b - slope / curvature if curvature > 0 else low
        if not low < new < high:
            new = (low * high) ** 0.5
        if abs(new - b) <= 1e-13 * b:
            break
        b = new
    return 1 / b


def calibrated(found: Predictions, temperature: float) -> Predictions:
    """The same predictions with their logits divided by the temperature."""
    if not temperature > 0:
        raise ParameterError(f"temperature={temperature}.", "It must be above 0.")
    return Predictions(found.logits.astype(np.float64) / temperature, found.labels)


def _checked(
    logits: np.ndarray, labels: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if z.ndim != 2 or y.shape != z.shape[:1] or not len(y):
        raise ParameterError(
            f"logits of shape {z.shape} and labels of shape {y.shape}.",
            "Give logits (N, C) and labels (N,), at least one example.",
        )
    if not np.isfinite(z).all():
        row = int(np.flatnonzero(~np.isfinite(z).all(axis=1))[0])
        raise ParameterError(
            f"row {row}: a logit is not finite.", "Look for what broke the model first."
        )
    if y.min() < 0 or y.max() >= z.shape[1]:
        raise ParameterError(
            f"labels from {y.min()} to {y.max()} for {z.shape[1]} classes.",
            "Labels are class numbers from 0; leave out examples without a label.",
        )
    return z, y
