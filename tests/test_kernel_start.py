"""A kernel that dies before it answers is started again; one that never starts is told."""

from __future__ import annotations

import sys

import nbformat
import pytest
from nbclient import NotebookClient

from sftkit.course import kernel
from sftkit.errors import RunError


def client(deaths: list[int], said) -> NotebookClient:
    """A client whose kernels die at their start as often as ``deaths`` says."""
    manager = kernel.manager_class()
    argv = manager().kernel_spec.argv
    dead = [sys.executable, "-c", "raise SystemExit(1)"]

    class Dying(manager):
        async def _async_launch_kernel(self, kernel_cmd, **options):
            said.append(deaths[0])
            deaths[0] -= 1
            return await super()._async_launch_kernel(
                dead if deaths[0] >= 0 else kernel_cmd, **options
            )

        _launch_kernel = _async_launch_kernel

    assert argv[0] == sys.executable
    cells = [nbformat.v4.new_code_cell("print(6 * 7)")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    return NotebookClient(notebook, kernel_manager_class=Dying, kernel_name="python3")


def test_it_is_started_again():
    deaths, tried, made = [kernel.STARTS - 1], [], []

    def make():
        made.append(client(deaths, tried))
        return made[-1]

    executed = kernel.execute(make)
    assert len(tried) == kernel.STARTS
    assert executed.cells[0].outputs[0].text == "42\n"


def test_one_that_never_starts_is_told():
    deaths, tried = [10], []
    with pytest.raises(RunError, match=f"died {kernel.STARTS} times"):
        kernel.execute(lambda: client(deaths, tried))
    assert len(tried) == kernel.STARTS


def test_an_error_in_a_cell_is_not_tried_again():
    made = []

    def make():
        cells = [nbformat.v4.new_code_cell("import os; os._exit(1)")]
        made.append(nbformat.v4.new_notebook(cells=cells))
        return NotebookClient(made[-1], kernel_manager_class=kernel.manager_class())

    with pytest.raises(RuntimeError, match="Kernel died"):
        kernel.execute(make)
    assert len(made) == 1
