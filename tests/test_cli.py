"""The command: every verb answers, and every mistake gets a sentence and an exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sftkit.cli import main

ROOT = Path(__file__).parents[1]
CELLS = """\
# %% [markdown]
# # 03 Numbers
#
# Few words. **How far does it count?** Some seconds on 2 cores.

# %% tags=["parameters"]
n: int = 3  # how far
pause: float = 0.0  # seconds
out: str = ""  # folder for results

# %%
import time

from sftkit.course import record

time.sleep(pause)
record(out, {"counted": n, "share": {"value": 0.5, "low": 0.25, "high": 0.75}})
"""


@pytest.fixture
def folder(tmp_path: Path, write_source: Callable[..., Path]) -> Path:
    write_source(tmp_path / "src" / "03_numbers.py", CELLS, "{minutes: 0.5}")
    return tmp_path


def test_run_shows_the_metrics_and_where_the_page_is(folder: Path) -> None:
    store = folder / "runs"
    command = [sys.executable, "-m", "sftkit", "run", "3", "-p", "n=7"]
    command += ["--folder", str(folder), "--store", str(store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^counted +7$", done.stdout, re.M)
    assert re.search(r"^share +0.5  \[0.25, 0.75\]$", done.stdout, re.M)
    (page,) = store.glob("03_numbers/*/notebook.html")
    assert f"read it: {page}" in done.stdout
    lines = [re.sub(r" +[\d.]+ s  ", " ", line) for line in done.stderr.splitlines()]
    assert lines[:3] == [
        "03_numbers [2/4] n: int = 3  # how far",
        "03_numbers [3/4] n = 7",
        "03_numbers [4/4] import time",
    ]
    assert len(lines) == 4 and lines[3].startswith("03_numbers done in")
    assert "\r" not in done.stderr  # no bars in a log


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_ends_in_a_sentence(folder: Path) -> None:
    command = [sys.executable, "-m", "sftkit", "run", "3", "-p", "pause=60"]
    command += ["--folder", str(folder), "--store", str(folder / "runs")]
    # A shell starts background work with interrupts ignored, and children inherit that.
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )
    assert process.stderr
    for line in process.stderr:
        if "pause = 60" in line or "[3/4]" in line:
            break
    time.sleep(0.5)
    start = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and time.monotonic() - start < 20
    assert rest.splitlines()[-1].startswith("Interrupted. Go on from the last checkpoint")
    assert "Traceback" not in rest
    assert not list(folder.rglob("result.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "33"], "ParameterError: There is no notebook 33."),
        (["run", "3", "-p", "m=1"], "ParameterError: 03_numbers has no parameter 'm'."),
        (["run", "3", "-p", "n"], "ParameterError: '-p n' is not of the form NAME=VALUE."),
        (["run", "3", "-p", "n=x"], "ParameterError: 03_numbers: parameter n must be"),
        (["run", "3", "--resume"], "ParameterError: 03_numbers cannot be resumed"),
        (["build"], "ParameterError: Say which notebooks to build."),
        (["build", "3", "--all"], "ParameterError: Say which notebooks to build."),
    ],
)
def test_mistakes_get_a_sentence(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([*arguments, "--folder", str(folder)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(message) and "Traceback" not in said.err
    assert said.out == "" and not (folder / "runs").exists()


def test_an_unknown_asset_gets_a_sentence(capsys: pytest.CaptureFixture) -> None:
    assert main(["assets", "fetch", "minilmm"]) == 2
    assert "Did you mean minilm?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["check", "x"],
        ["run", "3", "--force", "--resume"],
        ["assets", "x"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: sftkit" in capsys.readouterr().err


def test_lists(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["notebooks", "--folder", str(folder)]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^03_numbers +0.5 +How far does it count\?$", listed, re.M)
    assert main(["run", "3", "--list-parameters", "--folder", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "n: int = 3  # how far",
        "pause: float = 0.0  # seconds",
    ]
    assert main(["assets", "list"]) == 0
    assert "minilm" in capsys.readouterr().out
    assert main(["assets", "licenses"]) == 0
    assert "Apache-2.0" in capsys.readouterr().out


def test_check_prints_problems_and_fails(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check", "--folder", str(folder)]) == 1
    said = capsys.readouterr()
    assert "03_numbers: a section 'Summary' is missing" in said.err
    assert said.out == "problems: 4\n"


def test_further_arguments_of_test_go_to_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    from sftkit.course import testing

    seen: list[tuple[bool, list[str]]] = []
    monkeypatch.setattr(testing, "test", lambda slow, more: seen.append((slow, more)) or 0)
    assert main(["test", "-k", "resume", "-x", "--slow"]) == 0
    assert seen == [(True, ["-k", "resume", "-x"])]
