"""The table of detectors names every trap once, and only tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import tests.traps

TESTS = Path(__file__).resolve().parents[1]


def rows() -> list[list[str]]:
    lines = [line for line in (tests.traps.__doc__ or "").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_trap_has_one_row():
    assert [int(row[0]) for row in rows()] == list(range(1, 25))


def test_the_named_tests_exist_and_what_is_missing_says_what_it_waits_for():
    for number, _, detector, broken in rows():
        if detector.startswith("comes with "):
            assert not broken, f"trap {number}: a broken variant without a detector"
            continue
        for name in filter(None, (detector, broken)):
            path, function = name.split("::")
            assert function in functions(TESTS / path), f"trap {number}: no {name}"


def test_every_trap_test_is_in_the_table():
    named = {cell for row in rows() for cell in row[2:] if cell}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for function in functions(path):
            if re.fullmatch(r"test_trap_\d+", function):
                assert f"traps/{path.name}::{function}" in named
