"""Building: the same bytes twice, failures as sentences, fast copies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from sftkit.cli import INTERRUPTED
from sftkit.course import build, notebooks
from sftkit.errors import ParameterError, RunError
from sftkit.files import PACKAGE

TINY = """\
# %% [markdown]
# # 01 Tiny
#
# **How small can a notebook be?** One minute on 2 cores.

# %% tags=["parameters"]
n: int = 3  # how many
out: str = ""  # folder for results

# %%
import os, sys

print("to stdout", n)
print("to stderr", file=sys.stderr)
print("again", os.environ["TQDM_DISABLE"])

# %%
from IPython.display import display

pixel = "AAAA"
display({"image/png": pixel}, raw=True, metadata={"image/png": {"alt": "one pixel"}})

# %%
view = {"application/vnd.jupyter.widget-view+json": {"model_id": str(id(n))}}
display(view | {"text/plain": f"widget {os.getpid()}"}, raw=True)
display(view | {"text/plain": "Map:   0%|          | 0/3"}, raw=True)

# %%
n

# %%
n

# %%
from pathlib import Path

(Path.cwd() / "left-behind.txt").write_text("x");

# %% tags=["nbval-ignore-output"]
print(sys.prefix + "/bin", {sys.prefix + "/lib"})

# %% tags=["where"]
sys.executable if n == 4 else ""
"""
FAILING = """\
# %%
x = 1

# %%
# why
y = [1, 2]
print("before")
y[x + 5]
"""


def quiet(line: str) -> None:
    """No lines on stderr."""


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory, write_source: Callable[..., Path]) -> Path:
    """A folder with one notebook, built."""
    folder = tmp_path_factory.mktemp("course")
    facts = "{strict: true, minutes: 1, fast: {n: 4}}"
    write_source(folder / "src" / "01_tiny.py", TINY, facts)
    build.build(["1"], folder=folder, tell=quiet)
    return folder


def test_two_builds_give_the_same_bytes(course: Path) -> None:
    path = course / "01_tiny.ipynb"
    before = path.read_bytes()
    build.build(["tiny"], folder=course, force=True, tell=quiet)
    assert path.read_bytes() == before


def test_outputs_are_kept_and_what_varies_is_not(course: Path) -> None:
    notebook = nbformat.read(course / "01_tiny.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    streams = {output.name: output.text for output in code[1].outputs}
    assert streams == {"stdout": "to stdout 3\nagain 1\n", "stderr": "to stderr\n"}
    assert code[2].outputs[0].metadata["image/png"]["alt"] == "one pixel"
    assert [o.data for o in code[3].outputs] == [{"text/plain": build.WIDGET_NOTE}]
    assert code[-2].outputs[0].text == "…/bin {'…/lib'}\n"
    assert notebook.metadata.language_info == build.LANGUAGE
    assert set(notebook.metadata) == {"kernelspec", "language_info", "sftkit"}
    assert notebook.metadata.sftkit.hashes.source == build.hashes_of(notebook)["source"]
    assert not list(course.rglob("left-behind.txt"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for one process alone")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_says_so_in_a_sentence(tmp_path, write_source, how) -> None:
    begun = tmp_path / "begun"
    cell = f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(60)"
    source = write_source(tmp_path / "src" / "01_slow.py", f"# %%\n{cell}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "sftkit", "build", str(source)],
        cwd=PACKAGE.parent,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts jobs in the background lets them ignore the first signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        end = time.monotonic() + 60
        while not begun.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(how)
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert process.returncode == INTERRUPTED and "Traceback" not in said
    assert "the one under way is as it was" in said
    assert not source.with_suffix(".ipynb").exists()


def test_cell_ids_depend_on_text_and_occurrence(course: Path) -> None:
    source = notebooks.find("01", course)
    first, second = notebooks.read(source), notebooks.read(source)
    ids = [cell.id for cell in first.cells]
    assert ids == [cell.id for cell in second.cells]
    assert len(set(ids)) == len(ids)  # also of the two cells with the text "n"
    executed = nbformat.read(source.executed, as_version=4)
    assert [cell.id for cell in executed.cells] == ids


def test_what_is_up_to_date_is_not_built_again(
    course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    build.build(folder=course, tell=said.append)
    assert said == ["01_tiny: up to date"]
    source = notebooks.find("1", course)
    monkeypatch.setattr(build.hashes, "package_hash", lambda code: "another")
    assert not build.up_to_date(source)


def test_a_foreign_kernel_of_the_same_name_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_source: Callable[..., Path]
) -> None:
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    foreign = {"argv": ["/nowhere/python"], "display_name": "other", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(foreign))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    write_source(tmp_path / "01_here.py", "# %%\nimport sys\nprint(sys.executable)\n")
    (path,) = build.build([tmp_path / "01_here.py"], tell=quiet)
    assert nbformat.read(path, as_version=4).cells[0].outputs[0].text == f"{sys.executable}\n"


def test_a_failing_cell_is_named_and_the_old_notebook_stays(
    tmp_path: Path, write_source: Callable[..., Path]
) -> None:
    path = write_source(tmp_path / "src" / "02_bad.py", FAILING)
    (tmp_path / "02_bad.ipynb").write_text("the old one")
    with pytest.raises(RunError) as caught:
        build.build(["02"], folder=tmp_path, tell=quiet)
    assert caught.value.what == (
        "02_bad: cell [2], which begins with `y = [1, 2]`, failed at its line 4: `y[x + 5]`.\n"
        "  IndexError: list index out of range"
    )
    assert (tmp_path / "02_bad.ipynb").read_text() == "the old one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["02_bad.ipynb", "src"]
    assert path.exists()


def test_names_that_find_nothing(course: Path) -> None:
    assert notebooks.find("01_tiny", course).number == 1
    with pytest.raises(ParameterError, match="Did you mean 01_tiny"):
        notebooks.find("tinny", course)
    with pytest.raises(ParameterError, match="There is no notebook 33"):
        notebooks.find("33", course)
    with pytest.raises(ParameterError, match="no file"):
        notebooks.find("nowhere.py", course)


@pytest.mark.parametrize("facts", ["{stict: true}", "{strict: 3}", "{fast: [1]}"])
def test_a_wrong_header_is_refused(
    facts: str, tmp_path: Path, write_source: Callable[..., Path]
) -> None:
    path = write_source(tmp_path / "x.py", "# %%\n1\n", facts)
    with pytest.raises(RunError, match="header"):
        notebooks.read(notebooks.Source(path))


def test_fast_copies_hold_the_parameters_and_are_not_executed(
    course: Path, tmp_path: Path
) -> None:
    (path,) = build.copies(tmp_path, folder=course)
    notebook = nbformat.read(path, as_version=4)
    tagged = {t: cell.source for cell in notebook.cells for t in cell.metadata.get("tags", [])}
    assert tagged["injected-parameters"] == "# Parameters\nn = 4\n"
    outputs = {cell.source: cell.outputs for cell in notebook.cells if "outputs" in cell}
    assert outputs['sys.executable if n == 4 else ""'][0].data["text/plain"] == "''"


def test_fast_parameters_must_exist(tmp_path: Path, write_source: Callable[..., Path]) -> None:
    cells = '# %% tags=["parameters"]\nn: int = 3  # how many\n'
    write_source(tmp_path / "src" / "01_x.py", cells, "{fast: {m: 1}}")
    with pytest.raises(ParameterError, match="no parameter 'm'"):
        build.copies(tmp_path / "copies", folder=tmp_path)
