"""`sftkit run 07`, killed in the middle of training and resumed, gives the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sftkit.files import read_json

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = [
    "limit=240",
    "epochs=4",
    "lr=0.0005",
    "validation_rows=100",
    "test_rows=100",
    "hand_steps=0",
    "fit_head_first=false",
    "max_length=32",
]


def command(store: Path, *more: str) -> list[str]:
    chosen = [part for text in PARAMETERS for part in ("-p", text)]
    return [sys.executable, "-m", "sftkit", "run", "07", *chosen, "--store", str(store), *more]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def kill_with_children(process: subprocess.Popen) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()  # the runner first, so that it cannot tidy up
    for child in children:
        child.kill()
    process.wait()


@pytest.mark.slow
def test_kill_minus_nine_then_resume(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(whole), env=environment(), check=True, timeout=900)

    process = subprocess.Popen(command(broken), env=environment())
    end = time.monotonic() + 600
    while not list(broken.glob("*/*/checkpoints/step-*")):
        assert process.poll() is None, "it ended before its first checkpoint"
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(0.5)
    kill_with_children(process)
    assert not list(broken.glob("*/*/result.json"))
    subprocess.run(command(broken, "--resume"), env=environment(), check=True, timeout=900)

    (a,) = whole.glob("*/*/model/sftkit.safetensors")
    (b,) = broken.glob("*/*/model/sftkit.safetensors")
    assert a.read_bytes() == b.read_bytes()
    results = [read_json(p.parent.parent / "result.json") for p in (a, b)]
    for name in ("svm", "frozen", "tuned"):
        assert results[0]["metrics"][name] == results[1]["metrics"][name]


@pytest.mark.slow
def test_the_readme_example_on_a_small_file_of_ones_own(tmp_path):
    """The command of the README as it stands there, but for the folder of runs."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "data=data/examples/reviews.csv" in line)
    words = line.split()[1:]  # without the path of the command
    command = [sys.executable, "-m", "sftkit", *words, "--store", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, timeout=900)
    (result,) = tmp_path.glob("*/*/result.json")
    metrics = read_json(result)["metrics"]
    assert metrics["train_rows"] == 100 and metrics["test_rows"] == 13
    page = (result.parent / "notebook.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page  # a browser may fetch nothing for it
