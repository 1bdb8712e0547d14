"""Copies for a class, and the list of proofs, from small notebooks made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from sftkit.cli import main
from sftkit.course import build, handouts, notebooks
from sftkit.course.check import check
from sftkit.course.proofs import collect

SOURCE = """\
# %% [markdown]
# # 01 Double

# %% tags=["exercise"]
def double(n):
    raise NotImplementedError

# %% tags=["check"] jupyter={"source_hidden": true}
from sftkit.teach.exercises import Exercise
from sftkit.teach.proofs import compare, same

wrong = [(lambda n: n, "Once."), (lambda n: n * n, "That is the square.")]
exercise = Exercise("double", lambda n: n + n, [(3,), (0,)], wrong)
exercise(double)

# %% tags=["solution"] jupyter={"source_hidden": true}
def double_solution(n):
    return 2 * n

exercise(double_solution)
compare("solution vs sum", double_solution(0.1), 0.1 + 0.1, 1e-12)
same("letters vs letters", "abc", "abc")
"""


@pytest.fixture
def folder(tmp_path: Path, write_source: Callable[..., Path]) -> Path:
    write_source(tmp_path / "src" / "01_double.py", SOURCE)
    return tmp_path


def test_students_get_no_solution_and_teachers_get_it_unfolded(folder: Path) -> None:
    (student,) = handouts.student([], folder / "student", folder)
    (teacher,) = handouts.solutions(["01"], folder / "teacher", folder)
    for path, there in ((student, False), (teacher, True)):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        solved = [c for c in notebook.cells if "double_solution" in c.source]
        assert bool(solved) == there
        assert all("jupyter" not in cell.metadata for cell in solved)
        assert all(not c.get("outputs") for c in notebook.cells)
        assert any("exercise" in handouts.tags(c) for c in notebook.cells)


def test_a_students_copy_runs_to_its_end(folder: Path) -> None:
    (path,) = handouts.student([], folder / "student", folder)
    notebook = notebooks.read(notebooks.Source(path))
    build.execute(notebook, "student", folder)
    assert "not begun" in notebook.cells[2].outputs[0]["text"]


def test_the_command_line_writes_and_lists(folder: Path, capsys) -> None:
    target = folder / "handed out"
    assert main(["student", "--to", str(target), "--folder", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(target / "01_double.ipynb")
    build.build(folder=folder, tell=lambda line: None)
    assert main(["proofs", "--folder", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "solution vs sum" in out and "0 of 3 differ" in out and "2 comparisons" in out
    assert [(p.notebook, p.tolerance) for p in collect(folder)] == [
        ("01_double", "1e-12"),
        ("01_double", "0"),
    ]


def test_the_check_finds_a_solution_that_does_not_pass(folder: Path) -> None:
    problem = "the solution does not pass its own check"
    build.build(folder=folder, tell=lambda line: None)
    assert not any(problem in line for line in check(folder))
    path = folder / "src" / "01_double.py"
    path.write_text(path.read_text().replace("return 2 * n", "return 3 * n"))
    text = path.read_text().replace("compare(", "print(")
    path.write_text(text)
    build.build(folder=folder, tell=lambda line: None)
    assert any(problem in line for line in check(folder))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"double", lambda n: n + n', '"double", double_solution', "only the solution defines"),
        (' tags=["exercise"]', "", "exercise, check, solution, in this order"),
        (' tags=["solution"]', ' tags=["check"]', "exercise, check, solution, in this order"),
    ],
)
def test_the_check_finds_what_would_spoil_a_students_copy(
    folder: Path, old: str, new: str, problem: str
) -> None:
    path = folder / "src" / "01_double.py"
    assert not any(problem in line for line in check(folder))
    path.write_text(path.read_text().replace(old, new, 1))
    assert any(problem in line for line in check(folder)), check(folder)
