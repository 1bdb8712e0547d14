"""What can be known before training."""

from sftkit.checks.chats import ChatReport, chat_report
from sftkit.checks.data import data_report
from sftkit.checks.invariance import (
    Layout,
    first_difference,
    influence,
    label_lead,
    layouts,
    layouts_table,
    leak,
    spread,
    token_influence,
)
from sftkit.checks.report import DataReport, Doubt
from sftkit.checks.run import Finding, RunReport, check_run

__all__ = [
    "ChatReport",
    "DataReport",
    "Doubt",
    "Finding",
    "Layout",
    "RunReport",
    "chat_report",
    "check_run",
    "data_report",
    "first_difference",
    "influence",
    "label_lead",
    "layouts",
    "layouts_table",
    "leak",
    "spread",
    "token_influence",
]
