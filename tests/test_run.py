"""Runs: done once, never half, resumable, and refused in a sentence."""

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
import psutil
import pytest

from sftkit.course import hashes
from sftkit.course.parameters import convert, fill, parse
from sftkit.course.records import flat, record
from sftkit.course.run import finished, plan, run
from sftkit.errors import ParameterError, RunError

CELLS = """\
# %% [markdown]
# # A run
#
# **What is $x^2$?**

# %% tags=["parameters"]
n: int = 3  # how many
rate: float = 2e-5  # learning rate
data: str = "tweets"  # file
seeds: list[int] = [0, 1]  # random seeds
mode: str = "ok"  # ok, fail, die or wait
out: str = ""  # folder for results
resume: bool = False  # go on from the last checkpoint

# %%
import os, time
from pathlib import Path

from sftkit.course import record

checkpoints = Path(out or ".") / "checkpoints"
checkpoints.mkdir(exist_ok=True)
step = int((checkpoints / "step").read_text()) if resume else 0
print("starts at", step)

# %%
# train
while step < 6:
    step += 1
    (checkpoints / "step").write_text(str(step))
    if mode == "die" and step == 4:
        os.kill(os.getpid(), 9)
    if mode == "wait" and step == 4:
        (checkpoints / "pid").write_text(str(os.getpid()))
        time.sleep(60)
    if mode == "fail":
        raise ValueError("no good")

# %%
rows = len(Path(data).read_text().splitlines()) if Path(data).is_file() else 0
record(out, {"rows": rows, "f1": {"value": n / 10, "low": 0.1, "high": 0.5}}, step=step)
"""


class Said(list):
    """Collects what the runner tells."""

    def __call__(self, line: str) -> None:
        self.append(line)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, write_source: Callable[..., Path]) -> Path:
    """A folder with a notebook, an input file, and one finished run."""
    folder = tmp_path_factory.mktemp("place")
    write_source(folder / "src" / "05_run.py", CELLS, "{minutes: 1}")
    (folder / "rows.csv").write_text("a\nb\n")
    given = {"n": "4", "data": str(folder / "rows.csv")}
    result = run("5", given, store=folder / "runs", folder=folder, tell=Said())
    assert result.fresh
    return folder


def test_the_result_says_what_went_in_and_came_out(place: Path) -> None:
    (path,) = (place / "runs").glob("05_run/*/result.json")
    data = json.loads(path.read_text())
    assert path.parent.name == data["hash"][:12]
    assert (data["notebook"], data["status"], data["step"]) == ("05_run", "done", 6)
    assert data["metrics"] == {"rows": 2, "f1": {"value": 0.4, "low": 0.1, "high": 0.5}}
    digest = hashes.of_path(place / "rows.csv")
    assert data["parameters"] == {
        "n": 4,
        "rate": 2e-5,
        "data": {"name": "rows.csv", "sha256": digest},
        "seeds": [0, 1],
        "mode": "ok",
    }
    assert set(data["hashes"]) == {"notebook", "parameters", "assets", "package"}
    assert data["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert [cell["cell"] for cell in data["timings"]["cells"]] == [1, 2, 3, 4, 5]
    assert data["resumed"] is False and "facts_error" not in data
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "checkpoints",
        "metrics.json",
        "notebook.html",
        "notebook.ipynb",
        "result.json",
    ]
    assert "<math" in (path.parent / "notebook.html").read_text()


def test_an_unchanged_run_is_not_repeated(place: Path, tmp_path: Path) -> None:
    moved = tmp_path / "rows.csv"
    moved.write_bytes((place / "rows.csv").read_bytes())
    for data in (place / "rows.csv", moved):
        said = Said()
        given = {"n": 4, "data": str(data), "rate": 2e-5}
        result = run("5", given, store=place / "runs", folder=place, tell=said)
        assert not result.fresh and result.metrics["rows"] == 2
        assert said == ["05_run: this run is done already; --force repeats it"]


