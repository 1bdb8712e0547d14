"""What the README's generated parts share: tables, a machine in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOTHING_YET = "*No records yet.* `{}` makes them.\n"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def machine(facts: Mapping[str, Any]) -> str:
    """``"AMD EPYC (2 threads)"``."""
    name = facts.get("processor") or facts.get("device_name")
    threads = facts["threads"]
    return f"{name} ({threads} thread{'s' * (threads != 1)})"


def of_medians(ratio: Mapping[str, float]) -> str:
    """A ratio of medians, in brackets the smallest and the largest within a repetition."""
    return (
        f"{ratio['ratio_of_medians']:.2f} ({ratio['paired_ratio_min']:.2f} to "
        f"{ratio['paired_ratio_max']:.2f})"
    )
