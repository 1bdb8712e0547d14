"""Starting kernels in this very interpreter, and saying in a sentence why a cell failed."""

from __future__ import annotations

import atexit
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sftkit.errors import RunError
from sftkit.files import PACKAGE, project_folder

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# Kernels print their results at the end of a cell; a busy machine may need longer than
# nbclient's four seconds to hand them over.
OUTPUT_TIMEOUT = 120
START_TIMEOUT = 120
STARTS = 3  # attempts: kernels that start at the same moment may choose the same port


def environment(progress_file: Path | None = None) -> dict[str, str]:
    """Environment of a kernel: repeatable outputs, and this package in reach."""
    chosen = {
        "TQDM_DISABLE": "1",  # the text of a bar holds times
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",  # which does not look at the one above
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0"),
        "SFTKIT_PROVE_EXERCISES": "1",  # planted mistakes must fail (teach/exercises.py)
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a warning of the debugger on stderr
    }
    if progress_file is not None:
        chosen["SFTKIT_PROGRESS"] = str(progress_file)
    if project_folder() is not None:  # kernels start in another folder than the checkout
        known = os.environ.get("PYTHONPATH")
        chosen["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE.parent), known]))
    return chosen


def manager_class(progress_file: Path | None = None) -> type:
    """A kernel manager that starts this interpreter, whatever kernels are installed."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        + ["--log-level=CRITICAL"],  # of the kernel program, not of the code in it
        display_name="Python 3",
        language="python",
        env=environment(progress_file),
    )

    class ThisInterpreter(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return spec

    return ThisInterpreter


def machine_paths() -> list[str]:
    """Folders of this machine that no committed output should name, longest first."""
    folders = [Path.home(), Path(sys.prefix), Path(tempfile.gettempdir())]
    if root := project_folder():
        folders.append(root)
    names = {str(folder) for folder in folders if str(folder) != folder.anchor}
    return sorted(names, key=len, reverse=True)


def options(folder: Path, progress_file: Path | None = None) -> dict[str, Any]:
    """Options that nbclient and papermill share."""
    return {
        "kernel_manager_class": manager_class(progress_file),
        "kernel_name": "python3",
        "resources": {"metadata": {"path": str(folder)}},
        "iopub_timeout": OUTPUT_TIMEOUT,
        "timeout": None,
        "store_widget_state": False,
        "coalesce_streams": True,
    }


def execute(make_client: Callable[[], Any]) -> Any:
    """Execute a notebook; a kernel that dies before it answers is started again.

    No cell has run then, so nothing is done twice.

    Args:
        make_client: Gives a fresh nbclient client for the notebook.

    Raises:
        RunError: No kernel could be started.
        KeyboardInterrupt: Someone interrupted or ended this process.
    """
    for _ in range(STARTS):
        client = make_client()
        try:
            return client.execute()
        except Exception as problem:
            if getattr(client, "_async_cleanup_kernel_future", None) is not None:
                # nbclient took the signal, stopped the kernel, and stumbled over that.
                raise KeyboardInterrupt from None
            if not _never_answered(problem):
                raise
            # nbclient would want to stop the kernel that is no more when Python ends.
            atexit.unregister(client._cleanup_kernel)
    raise RunError(
        f"The kernel died {STARTS} times before it answered.",
        "Run 'sftkit doctor': it says whether a kernel can be started here.",
    )


def _never_answered(problem: BaseException | None) -> bool:
    """Whether a kernel's start is what failed; nbclient raises something else on top."""
    while problem is not None:
        if isinstance(problem, RuntimeError) and "before replying" in str(problem):
            return True
        problem = problem.__context__
    return False


class CellFailed(RunError):
    """A cell raised, or the kernel died in it."""

    cell: int | None = None  # what Jupyter shows in brackets beside it
    ename: str = ""  # class of the error; empty when the kernel died


def quiet_loop() -> None:
    """Use the event loop that the messaging library knows, on Windows."""
    if sys.platform == "win32":
        import asyncio

        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())


def cell_failed(
    name: str, number: int | None, source: str, error: Any, fix: str = ""
) -> CellFailed:
    """The sentence for a cell that raised.

    Args:
        name: The notebook.
        number: What Jupyter shows in brackets beside the cell.
        source: The cell's text.
        error: The cell's error output: ``ename``, ``evalue``, ``traceback``.
        fix: What to do.
    """
    line = _line_number("\n".join(error.get("traceback", [])), number)
    lines = source.splitlines()
    code = [text for text in lines if text.strip() and not text.lstrip().startswith("#")]
    first = code[0].strip() if code else ""
    where = f"{name}: cell [{number}], which begins with `{_short(first)}`, failed"
    if line and 0 < line <= len(lines):
        where += f" at its line {line}: `{_short(lines[line - 1].strip())}`"
    message = ANSI.sub("", str(error.get("evalue", ""))).strip()
    ename = str(error.get("ename", "Error"))
    failed = CellFailed(f"{where}.\n  {ename}: {_short(message, 2000)}", fix)
    failed.cell, failed.ename = number, ename
    return failed


def kernel_died(name: str, number: int | None, fix: str = "") -> CellFailed:
    """The sentence for a kernel that was killed."""
    where = f" in cell [{number}]" if number else ""
    died = CellFailed(
        f"{name}: the kernel died{where}, without an error of its own.",
        fix or "Most often memory ran out: try smaller limits or a smaller batch.",
    )
    died.cell = number
    return died


def _line_number(traceback: str, number: int | None) -> int | None:
    """The line of the cell in IPython's traceback; the last mention is the deepest."""
    found = re.findall(rf"Cell In\[{number}\], line (\d+)", ANSI.sub("", traceback))
    return int(found[0]) if found else None


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
