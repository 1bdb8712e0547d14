"""Start a few processes that work together, for notebooks: a kernel cannot be copied.

``python -m sftkit.lessons.processes JOB.json`` is one of them. What they do is a function of
`sftkit.lessons.parallel`, by name; its result comes back as JSON.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sftkit.errors import ParameterError, RunError
from sftkit.files import PACKAGE, read_json, write_json

TASKS = "sftkit.lessons.parallel"


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """Variables for a process that trains on the processor with one thread and finds sftkit."""
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def together(
    *calls: tuple[str, dict[str, Any]], processes: int = 2, timeout: float = 300.0
) -> list[list[Any]]:
    """Call functions of `parallel` in several processes that can talk over gloo.

    Args:
        calls: Names and arguments, which must be JSON; done one after the other.
        timeout: Seconds, after which all are ended.

    Returns:
        For each process, in the order of their ranks: what each call returned.

    Raises:
        ParameterError: There is no such function, or no process.
        RunError: One of them failed, with the end of what it said; the others are ended.
    """
    known = importlib.import_module(TASKS)
    if wrong := [name for name, _ in calls if not hasattr(known, name)]:
        raise ParameterError(f"There is no function {', '.join(wrong)}.", f"See {TASKS}.")
    if processes < 1:
        raise ParameterError(f"{processes} processes.", "At least one is needed.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / "job.json", calls)
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        shared |= {"WORLD_SIZE": str(processes)}
        # Freed memory goes back at once, so that what a process holds can be read from outside.
        shared |= {"MALLOC_MMAP_THRESHOLD_": "1000000"}
        command = [sys.executable, "-m", "sftkit.lessons.processes", str(folder / "job.json")]
        started = []
        try:
            for rank in map(str, range(processes)):
                said = open(folder / f"{rank}.txt", "wb")  # noqa: SIM115 (closed below)
                values = environment(**shared, RANK=rank, LOCAL_RANK=rank)
                process = subprocess.Popen(command, env=values, stdout=said, stderr=said)
                started.append((process, said))
            _wait([process for process, _ in started], folder, timeout)
        finally:
            for process, said in started:
                if process.poll() is None:
                    process.kill()
                process.wait()
                said.close()
        return [read_json(folder / f"{rank}.json") for rank in range(processes)]


def _wait(running: list[subprocess.Popen], folder: Path, timeout: float) -> None:
    """Until all have ended well. When one fails, the others would wait for it for ever."""
    end = time.monotonic() + timeout
    while True:
        codes = [process.poll() for process in running]
        for rank, code in enumerate(codes):
            if code:
                text = (folder / f"{rank}.txt").read_text(encoding="utf-8", errors="replace")
                raise RunError(f"process {rank} ended with {code}.", text[-2000:].strip())
        if all(code == 0 for code in codes):
            return
        if time.monotonic() > end:
            raise RunError(f"not done after {timeout:g} s.", "Give it more time.")
        time.sleep(0.02)


def main(job: str) -> None:
    """Be one of the processes."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    tasks = importlib.import_module(TASKS)
    distributed.init_process_group("gloo")
    try:
        answers = [getattr(tasks, name)(**given) for name, given in read_json(Path(job))]
        write_json(Path(job).parent / f"{distributed.get_rank()}.json", answers)
        distributed.barrier()  # nobody leaves while another still listens
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
