"""What can be known before training."""

from sftkit.checks.data import data_report
from sftkit.checks.report import DataReport, Doubt

__all__ = ["DataReport", "Doubt", "data_report"]
