"""Where runs happen: processes here, a Dask cluster, Slurm. All are `concurrent.futures`.

processes  processes:4       on this machine, sized by memory as well as cores
dask://HOST:PORT             any Dask cluster; start its workers with --nthreads 1
slurm  slurm:50              so many jobs at a time, through submitit
submitit-local:2             submitit's own processes, to try a Slurm set-up at home
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftkit.errors import ParameterError, RunError

MEMORY = 2.0  # GB of a run, when nothing is known about it
SHARE = 0.8  # of the free memory that runs may take
SLURM_AT_ONCE = 50
# The classes of errors by which a cluster says that it is gone; by name, since the package
# that defines them may not be there.
LOST = {"CancelledError", "CommClosedError", "ClosedClientError", "FutureCancelledError"}
POLL = 0.2  # seconds between looks at submitit's jobs


@dataclass
class Pool:
    """An executor, and what the sweep must know about it.

    Attributes:
        width: Gives how many runs may be under way now.
        here: Whether workers see this machine's files.
        threads: For each run's kernel; 0 leaves that to the executor.
        stop: Ends everything at once, kernels too.
        close: Ends it when all is done.
    """

    executor: Executor
    width: Callable[[], int]
    here: bool
    threads: int
    name: str
    stop: Callable[[], None]
    close: Callable[[], None]

    def become(self, other: Pool) -> None:
        """Take the place of a pool that broke."""
        self.__dict__.update(other.__dict__)


def need(module: str, package: str, what: str) -> None:
    """Refuse with the command that helps when an optional package is missing."""
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise ParameterError(
            f"{what} needs the package {package}, which is not installed.",
            "pip install 'sftkit[sweep]'   (in a checkout: pip install -c constraints.txt "
            "-e '.[sweep]')",
        )


def refuse_unknown(spec: str) -> None:
    """Check an executor's name, and that its package is there.

    Raises:
        ParameterError: It is unknown, or needs a package.
    """
    kind, _, rest = spec.partition(":")
    if kind == "dask" and rest.startswith("//") and rest.rpartition(":")[2].isdigit():
        need("distributed", "distributed", "A Dask cluster")
    elif kind in ("slurm", "submitit-local") and (not rest or _count(rest)):
        need("submitit", "submitit", "Slurm")
    elif not (kind == "processes" and (not rest or _count(rest))):
        raise ParameterError(
            f"There is no executor '{spec}'.",
            "There are: processes, processes:N, dask://HOST:PORT, slurm, slurm:N, "
            "submitit-local:N; N is the number of runs at a time, from 1.",
        )


def _count(text: str) -> int:
    return int(text) if text.isdigit() else 0


@contextmanager
def opened(
    spec: str, memory: float, folder: Path, slurm: dict[str, Any] | None = None
) -> Iterator[Pool]:
    """As `open_pool`, closed at the end; at once, with all it runs, when the block fails."""
    pool = open_pool(spec, memory, folder, slurm)
    try:
        yield pool
    except BaseException:
        pool.stop()
        raise
    else:
        pool.close()


def open_pool(
    spec: str, memory: float, folder: Path, slurm: dict[str, Any] | None = None
) -> Pool:
    """The executor of this name.

    Args:
        spec: See the head of this module.
        memory: GB that a run takes.
        folder: For job scripts and their logs (Slurm).
        slurm: Parameters of submitit's ``update_parameters``.
    """
    refuse_unknown(spec)
    kind, _, rest = spec.partition(":")
    if kind == "processes":
        return _processes(_count(rest), memory)
    if kind == "dask":
        return _dask("tcp:" + rest)
    return _submitit(kind == "slurm", _count(rest) or SLURM_AT_ONCE, folder, slurm or {})


def size(memory: float, wanted: int = 0) -> tuple[int, int]:
    """``(processes, threads of each)`` that this machine has room for.

    Args:
        memory: GB per run.
        wanted: This many processes, if not 0.
    """
    import psutil

    from sftkit.device import usable_cores

    cores = usable_cores()
    room = int(psutil.virtual_memory().available / 1e9 * SHARE / memory)
    count = wanted or max(1, min(cores, room))
    return count, max(1, cores // count)


def _processes(wanted: int, memory: float) -> Pool:
    import multiprocessing

    count, threads = size(memory, wanted)
    executor = ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker
    )

    def stop() -> None:
        import psutil

        family = []
        for process in list((executor._processes or {}).values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                family += psutil.Process(process.pid).children(recursive=True)
            process.terminate()
        for child in family:  # kernels
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        executor.shutdown(wait=False, cancel_futures=True)

    name = f"{count} processes of {threads} threads" if threads > 1 else f"{count} processes"
    return Pool(executor, lambda: count, True, threads, name, stop, executor.shutdown)


def _begin_worker() -> None:
    """Leave Ctrl-C to the sweep, and end with it: a killed one leaves no worker behind."""
    import multiprocessing

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _dask(address: str) -> Pool:
    from distributed import Client

    try:
        client = Client(address, timeout="15s", set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise RunError(
            f"There is no Dask scheduler at {address}: {error}",
            "Start one with: dask scheduler; and workers: dask worker ADDRESS --nthreads 1",
        ) from None
    executor = client.get_executor(pure=False)

    def width() -> int:
        if client.status not in ("running", "connecting"):
            raise RunError(f"The Dask scheduler at {address} is gone.")
        return max(1, len(client.scheduler_info(n_workers=-1)["workers"]))

    def stop() -> None:
        executor.shutdown(wait=False)  # cancels what is under way
        client.close(timeout=2)

    def close() -> None:
        executor.shutdown(wait=True)
        client.close(timeout=5)

    name = f"{width()} workers at {address}"
    return Pool(executor, width, False, 0, name, stop, close)


def _submitit(cluster: bool, at_once: int, folder: Path, parameters: dict[str, Any]) -> Pool:
    import submitit

    folder.mkdir(parents=True, exist_ok=True)
    inner = submitit.AutoExecutor(folder=folder, cluster="slurm" if cluster else "local")
    inner.update_parameters(**{"timeout_min": 240, **parameters})
    executor = JobsExecutor(inner)
    name = f"{at_once} {'Slurm' if cluster else 'local'} jobs at a time"
    return Pool(executor, lambda: at_once, True, 0, name, executor.stop, executor.shutdown)


class JobsExecutor(Executor):
    """submitit's jobs as futures: it has no futures of its own that `wait` would know."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._jobs: dict[Future, Any] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_running_or_notify_cancel()
        job = self.inner.submit(fn, *args, **kwargs)
        with self._lock:
            self._jobs[future] = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, daemon=True)
                self._thread.start()
        return future

    def _watch(self) -> None:
        while True:
            with self._lock:
                waiting = dict(self._jobs)
                if not waiting:
                    self._thread = None
                    return
            for future, job in waiting.items():
                if not job.done():
                    continue
                try:
                    future.set_result(job.result())
                except BaseException as error:  # whatever became of the job
                    future.set_exception(error)
                with self._lock:
                    del self._jobs[future]
            time.sleep(POLL)

    def stop(self) -> None:
        """Cancel all jobs."""
        with self._lock:
            waiting = list(self._jobs.values())
        for job in waiting:
            with contextlib.suppress(Exception):
                job.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            self.stop()
        while wait and self._jobs:
            time.sleep(POLL)
