"""A teaching and research kit for supervised fine-tuning in Jupyter.

Rooms are loaded when they are first used, so that ``import sftkit`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "assets",
    "batches",
    "check_run",
    "checkpoints",
    "checks",
    "corpora",
    "course",
    "data_report",
    "encode",
    "evaluate",
    "losses",
    "models",
    "optim",
    "teach",
]
INSIDE = {"check_run": "checks", "data_report": "checks"}  # where a name of a room is from

if TYPE_CHECKING:
    from sftkit import (
        assets,
        batches,
        checkpoints,
        checks,
        corpora,
        course,
        encode,
        evaluate,
        losses,
        models,
        optim,
        teach,
    )
    from sftkit.checks import check_run, data_report


def __getattr__(name: str) -> Any:
    if name in INSIDE:
        return getattr(importlib.import_module(f"sftkit.{INSIDE[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"sftkit.{name}")
    raise AttributeError(f"module 'sftkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
