"""One process and two share one trajectory, padded and packed; trap 3."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.equivalence import Trajectory, agree
from tests.equivalence.two_processes import runs

ROOT = Path(__file__).resolve().parents[2]


def two(folder: Path) -> list[dict[str, Trajectory]]:
    """What each of two processes has gone through."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    started = []
    for rank in ("0", "1"):
        out = folder / f"{rank}.json"
        command = [sys.executable, "-m", "tests.equivalence.two_processes", str(out)]
        environment = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}
        started.append((out, subprocess.Popen(command, env=environment, cwd=ROOT)))
    for _, process in started:
        assert process.wait(timeout=240) == 0
    return [
        {
            name: Trajectory(**{key: np.array(value) for key, value in fields.items()})
            for name, fields in json.loads(out.read_text()).items()
        }
        for out, _ in started
    ]


def test_trap_3(tmp_path):
    one = runs()
    first, second = two(tmp_path)
    for name in ("padded", "packed"):
        agree(f"{name}, two processes", first[name], one[name])
        assert np.array_equal(first[name].weights, second[name].weights)
    with pytest.raises(AssertionError, match="mean drift"):
        agree("own count", first["own count"], one["padded"])
