"""What can be known before training."""

from sftkit.checks.data import data_report
from sftkit.checks.report import DataReport, Doubt
from sftkit.checks.run import Finding, RunReport, check_run

__all__ = [
    "DataReport",
    "Doubt",
    "Finding",
    "RunReport",
    "check_run",
    "data_report",
]
