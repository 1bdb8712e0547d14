"""What a notebook hands to its runner: the numbers that are worth keeping."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sftkit.errors import ParameterError
from sftkit.files import project_folder, read_json, write_json

METRICS_FILE = "metrics.json"


def record(out: str | Path, metrics: dict[str, Any], **more: Any) -> None:
    """Write a notebook's numbers to ``<out>/metrics.json``, whole or not at all.

    Args:
        out: The run's folder. Empty: nothing is written, one line says so.
        metrics: Nested dictionary of numbers. A number with an interval is
            ``{"value": 0.77, "low": 0.75, "high": 0.79}``.
        more: Further facts beside the metrics, such as ``rows=4000``.

    Raises:
        ParameterError: A metric is not a finite number.
    """
    content = {"metrics": _plain(metrics, "metrics"), **more}
    if not str(out):
        print("The numbers are shown only. A run keeps them: sftkit run …")
        return
    write_json(Path(out) / METRICS_FILE, content)
    print(f"The numbers are in {METRICS_FILE}.")


def _plain(value: Any, where: str) -> Any:
    """Numbers as Python's own; NumPy and torch scalars have ``item``."""
    if isinstance(value, dict):
        return {str(key): _plain(inner, f"{where}[{key!r}]") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{where}[{i}]") for i, inner in enumerate(value)]
    if not isinstance(value, int | float | str | bool | None) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(
            f"{where} is {value}, which is not a finite number.",
            "Leave the metric out, or look for the division by zero that made it.",
        )
    if not isinstance(value, int | float | str | bool | None):
        raise ParameterError(
            f"{where} is of type {type(value).__name__}, which is not a number.",
            "Metrics are numbers, or dictionaries and lists of numbers.",
        )
    return value


def flat(metrics: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Metrics as rows of a table: ``[("svm accuracy", "0.739  [0.721, 0.757]"), …]``."""
    if isinstance(metrics, dict) and "value" in metrics:
        text = _digits(metrics["value"])
        if metrics.get("low") is not None and metrics.get("high") is not None:
            text += f"  [{_digits(metrics['low'])}, {_digits(metrics['high'])}]"
        return [(prefix, text)]
    if isinstance(metrics, dict):
        return [
            row
            for key, inner in metrics.items()
            for row in flat(inner, f"{prefix} {key}".strip())
        ]
    return [(prefix, _digits(metrics))]


def _digits(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def committed_records(name: str) -> list[dict[str, Any]]:
    """The runs that were recorded for the course in ``benchmarks/records/NAME.json``.

    Returns:
        One dictionary per run, or an empty list with a printed line where the package is
        there are none.
    """
    root = project_folder()
    path = root / "benchmarks" / "records" / f"{name}.json" if root else None
    if path is None or not path.is_file():
        print(f"There are no records of {name} here.")
        return []
    return read_json(path)["runs"]
