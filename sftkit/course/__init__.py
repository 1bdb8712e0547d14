"""The life of a notebook: build, check, run, and the page that is read afterwards."""

from __future__ import annotations

from sftkit.course.records import committed_records, record

__all__ = ["committed_records", "record"]
