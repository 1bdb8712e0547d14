"""Pictures of results. Each function gives ``(figure, alt text)`` for `teach.show.figure`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sftkit.evaluate.metrics import Report, reliability
from sftkit.teach.show import COLOURS, MARKERS, new_figure

if TYPE_CHECKING:
    from sftkit.evaluate.predict import Predictions


def confusion_figure(report: Report, title: str = "") -> tuple[Any, str]:
    """The confusion matrix: shares of each true class, with counts where they fit."""
    matrix, names = report.confusion, report.class_names
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = len(names)
    fig, ax = new_figure(height=min(2.2 + 0.45 * size, 9))
    ax.grid(False)
    picture = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if size <= 12:
        for i in range(size):
            for j in range(size):
                colour = "white" if shares[i, j] > 0.5 else "black"
                label = f"{100 * shares[i, j]:.0f} %\n({matrix[i, j]})"
                ax.text(j, i, label, ha="center", va="center", color=colour, fontsize=8)
    ax.set_xticks(range(size), names, rotation=0 if size <= 5 else 60, ha="center")
    ax.set_yticks(range(size), names)
    ax.set(xlabel="predicted class", ylabel="labelled class")
    off = shares - np.diag(np.diag(shares))
    i, j = np.unravel_index(off.argmax(), off.shape)
    finding = f"{100 * off[i, j]:.0f} % of “{names[i]}” is taken for “{names[j]}”"
    ax.set_title(title or finding)
    fig.colorbar(picture, label="share of the labelled class")
    diagonal = ", ".join(f"{n} {100 * shares[k, k]:.0f} %" for k, n in enumerate(names[:12]))
    return fig, f"Confusion matrix. Right: {diagonal}. Most frequent confusion: {finding}."


def calibration_figure(found: Predictions, error: float) -> tuple[Any, str]:
    """Accuracy against confidence; a calibrated model lies on the diagonal."""
    rows = reliability(found.probs, found.labels)
    confidence, accuracy, counts = zip(*rows, strict=True)
    fig, ax = new_figure(height=3.4)
    ax.plot([0, 1], [0, 1], color="grey", linestyle="--", label="calibrated")
    sizes = [20 + 180 * n / max(counts) for n in counts]
    ax.scatter(confidence, accuracy, s=sizes, color=COLOURS[0], label="model (size: examples)")
    ax.set(xlabel="confidence (probability of the predicted class)", ylabel="accuracy")
    ax.set(xlim=(min(confidence) - 0.05, 1.02), ylim=(0, 1.02))
    mean_gap = float(np.average(np.subtract(confidence, accuracy), weights=counts))
    word = "too sure of itself" if mean_gap > 0 else "less sure than it could be"
    ax.set_title(f"On average the model is {abs(100 * mean_gap):.1f} points {word}")
    ax.legend(loc="lower right")
    alt = (
        f"Reliability diagram: accuracy against confidence in {len(rows)} bins. Confidence is "
        f"{100 * mean_gap:+.1f} points from accuracy on average; calibration error "
        f"{100 * error:.1f} %."
    )
    return fig, alt


def comparison_figure(
    names: Sequence[str], values: Sequence[tuple[float, float, float]], title: str
) -> tuple[Any, str]:
    """Models side by side: value and interval of each, both in percent."""
    fig, ax = new_figure(height=1.2 + 0.45 * len(names))
    for i, (value, low, high) in enumerate(values):
        ax.errorbar(
            100 * value,
            i,
            xerr=[[100 * (value - low)], [100 * (high - value)]],
            fmt=MARKERS[i % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)],
            capsize=4,
            markersize=8,
        )
        ax.annotate(
            f"{100 * value:.1f}",
            (100 * value, i),
            (0, 9),
            textcoords="offset points",
            ha="center",
        )
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.7)
    ax.set_xlabel("accuracy on the test split, % (bar: 95 % interval)")
    ax.set_title(title)
    parts = [
        f"{name} {100 * v:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        for name, (v, low, high) in zip(names, values, strict=True)
    ]
    return fig, f"Accuracy with 95 % intervals: {'; '.join(parts)}."


def training_figure(
    losses: Sequence[float], evaluations: Sequence[dict[str, float]], start: float
) -> tuple[Any, str]:
    """Training loss by step with its running mean, and validation loss where measured.

    Args:
        start: The loss of a model that knows nothing, log C, drawn as a line.
    """
    fig, ax = new_figure(height=3.2)
    steps = np.arange(1, len(losses) + 1)
    window = max(1, len(losses) // 25)
    kernel = np.ones(window) / window
    smooth = np.convolve(losses, kernel, mode="valid")
    ax.plot(steps, losses, color=COLOURS[0], alpha=0.25, linewidth=0.8, label="each step")
    ax.plot(steps[window - 1 :], smooth, color=COLOURS[0], label=f"mean of {window} steps")
    if evaluations:
        at = [row["step"] for row in evaluations]
        ax.plot(
            at, [r["loss"] for r in evaluations], "s--", color=COLOURS[2], label="validation"
        )
    ax.axhline(start, color="grey", linestyle=":", label=f"guessing: {start:.2f}")
    top = 1.3 * max([start, *smooth, *(r["loss"] for r in evaluations)])
    ax.set(xlabel="optimizer step", ylabel="loss (nats per example)", ylim=(0, top))
    ax.set_title(f"Training loss falls from {np.mean(losses[:window]):.2f} to {smooth[-1]:.2f}")
    ax.legend(ncols=2)
    ends = "; ".join(f"step {r['step']}: {r['loss']:.2f}" for r in evaluations)
    alt = (
        f"Training loss over {len(losses)} optimizer steps, falling from about "
        f"{np.mean(losses[:window]):.2f} to {smooth[-1]:.2f} nats. Validation loss: "
        f"{ends or 'not measured'}. A dotted line marks guessing at {start:.2f}."
    )
    return fig, alt
