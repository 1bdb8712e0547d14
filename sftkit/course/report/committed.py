"""A sweep's results that are part of the repository, without its runs.

``benchmarks/results/NAME/runs.csv`` is what ``sftkit report --to`` writes, and the plan is
``benchmarks/plans/NAME.yaml``.
"""

from __future__ import annotations

from pathlib import Path

from sftkit.course.report.rows import Tables
from sftkit.files import project_folder


def committed_sweep(name: str, root: Path | None = None) -> Tables | None:
    """The tables of a committed sweep, as those of a store; None when it has not been run.

    Args:
        name: Of plan and results.
        root: The checkout; this one by default.
    """
    root = root or project_folder()
    table = root / "benchmarks" / "results" / name / "runs.csv" if root else None
    if root is None or table is None or not table.is_file():
        return None
    import pandas as pd

    from sftkit.course.sweep import Plan

    plan = Plan.read(root / "benchmarks" / "plans" / f"{name}.yaml")
    runs, curves = pd.read_csv(table), pd.DataFrame()
    if (points := table.with_name("curves.csv")).is_file():
        curves = pd.read_csv(points)
    manifest = {
        "name": name,
        "notebook": plan.prepared.source.name,
        "metric": plan.metric,
        "maximize": plan.maximize,
        "varied": plan.varied,
        "total": len(runs),
        "plan": plan.text,
    }
    return Tables(manifest, table.parent, runs, curves, {})
