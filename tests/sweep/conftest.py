"""A folder with the stub notebook, and plans over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sftkit.course.sweep import Plan
from tests.sweep.stubs import write_notebook


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory, write_source) -> Path:
    return write_notebook(tmp_path_factory.mktemp("notebooks"), write_source)


@pytest.fixture
def plan_of(notebooks: Path) -> Callable[..., Plan]:
    """``plan_of({"x": [1, 2]}, seeds=2)``: a plan over the stub, with the metric score."""

    def make(parameters: dict[str, Any], **more: Any) -> Plan:
        content = {"name": "p", "notebook": "5", "parameters": parameters, "metric": "score"}
        return Plan.of(content | more, notebooks)

    return make


class Said(list):
    """Collects what the sweep tells."""

    def __call__(self, line: str) -> None:
        self.append(line)


@pytest.fixture
def said() -> Said:
    return Said()
