"""Copies of notebooks for a class: without solutions for students, with them for teachers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sftkit.course import notebooks
from sftkit.files import write_text

EXERCISE, CHECK, SOLUTION = "exercise", "check", "solution"  # tags of cells


def student(names: Iterable[str | Path], to: Path, folder: Path | None = None) -> list[Path]:
    """Write notebooks without outputs and without the solution cells.

    Args:
        names: Numbers, names or paths; empty for all.
        to: The folder to write to; it is made when missing.
        folder: The notebooks' folder; the checkout's by default.

    Returns:
        The files written.
    """
    return _write(names, to, folder, with_solutions=False)


def solutions(names: Iterable[str | Path], to: Path, folder: Path | None = None) -> list[Path]:
    """Write notebooks without outputs, with the solutions unfolded. As `student`."""
    return _write(names, to, folder, with_solutions=True)


def _write(
    names: Iterable[str | Path], to: Path, folder: Path | None, with_solutions: bool
) -> list[Path]:
    import nbformat

    written = []
    for source in notebooks.find_all(names, folder):
        notebook = notebooks.read(source)
        if with_solutions:
            for cell in notebook.cells:
                if SOLUTION in tags(cell):
                    cell.metadata.pop("jupyter", None)
        else:
            notebook.cells = [cell for cell in notebook.cells if SOLUTION not in tags(cell)]
        path = to / f"{source.name}.ipynb"
        write_text(path, nbformat.writes(notebook, version=nbformat.NO_CONVERT) + "\n")
        written.append(path)
    return written


def tags(cell: Any) -> list[str]:
    """The tags of a cell."""
    return list(cell.metadata.get("tags", []))
