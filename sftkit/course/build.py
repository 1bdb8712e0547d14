"""Source to executed notebook, byte for byte the same when the outputs are."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sftkit.course import hashes, kernel, notebooks
from sftkit.course.parameters import fill, parse
from sftkit.errors import RunError
from sftkit.files import write_text

LANGUAGE = {  # of any Python 3: the exact version would differ between machines
    "name": "python",
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "pygments_lexer": "ipython3",
    "codemirror_mode": {"name": "ipython", "version": 3},
    "nbconvert_exporter": "python",
}
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_NOTE = "[interactive: run this cell in Jupyter to use it]"


def build(
    names: Iterable[str | Path] = (),
    *,
    folder: Path | None = None,
    force: bool = False,
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> list[Path]:
    """Execute notebooks with their default parameters and write them with their outputs.

    Args:
        names: Numbers, names or paths; empty for all.
        folder: The notebooks' folder; the checkout's by default.
        force: Build also what is up to date.
        tell: Receives one line per notebook.

    Returns:
        The executed notebooks.

    Raises:
        RunError: A cell failed. Notebooks before it are written; this one is left as it was.
    """
    built = []
    for source in notebooks.find_all(names, folder):
        if source.path.suffix == ".ipynb":
            raise RunError(
                f"{source.path.name} is not a source.",
                "Build takes the .py file; an .ipynb can be run with: sftkit run PATH",
            )
        if not force and up_to_date(source):
            tell(f"{source.name}: up to date")
        else:
            tell(f"{source.name}: building …")
            write_text(source.executed, build_one(source))
            tell(f"{source.name}: built")
        built.append(source.executed)
    return built


def hashes_of(notebook: Any) -> dict[str, Any]:
    """What an executed notebook stores about its origin."""
    header = notebooks.header(notebook)
    return {
        "source": hashes.source_hash(notebook),
        "package": hashes.package_hash(hashes.code_of(notebook)),
        "assets": hashes.assets_hash(header.assets),
    }


def up_to_date(source: notebooks.Source) -> bool:
    """Whether the executed notebook belongs to the source, the package and the assets."""
    import nbformat

    if not source.executed.is_file():
        return False
    try:
        old = nbformat.read(source.executed, as_version=4)
    except Exception:  # whatever is wrong with the file, building it anew is the answer
        return False
    notebook = notebooks.read(source)
    stored = dict(old.metadata.get("sftkit", {}))
    return stored.pop("hashes", None) == hashes_of(notebook) and stored == dict(
        notebook.metadata.sftkit
    )


def build_one(source: notebooks.Source) -> str:
    """The text of the executed notebook of one source.

    Raises:
        RunError: A cell failed, or the kernel died.
    """
    import nbformat

    notebook = notebooks.read(source)
    cell = notebooks.parameters_cell(notebook)
    if cell is not None:
        parse(cell.source, source.name)
    stored = hashes_of(notebook)  # before executing: the package may be edited meanwhile
    with tempfile.TemporaryDirectory(prefix="sftkit-build-") as temporary:
        execute(notebook, source.name, Path(temporary))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
            for output in cell.outputs:
                _tidy(output)
                # Such outputs differ between machines and are compared with nothing.
                if "nbval-ignore-output" in cell.metadata.get("tags", []):
                    _hide_paths(output)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": notebooks.KERNEL,
            "language_info": LANGUAGE,
            "sftkit": {**notebook.metadata.sftkit, "hashes": stored},
        }
    )
    notebooks.set_ids(notebook)
    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT) + "\n"


def execute(notebook: Any, name: str, folder: Path) -> None:
    """Run all cells in a fresh kernel that works in ``folder``; outputs go into the cells."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    kernel.quiet_loop()
    at: dict[str, Any] = {}

    def client() -> NotebookClient:
        return NotebookClient(
            notebook,
            on_cell_execute=lambda cell, cell_index: at.update(cell=cell, number=_number(at)),
            record_timing=False,
            startup_timeout=kernel.START_TIMEOUT,
            **kernel.options(folder),
        )

    try:
        kernel.execute(client)
    except DeadKernelError as error:
        raise kernel.kernel_died(name, at.get("number")) from error
    except CellExecutionError as error:
        failed = at["cell"]
        for output in reversed(failed.outputs):
            if output.output_type == "error":
                raise kernel.cell_failed(name, at["number"], failed.source, output) from None
        raise RunError(f"{name}: cell [{at['number']}] failed: {error}") from error


def _number(at: dict[str, Any]) -> int:
    return at.get("number", 0) + 1


def _is_bar(output: Any) -> bool:
    """Whether an output is a progress bar that a library drew as a widget."""
    data = output.get("data", {})
    return WIDGET in data and re.search(r"\d%\|", data.get("text/plain", "")) is not None


def _tidy(output: Any) -> None:
    """Take away what differs from one build to the next."""
    data = output.get("data", {})
    if WIDGET in data:  # a view onto state that only a running kernel has
        del data[WIDGET]
        data["text/plain"] = WIDGET_NOTE
    output.pop("transient", None)


def _hide_paths(output: Any) -> None:
    """Shorten the folders of this machine in an output's text."""
    data = output.get("data", {})
    places = [(output, "text"), *((data, kind) for kind in data if kind.startswith("text/"))]
    for place, key in places:
        for path in kernel.machine_paths() if key in place else []:
            place[key] = place[key].replace(f"{path}/", "…/")


def copies(
    target: Path, names: Iterable[str | Path] = (), folder: Path | None = None
) -> list[Path]:
    """Fast copies for tests: the ``fast`` parameters injected, nothing executed.

    A copy starts from the executed notebook where there is one, so that cells tagged
    ``nbval-check-output`` have something to be compared with.
    """
    import nbformat
    from papermill import execute_notebook

    target.mkdir(parents=True, exist_ok=True)
    made = []
    for source in notebooks.find_all(names, folder):
        notebook = notebooks.read(source)
        fast = notebooks.header(notebook, source.name).fast or {}
        cell = notebooks.parameters_cell(notebook)
        known = parse(cell.source, source.name) if cell is not None else []
        values = fill(known, fast, source.name)
        origin = notebook
        if source.executed.is_file():
            executed = nbformat.read(source.executed, as_version=4)
            if hashes.source_hash(executed) == hashes.source_hash(notebook):
                origin = executed
        path = target / f"{source.name}.ipynb"
        execute_notebook(
            origin, path, parameters={key: values[key] for key in fast}, prepare_only=True
        )
        made.append(path)
    return made
