"""The check: a good notebook passes, and each fault is found by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sftkit.course import build
from sftkit.course.check import check, examine

GOOD = """\
# %% [markdown]
# # 01 Good
#
# **Does a good notebook pass?** About 3 minutes on 2 cores.

# %% tags=["parameters"]
n: int = 3  # how many
out: str = ""  # folder for results

# %%
from IPython.display import display

display({"image/png": "AAAA"}, raw=True, metadata={"image/png": {"alt": "nothing"}})

# %%
print(n)

# %% [markdown]
# ![A picture](https://example.org/a.png) and [this notebook](01_good.ipynb#summary).
#
# ## Exercises
#
# ## Summary
#
# ## Where to go next
"""


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, write_source: Callable[..., Path]
) -> tuple[str, str]:
    """Texts of a good source and of its executed notebook."""
    folder = tmp_path_factory.mktemp("good")
    source = write_source(folder / "src" / "01_good.py", GOOD)
    build.build(folder=folder, tell=lambda line: None)
    assert check(folder) == []
    return source.read_text(), (folder / "01_good.ipynb").read_text()


def problems(folder: Path, source: str, executed: str | None) -> list[str]:
    """What the check finds in a folder with these two files."""
    (folder / "src").mkdir()
    (folder / "src" / "01_good.py").write_text(source)
    if executed is not None:
        (folder / "01_good.ipynb").write_text(executed)
    return check(folder)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("# # 01 Good", "# ## 01 Good", "must be markdown that begins with '# '"),
        ("Does a good notebook pass?", "It passes.", "must ask the notebook's question"),
        ("About 3 minutes on 2 cores.", "Soon.", "must say the time"),
        ("## Summary", "## Sum", "a section 'Summary' is missing"),
        (' tags=["parameters"]', "", "a code cell tagged 'parameters' is missing"),
        ("n: int = 3", "n = 3", "parameter n has no type"),
        ("  # how many", "", "parameter n has no comment"),
        ("out: str", "outer: str", "parameter 'out' (folder for results) is missing"),
        ("n: int = 3", "n: int = 'x'", "parameter n must be of type int"),
        ("{strict", "{fast: {m: 3}, strict", "has no parameter 'm'"),
        ("![A picture]", "![]", "a picture without alt text"),
        (
            "![A picture](https://example.org/a.png)",
            '<img src="a.png">',
            "a picture without alt text",
        ),
        ("## Summary", "[next](02_x.ipynb)\n# ## Summary", "02_x.ipynb, which does not exist"),
        ("print(n)", f"print(n)  # {'x' * 80}", "a line of 92 characters, more than 88"),
        ("print(n)", "\n".join(["print(n)"] * 26), "26 lines of code, more than 25"),
        ("n: int = 3  # how many", "n: int = 3  # as in m=3", "papermill cannot read '='"),
        ("print(n)", "for n in range(3):\n    pass", "gives the parameter n another value"),
        ("print(n)", "m, n = range(2)", "gives the parameter n another value"),
        ("# %%\nprint", '# %% tags=["raises-exception"]\nprint', "tag raises-exception"),
        ("{strict", "{strikt", "unknown keys: strikt"),
    ],
)
def test_each_fault_of_a_source_is_found(
    built: tuple[str, str], tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in built[0]
    found = problems(tmp_path, built[0].replace(old, new, 1), built[1])
    assert any(expected in problem for problem in found), found
    assert all(problem.startswith("01_good: ") for problem in found)


def set_count(notebook: Any) -> None:
    notebook["cells"][2]["execution_count"] = None


def swap_counts(notebook: Any) -> None:
    notebook["cells"][2]["execution_count"], notebook["cells"][3]["execution_count"] = 3, 2


def add_error(notebook: Any) -> None:
    error = {"output_type": "error", "ename": "KeyError", "evalue": "x", "traceback": []}
    notebook["cells"][3]["outputs"] = [error]


def drop_alt(notebook: Any) -> None:
    notebook["cells"][2]["outputs"][0]["metadata"] = {}


def add_path(notebook: Any) -> None:
    notebook["cells"][3]["outputs"][0]["text"] = [f"{Path(__file__).parents[1]}/data\n"]


def change_cell(notebook: Any) -> None:
    notebook["cells"][3]["source"] = ["print(n + 1)"]


def change_package(notebook: Any) -> None:
    notebook["metadata"]["sftkit"]["hashes"]["package"] = "another"


def change_header(notebook: Any) -> None:
    notebook["metadata"]["sftkit"]["strict"] = False


def change_id(notebook: Any) -> None:
    notebook["cells"][0]["id"] = "another"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (set_count, "has not been executed"),
        (swap_counts, "not executed once each, from top to bottom"),
        (add_error, "an error in the outputs: KeyError"),
        (drop_alt, "a picture without alt text"),
        (add_path, "a path of this machine in the outputs"),
        (change_cell, "the executed notebook has other cells than its source"),
        (change_package, "the package changed since the notebook was built"),
        (change_header, "the header changed since the notebook was built"),
        (change_id, "cell ids are not those of the source"),
    ],
)
def test_each_fault_of_an_executed_notebook_is_found(
    built: tuple[str, str], tmp_path: Path, change: Callable[[Any], None], expected: str
) -> None:
    notebook = json.loads(built[1])
    change(notebook)
    found = problems(tmp_path, built[0], json.dumps(notebook))
    assert len(found) == 1 and expected in found[0], found


def test_missing_and_left_over_notebooks(built: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "02_old.ipynb").write_text(built[1])
    assert problems(tmp_path, built[0], None) == [
        "01_good: 01_good.ipynb is missing; build it: sftkit build 01_good",
        "02_old.ipynb: no source of this name in src/",
    ]
    (tmp_path / "01_good.ipynb").write_text("{")
    assert "cannot be read" in check(tmp_path)[0]
    assert "holds no notebook sources" in check(tmp_path / "nowhere")[0]


def test_a_parameter_may_be_bounded_and_used_in_functions(
    built: tuple[str, str], tmp_path: Path
) -> None:
    code = "n = min(n, 9)\nif n < 0:\n    n = 0\n\n\ndef f():\n    n = [2]\n    return n\n"
    source = built[0].replace("print(n)", f"{code}\n\nprint(n, [n for n in range(3)])")
    assert not [text for text in problems(tmp_path, source, None) if "another value" in text]


def test_a_long_cell_is_remarked(built: tuple[str, str], tmp_path: Path) -> None:
    source = built[0].replace("print(n)", "\n".join(["print(n)"] * 16))
    problems(tmp_path, source, built[1])
    assert examine(tmp_path).remarks == ["01_good: cell 4 (`print(n)`): 16 lines of code"]
