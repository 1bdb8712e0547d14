"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

HEADER = """\
# ---
# jupyter:
#   kernelspec: {{display_name: Python 3, language: python, name: python3}}
#   sftkit: {facts}
# ---

"""


@pytest.fixture(scope="session")
def write_source() -> Callable[..., Path]:
    """A function that writes a notebook source: ``write_source(path, cells, facts)``.

    Cells are texts in the percent format, the first line being ``# %%`` with its options;
    ``facts`` is the YAML of our header.
    """

    def write(path: Path, cells: str, facts: str = "{strict: true, minutes: 1}") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEADER.format(facts=facts) + cells, encoding="utf-8")
        return path

    return write
