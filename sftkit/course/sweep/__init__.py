"""Many runs of a notebook from one plan, on one machine or several."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["Plan", "expand", "sweep"]

if TYPE_CHECKING:
    from sftkit.course.sweep.drive import sweep
    from sftkit.course.sweep.plan import Plan
    from sftkit.course.sweep.runs import expand

_WHERE = {"Plan": "plan", "expand": "runs", "sweep": "drive"}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"sftkit.course.sweep.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'sftkit.course.sweep' has no attribute {name!r}")
