"""Real processes that start in milliseconds: forks of one that has imported everything.

`Zygote` is the test's end. Run as a module, this is the process that forks: it reads jobs as
lines of JSON and never computes anything itself.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


class Child:
    """One forked process."""

    def __init__(self, zygote: Zygote, pid: int, log: Path) -> None:
        self.zygote, self.pid, self.log = zygote, pid, log
        self.status: int | None = None

    def marks(self) -> list[list[str]]:
        """The whole lines that it has written so far, as words."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def kill(self) -> None:
        """kill -9."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        if self.status is None:
            self.status = self.zygote.ask({"poll": self.pid})
        return self.status

    def wait(self, seconds: float = 240) -> int:
        """Exit code; fails the test when the process hangs."""
        wait_until(lambda: self.poll() is not None, seconds, f"process hangs: {self.log}")
        assert self.status is not None
        return self.status

    def mark(self, word: str, seconds: float = 240) -> bool:
        """Wait until a line begins with a word; False if the process ends before."""
        found = lambda: any(m and m[0] == word for m in self.marks())  # noqa: E731
        wait_until(
            lambda: found() or self.poll() is not None, seconds, f"no {word}: {self.log}"
        )
        return found()


def wait_until(what: Any, seconds: float, message: str) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, message
        time.sleep(0.003)


class Zygote:
    """Starts functions of test modules in processes of their own."""

    def __init__(self) -> None:
        self.count = 0
        self.children: list[Child] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.zygote"],
            cwd=ROOT,
            env=os.environ | QUIET | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def ask(self, what: dict[str, Any]) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(
        self, job: str, folder: Path, environment: dict[str, str], options: dict[str, Any]
    ) -> Child:
        """Fork a process that calls ``module:function(**options)``; it logs into the folder."""
        self.count += 1
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"log-{self.count}.txt"
        log.touch()
        order = {"job": job, "options": options, "log": str(log), "environment": environment}
        child = Child(self, self.ask(order), log)
        self.children.append(child)
        return child

    def together(self, job: str, folder: Path, processes: int, **options: Any) -> list[Child]:
        """Several processes that form one gloo group; the job gets the folder too."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [{"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(processes)]
        group = group if processes > 1 else {}
        options["folder"] = str(folder)
        return [self.start(job, folder, group | (r if group else {}), options) for r in ranks]

    def close(self) -> None:
        for child in self.children:  # of a test that has failed
            child.kill()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=120)


def _fork(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        os.environ.update(order["environment"])
        module, _, name = order["job"].partition(":")
        getattr(importlib.import_module(module), name)(**order["options"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what follows belongs to the parent


def _poll(pid: int) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def main() -> None:
    import accelerate  # noqa: F401
    import torch
    import torch.distributed

    torch.set_num_threads(1)
    importlib.import_module("tests.engine.killed")
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer = _poll(order["poll"]) if "poll" in order else _fork(order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
