"""One process and two share one trajectory, with uneven counts and an uneven last window."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

MICRO = 3  # steps of 8 have three micro-batches: the second process gets one less
ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, processes: int, micro: int) -> list[dict]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
        if processes > 1:
            environment |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        out = folder / f"{processes}-{rank}-{micro}.json"
        command = [sys.executable, "-m", "tests.engine.two_processes", str(out), str(micro)]
        started.append((out, subprocess.Popen(command, env=environment, cwd=ROOT)))
    for _, process in started:
        assert process.wait(timeout=240) == 0
    return [json.loads(out.read_text()) for out, _ in started]


def test_one_process_and_two_agree(tmp_path):
    (one,) = run(tmp_path, 1, MICRO)
    first, second = run(tmp_path, 2, MICRO)
    assert first["weights"] == second["weights"]
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-9)
    assert first["weights"] == pytest.approx(one["weights"], abs=1e-7)
