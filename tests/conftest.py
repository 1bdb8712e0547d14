"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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


@pytest.fixture
def small_sweep(tmp_path: Path) -> Path:
    """A checkout that carries a sweep: two settings with three seeds, and a failed run."""
    results = tmp_path / "benchmarks" / "results" / "what_to_train"
    plans = tmp_path / "benchmarks" / "plans"
    results.mkdir(parents=True)
    plans.mkdir()
    text = (ROOT / "benchmarks" / "plans" / "what_to_train.yaml").read_text()
    (plans / "what_to_train.yaml").write_text(text)
    head = "run,configuration,state,train,lr,epochs,seed,evaluations.accuracy,seconds,memory_gb"
    rows = [f"a{s},0,done,all,1e-3,2,{s},0.6{s},9,1,0.5{s + 7}" for s in range(3)]
    rows += [f"b{s},1,done,head,1e-4,2,{s},0.5{s},4,1,0.5" for s in range(3)]
    rows += ["c,2,failed,all,1e-4,2,0,,4,1,"]
    (results / "runs.csv").write_text("\n".join([head + ",tuned.accuracy", *rows]))
    return tmp_path
