"""The mistakes of a classifier, to be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sftkit.evaluate.predict import Predictions
from sftkit.teach.show import Table

SHOWN = 160  # characters of a text in the table


def worst_mistakes(found: Predictions, count: int = 10) -> list[dict[str, Any]]:
    """The wrong predictions that the model was surest of.

    Returns:
        Dictionaries of ``row``, ``truth``, ``guess`` (class numbers) and ``confidence``.
    """
    probs = found.probs
    wrong = [i for i in range(len(found.labels)) if found.classes[i] != found.labels[i]]
    wrong.sort(key=lambda i: (-probs[i].max(), i))
    return [
        {
            "row": i,
            "truth": int(found.labels[i]),
            "guess": int(found.classes[i]),
            "confidence": float(probs[i].max()),
        }
        for i in wrong[:count]
    ]


def mistakes_table(
    found: Predictions, texts: Sequence[str], class_names: Sequence[str], count: int = 10
) -> Table:
    """`worst_mistakes` with their texts; what the texts contain is escaped."""
    rows = []
    for mistake in worst_mistakes(found, count):
        text = " ".join(str(texts[mistake["row"]]).split())
        shown = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
        truth, guess = class_names[mistake["truth"]], class_names[mistake["guess"]]
        rows.append((mistake["row"], truth, guess, f"{mistake['confidence']:.2f}", shown))
    return Table(rows, ("row", "labelled", "predicted", "confidence", "text"))
