"""The loop of a sweep: what is missing runs, what fails is kept or tried again.

The store is the only memory. A run is done when its ``result.json`` is there with the right
hash; so an interrupted sweep is started again with the same command, two sweeps may work on
one store, and nothing is lost with the process that drives.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftkit.course.run import FAILURE
from sftkit.course.sweep import executors, remote
from sftkit.course.sweep.estimate import earlier, estimate
from sftkit.course.sweep.plan import Plan
from sftkit.course.sweep.runs import Run
from sftkit.course.sweep.source import Source, Summary
from sftkit.course.sweep.status import Bar, Progress
from sftkit.course.sweep.store import (
    metric_of,
    names,
    run_folder,
    state_of,
    sweep_folder,
    write_manifest,
)
from sftkit.course.sweep.work import Job, Outcome, Work, inputs_of
from sftkit.errors import ParameterError, RunError
from sftkit.files import write_json

POLL = 0.5  # seconds between looks, when nothing ends
BREATH = 2.0  # seconds after a worker has died: its kernel ends within one
ELSEWHERE = 1.0  # seconds between looks at runs that another process does
ASK_AGAIN = 30.0  # seconds between attempts to do them here after all


@dataclass
class Drive:
    """One start of a sweep."""

    plan: Plan
    local: Path  # folder of the records
    store: str  # as workers see it
    spec: str
    retry_failed: bool
    watcher: Callable[[Progress], None] | None
    work: Work
    tell: Callable[[str], None]
    queue: deque[Run] = field(default_factory=deque)  # to be submitted
    flying: dict[Future, Run] = field(default_factory=dict)
    suspects: deque[Run] = field(default_factory=deque)  # were under way when a worker died
    elsewhere: dict[str, Run] = field(default_factory=dict)  # another process does them
    attempts: dict[str, int] = field(default_factory=dict)
    broken: bool = False  # the pool has lost a worker
    looked: float = 0.0  # when the runs elsewhere were last looked at
    over: bool = False  # no more runs are begun

    def folder_of(self, run: Run) -> Path:
        return run_folder(self.local, run.planned.source.name, run.hash)

    def go(self, source: Source) -> Summary:
        """Until nothing is left to do."""
        self.source, self.began = source, time.monotonic()
        self.summary = Summary(self.local, self.plan.name)
        known = earlier(self.local, self.plan.prepared.source.name)
        peaks = estimate(source.runs[:1], known).memory
        memory = self.plan.memory or peaks or executors.MEMORY
        self.progress = Progress(self.plan, source.total)
        self._write_manifest()
        with (
            Bar(self.progress, self.tell) as self.bar,
            executors.opened(self.spec, memory, self._jobs, self.plan.slurm) as pool,
        ):
            self.progress.executor, self.pool = pool.name, pool
            self._loop(memory)
        summary = self.summary
        summary.left = source.total - summary.done - summary.failed - summary.stopped
        self._write_manifest()
        self._show()
        return summary

    @property
    def _jobs(self) -> Path:
        """Folder of job scripts and their logs."""
        return sweep_folder(self.local, self.plan.name) / "jobs"

    def _loop(self, memory: float) -> None:
        while True:
            self._fill()
            if not self.flying and not self.broken:
                if not self.elsewhere:
                    return
                time.sleep(ELSEWHERE)
                self._look_elsewhere()
                continue
            done, _ = wait(self.flying, timeout=POLL, return_when=FIRST_COMPLETED)
            lost = [future for future in done if self._is_broken(future)]
            for future in done:
                if future not in lost:
                    self._land(self.flying.pop(future), future)
            if lost or self.broken:
                self._mend(memory)
            for run in self.source.watch(list(self.flying.values())):
                self.tell(f"given up: {self.progress.label(run)}")
            self._show()

    # -- submitting -------------------------------------------------------------------------

    def _fill(self) -> None:
        """Submit runs as far as there is room."""
        self._look_elsewhere()
        if self.plan.minutes and time.monotonic() - self.began > 60 * self.plan.minutes:
            if not self.over and self.progress.settled + len(self.flying) < self.source.total:
                self.tell(f"{self.plan.minutes:g} minutes are over; no more runs are begun")
            self.over = True
        width = self.pool.width()
        while len(self.flying) < width and not self.broken:
            # A run that may have killed a worker gets one to itself.
            if self.suspects:
                if not self.flying:
                    self._submit(self.suspects.popleft())
                return
            run = self._next()
            if run is None:
                return
            self._submit(run)

    def _next(self) -> Run | None:
        """The next run that is really to be done."""
        while not self.over:
            if not self.queue:
                taken = self.source.take()
                if not taken:
                    return None
                self.queue.extend(taken)
                if self.plan.search.method == "tpe":
                    self._write_manifest()
            run = self.queue.popleft()
            state = state_of(self.folder_of(run), run.hash)
            if state.name == "failed":
                before = 0 if self.retry_failed else state.data.get("attempts", 1)
                self.attempts.setdefault(run.hash, before)
                if self.attempts[run.hash] > self.plan.retries:
                    self._settle(run, "failed", None, state.data.get("error", ""))
                    continue
            if state.name in ("done", "stopped"):
                self._settle(run, state.name, state.data)
                continue
            return run
        return None

    def _submit(self, run: Run) -> None:
        attempt = self.attempts.get(run.hash, 0) + 1
        self.attempts[run.hash] = attempt
        self.summary.attempts += 1
        pool = self.pool
        inputs = {} if pool.here else inputs_of(run.planned)
        job = Job(run.planned, self.store, attempt, pool.threads, inputs, not pool.here)
        try:
            self.flying[pool.executor.submit(self.work, job)] = run
        except BrokenExecutor:  # a worker died while nothing was under way
            self.attempts[run.hash] -= 1
            self.broken = True
            self.queue.appendleft(run)
        else:
            self.progress.begin(run)

    # -- landing ----------------------------------------------------------------------------

    def _is_broken(self, future: Future) -> bool:
        return not future.cancelled() and isinstance(future.exception(), BrokenExecutor)

    def _land(self, run: Run, future: Future) -> None:
        try:
            outcome = future.result()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            names = {kind.__name__ for kind in type(error).__mro__}
            if names & executors.LOST:
                raise RunError(
                    f"The cluster is gone ({type(error).__name__}: {error}).",
                    "What is done stays done: when it is back, the same command goes on.",
                ) from None
            self._died(run, f"{type(error).__name__}: {error}")
            return
        self._take_in(run, outcome)

    def _take_in(self, run: Run, outcome: Outcome) -> None:
        if outcome.state == "busy":
            self.attempts[run.hash] -= 1
            self.elsewhere[run.hash] = run
            self.progress.end(run)
        elif outcome.state == "full":
            self.attempts[run.hash] -= 1
            raise RunError(
                f"No space is left where {self.progress.label(run)} writes: {outcome.error}",
                "What is done stays done: make room, then the same command goes on.",
            )
        elif outcome.state == "failed" and self._may_retry(run):
            self.tell(f"failed, and tried again: {self.progress.label(run)}: {outcome.error}")
            self.progress.end(run)
            self.queue.appendleft(run)
        else:
            if outcome.state == "done":
                self.summary.fresh += 1
                self._mirror(run, outcome)
            self._settle(run, outcome.state, outcome.data, outcome.error, outcome.seconds)

    def _mirror(self, run: Run, outcome: Outcome) -> None:
        """Keep the record here when the store is elsewhere."""
        if remote.is_address(self.store) and outcome.data is not None:
            write_json(
                self.folder_of(run) / "result.json", outcome.data | {"files": ["result.json"]}
            )

    def _may_retry(self, run: Run) -> bool:
        return self.attempts[run.hash] <= self.plan.retries and not self.over

    def _died(self, run: Run, text: str) -> None:
        """A worker died under a run that was alone on it."""
        error = f"The worker that did this run died: {text}"
        if self._may_retry(run):
            self.tell(f"a worker died, and the run is tried again: {self.progress.label(run)}")
            self.progress.end(run)
            self.suspects.append(run)
            return
        facts = {
            "notebook": run.planned.source.name,
            "hash": run.hash,
            "parameters": run.planned.parts["parameters"],
            "error": error,
            "cell": None,
            "attempts": self.attempts[run.hash],
        }
        write_json(self.folder_of(run) / FAILURE, facts)
        self._settle(run, "failed", None, error)

    def _mend(self, memory: float) -> None:
        """A worker process died, and took the pool with it: open another.

        Which of the runs under way was to blame cannot be told. Each is done again alone;
        one that kills its worker again has failed, and costs the others nothing.
        """
        runs = list(self.flying.values())
        self.flying.clear()
        self.pool.stop()
        time.sleep(BREATH)
        self.pool.become(executors.open_pool(self.spec, memory, self._jobs, self.plan.slurm))
        self.broken = False
        alone = len(runs) == 1
        for run in runs:
            if state_of(self.folder_of(run), run.hash).name == "done":
                self.queue.append(run)  # it had just finished
                self.progress.end(run)
            elif alone:
                self._died(run, "the process ended without a word")
            else:
                self.attempts[run.hash] -= 1
                self.progress.end(run)
                self.suspects.append(run)
        if self.suspects and not alone:
            self.tell(f"a worker died; {len(runs)} runs under way are done again, one by one")

    def _settle(
        self,
        run: Run,
        state: str,
        data: dict[str, Any] | None,
        error: str = "",
        seconds: float = 0.0,
    ) -> None:
        """A run has come to its end."""
        counted = getattr(self.summary, state)
        setattr(self.summary, state, counted + 1)
        metric = self.plan.metric
        value = metric_of(data, metric, self.plan.maximize) if data and metric else None
        self.progress.settle(run, state, value, seconds)
        if state == "done" and metric and value is None:
            raise ParameterError(
                f"The metric '{metric}' is not among what the notebook records.",
                f"There are: {', '.join(names(data or {}))}.",
            )
        if seconds or error:
            self.bar.line(run, state, value, seconds, error)
        self.queue.extend(self.source.land(run, state, data))

    # -- the rest ---------------------------------------------------------------------------

    def _look_elsewhere(self) -> None:
        """See what became of the runs that another process does."""
        late = time.monotonic() - self.looked > ASK_AGAIN
        if late:
            self.looked = time.monotonic()
        for digest, run in list(self.elsewhere.items()):
            # What its files say may be out of date, so now and then the lock itself is tried.
            if late or state_of(self.folder_of(run), digest).name != "running":
                del self.elsewhere[digest]
                self.queue.append(run)

    def _write_manifest(self) -> None:
        write_manifest(self.local, self.plan, self.source.runs, self.source.total)

    def _show(self) -> None:
        self.bar.refresh()
        if self.watcher is not None:
            self.watcher(self.progress)
