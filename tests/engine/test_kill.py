"""A process killed at random points, also while it saves, ends with the same bits."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.engine.killed", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


def campaign(tmp_path: Path, kills: int) -> None:
    whole = start(tmp_path / "whole")
    assert whole.communicate(timeout=300) and whole.returncode == 0
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    broken, last = tmp_path / "broken", 0
    for _ in range(kills):
        process = start(broken)
        assert process.stdout is not None
        first = int(process.stdout.readline())
        assert first >= last, "it began before its newest checkpoint"
        last = first
        time.sleep(chance.uniform(0, 0.25))
        process.kill()
        process.communicate()
    final = start(broken)
    assert final.communicate(timeout=300) and final.returncode == 0
    expected = (tmp_path / "whole" / "final.safetensors").read_bytes()
    assert (broken / "final.safetensors").read_bytes() == expected


def test_killed_three_times(tmp_path):
    campaign(tmp_path, 3)


@pytest.mark.slow
def test_killed_often(tmp_path):
    campaign(tmp_path, 12)