def test_what_goes_in_changes_the_hash(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_source
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("a\nb\n")
    first = plan("5", {"data": "rows.csv"}, place)
    assert first.parameters["data"] == str(tmp_path / "rows.csv")  # absolute for the kernel
    assert plan("5", {"data": "./rows.csv"}, place).hash == first.hash
    Path("rows.csv").write_text("a\nb\nc\n")
    changed = plan("5", {"data": "rows.csv"}, place)
    assert changed.hash != first.hash
    assert plan("5", {"data": "rows.csv", "n": 4}, place).hash != changed.hash
    Path("deep/er").mkdir(parents=True)
    Path("deep/er/x").write_text("1")
    folder = plan("5", {"data": "deep/er"}, place)
    Path("deep/er/x").write_text("2")
    assert plan("5", {"data": "deep/er"}, place).hash != folder.hash
    other = write_source(tmp_path / "05_run.py", CELLS.replace("# train", "# learn"))
    assert plan(other, {"data": "rows.csv"}).hash != changed.hash
    monkeypatch.setattr(hashes, "package_hash", lambda code: "another")
    assert plan("5", {"data": "rows.csv"}, place).hash != changed.hash


def test_a_folder_does_not_change_the_meaning_of_a_word(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = plan("5", {}, place)
    Path("tweets").mkdir()
    assert plan("5", {}, place).hash == before.hash
    assert plan("5", {"data": "tweets"}, place).parameters["data"] == "tweets"
    Path("mine").mkdir()
    assert plan("5", {"data": "mine"}, place).parameters["data"] == str(tmp_path / "mine")


def test_a_named_asset_is_part_of_the_hash(place: Path) -> None:
    from sftkit import assets

    parts = plan("5", {"data": "tweets"}, place).parts
    assert parts["assets"] == {"tweets": assets.find("tweets").recipe}


def test_the_package_hash_sees_content_and_not_line_ends(tmp_path: Path) -> None:
    for name in ("losses.py", "course/run.py", "cli.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\ny = 2\n")
    first = hashes.package_hash(package=tmp_path)
    (tmp_path / "losses.py").write_bytes(b"x = 1\r\ny = 2\r\n")
    assert hashes.package_hash(package=tmp_path) == first
    for name in ("course/run.py", "cli.py"):
        (tmp_path / name).write_text("x = 5\n")
    assert hashes.package_hash(package=tmp_path) == first
    for name in ("unknown.toml", "cli.toml"):
        (tmp_path / name).write_text("z = 1\n")
    assert hashes.package_hash(package=tmp_path) == first
    (tmp_path / "losses.toml").write_text("z = 1\n")
    with_data = hashes.package_hash(package=tmp_path)
    (tmp_path / "losses.toml").write_text("z = 2\n")
    changed = hashes.package_hash(package=tmp_path)
    (tmp_path / "losses.toml").unlink()
    (tmp_path / "losses.py").write_text("x = 1\ny = 3\n")
    assert len({first, with_data, changed, hashes.package_hash(package=tmp_path)}) == 4


@pytest.mark.parametrize(
    ("code", "depends_on"),
    [
        ("from kit.losses import mean", "losses.py batches.py"),
        ("def late():\n    import kit.batches", "batches.py"),
        (
            "from kit import evaluate",
            "evaluate/__init__.py evaluate/metrics.py losses.py batches.py",
        ),
        (
            "from kit.evaluate.metrics import f1",
            "evaluate/__init__.py evaluate/metrics.py losses.py batches.py",
        ),
        ("from kit import data_report", "checks/__init__.py"),  # a name of a room
        ("from kit import something", "all"),  # made up by the package when asked for
        ("import kit", "all"),
        ("%matplotlib inline", "all"),
        ("import math", ""),
    ],
)
def test_a_notebook_depends_on_what_it_imports(
    tmp_path: Path, code: str, depends_on: str
) -> None:
    kit = tmp_path / "kit"
    files = {
        "__init__.py": "",
        "batches.py": "",
        "checks/__init__.py": "",
        "losses.py": "def mean():\n    from kit.batches import IGNORE",
        "evaluate/__init__.py": "from kit.evaluate.metrics import f1",
        "evaluate/metrics.py": "import kit.losses",
        "unused.py": "",
    }
    for name, text in files.items():
        (kit / name).parent.mkdir(parents=True, exist_ok=True)
        (kit / name).write_text(text)
    first, changing = hashes.package_hash([code], kit), set()
    for name, text in files.items():
        (kit / name).write_text(text + "\n# changed")
        if hashes.package_hash([code], kit) != first:
            changing.add(name)
        (kit / name).write_text(text)
    every = set(files) - {"__init__.py"}
    assert changing == (every if depends_on == "all" else set(depends_on.split()))


def test_a_failed_run_says_why_and_keeps_its_notebook(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        run("5", {"mode": "fail"}, store=tmp_path, folder=place, tell=Said())
    assert caught.value.what == (
        "05_run: cell [4], which begins with `while step < 6:`, failed at its line 11: "
        '`raise ValueError("no good")`.\n  ValueError: no good'
    )
    (folder,) = (tmp_path / "05_run").glob("[!.]*")
    assert caught.value.fix.endswith(str(folder / "notebook.ipynb"))
    assert not (folder / "result.json").exists()
    assert "no good" in json.loads((folder / "failure.json").read_text())["error"]
    partial = nbformat.read(folder / "notebook.ipynb", as_version=4)
    assert any("starts at 0" in str(cell.get("outputs")) for cell in partial.cells)


def test_a_killed_kernel_and_a_resumed_run(place: Path, tmp_path: Path) -> None:
    options = {"store": tmp_path, "folder": place}
    with pytest.raises(RunError, match=r"05_run: the kernel died in cell \[4\]"):
        run("5", {"mode": "die"}, **options, tell=Said())
    (folder,) = (tmp_path / "05_run").glob("[!.]*")
    assert not (folder / "result.json").exists()
    result = run("5", {"mode": "die"}, **options, resume=True, tell=Said())
    assert result.data["resumed"] is True and result.data["step"] == 6
    executed = nbformat.read(folder / "notebook.ipynb", as_version=4)
    assert any("starts at 4" in str(cell.get("outputs")) for cell in executed.cells)
    assert not (folder / "failure.json").exists()
    planned = plan("5", {"mode": "die"}, place)
    assert finished(planned, folder)
    (folder / "notebook.html").unlink()  # a damaged result is no result
    assert finished(planned, folder) is None


def test_checkpoints_of_an_interrupted_run_are_not_lost(place: Path, tmp_path: Path) -> None:
    folder = plan("5", {"mode": "fail"}, place).folder(tmp_path)
    kept = folder.with_name(f"{folder.name}.before")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "step").write_text("5")
    said = Said()
    with pytest.raises(RunError):
        run("5", {"mode": "fail"}, store=tmp_path, folder=place, tell=said)
    assert len(said) == 1 and "starts afresh" in said[0] and "--resume" in said[0]
    assert (folder / "checkpoints" / "step").read_text() == "1"
    assert (kept / "checkpoints" / "step").read_text() == "5"
    done = plan("5", {}, place).folder(tmp_path)
    (done / "checkpoints").mkdir(parents=True)
    (done / "checkpoints" / "step").write_text("5")
    assert run("5", {}, store=tmp_path, folder=place, tell=said).data["step"] == 6
    assert len(said) == 2 and not done.with_name(f"{done.name}.before").exists()


def test_a_killed_runner_leaves_no_kernel_and_no_result(place: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sftkit", "run", "5", "-p", "mode=wait"]
    command += ["--store", str(tmp_path), "--folder", str(place)]
    runner = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE)
    folder = plan("5", {"mode": "wait"}, place).folder(tmp_path)
    try:
        pid_file = folder / "checkpoints" / "pid"
        _wait_for(lambda: pid_file.is_file() and pid_file.read_text() != "")
        kernel = int(pid_file.read_text())
        with pytest.raises(
            RunError, match=r"is being done at this moment, in .*, by process \d+"
        ):
            run("5", {"mode": "wait"}, store=tmp_path, folder=place, tell=Said())
    finally:
        os.kill(runner.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        runner.communicate()
    _wait_for(lambda: not psutil.pid_exists(kernel))
    assert not (folder / "result.json").exists()
    result = run("5", {"mode": "wait"}, store=tmp_path, folder=place, resume=True, tell=Said())
    assert result.data["resumed"] is True and result.data["step"] == 6


def _wait_for(what: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_force_repeats_and_excludes_resume(place: Path) -> None:
    given = {"n": 4, "data": str(place / "rows.csv")}
    with pytest.raises(ParameterError, match="both repeated from the start and resumed"):
        run("5", given, store=place / "runs", folder=place, force=True, resume=True)
    result = run("5", given, store=place / "runs", folder=place, force=True, tell=Said())
    assert result.fresh and result.data["resumed"] is False
    assert [p.name for p in (place / "runs" / "05_run").glob("*.before")] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": "3"}, r"no parameter 'epoch'.\n  There are:\n    n: int = 3  # how many"),
        ({"rates": "3"}, r"no parameter 'rates'.\n  Did you mean rate\?"),
        ({"n": "3.5"}, r"n must be of type int, not '3.5'.\n  For example: -p n=3"),
        ({"n": True}, "n must be of type int, not True"),
        ({"rate": "fast"}, "rate must be of type float"),
        ({"rate": "nan"}, "rate must be of type float"),
        ({"seeds": "0,x"}, r"seeds must be of type list\[int\].*\n.*-p seeds=0,1"),
        ({"mode": 3}, "mode must be of type str"),
        ({"out": "x"}, "'out' is set by the runner"),
        ({"resume": "true"}, "'resume' is set by the runner"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_starts(
    place: Path, tmp_path: Path, given: dict, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        run("5", given, store=tmp_path / "runs", folder=place)
    assert not (tmp_path / "runs").exists()


def test_parameters_are_read_from_text() -> None:
    known = {
        p.name: p
        for p in parse(
            "a: int = 1  # one\n"
            "b: list[float] = [\n    1.0,\n]  # two\n"
            "c: bool = False\n"
            "d: int | None = None  # four # and a half\n"
            "e = 'x'\n"
            "f: list[str] = []  # six\n"
        )
    }
    assert [p.help for p in known.values()] == [
        "one",
        "two",
        "",
        "four # and a half",
        "",
        "six",
    ]
    read = {"a": "1_000", "b": "1,2e-3", "c": "Yes", "d": "none", "e": "", "f": '["a,b"]'}
    assert {name: convert(known[name], text) for name, text in read.items()} == {
        "a": 1000,
        "b": [1.0, 0.002],
        "c": True,
        "d": None,
        "e": "",
        "f": ["a,b"],
    }
    assert convert(known["d"], "7") == 7 and convert(known["f"], "") == []
    assert fill(list(known.values()), {"a": 2})["b"] == [1.0]
    with pytest.raises(ParameterError, match="not a plain value"):
        parse("a: int = 1 + x")


def test_a_record_is_plain_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import numpy as np

    record(tmp_path, {"a": np.float32(0.5), "b": {"value": 1}}, rows=3)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content == {"metrics": {"a": 0.5, "b": {"value": 1}}, "rows": 3}
    with pytest.raises(ParameterError, match=r"metrics\['a'\]\['b'\] is nan"):
        record(tmp_path, {"a": {"b": float("nan")}})
    with pytest.raises(ParameterError, match="not a number"):
        record(tmp_path, {"a": object()})
    assert json.loads((tmp_path / "metrics.json").read_text()) == content
    capsys.readouterr()
    record("", {"a": 1})
    assert "shown only" in capsys.readouterr().out
    assert flat({"svm": {"f1": {"value": 0.5, "low": 0.25, "high": 0.75}}, "n": 3}) == [
        ("svm f1", "0.5  [0.25, 0.75]"),
        ("n", "3"),
    ]
