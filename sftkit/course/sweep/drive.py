"""Start a sweep: choose where its runs come from, and drive them.

The store is the only memory. A run is done when its ``result.json`` is there with the right
hash; so an interrupted sweep is started again with the same command, two sweeps may work on
one store, and nothing is lost with the process that drives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from sftkit.course.sweep import executors, remote
from sftkit.course.sweep.loop import Drive
from sftkit.course.sweep.plan import Plan
from sftkit.course.sweep.runs import expand
from sftkit.course.sweep.source import Listed, Summary
from sftkit.course.sweep.status import Progress
from sftkit.course.sweep.store import manifests, sweep_folder
from sftkit.course.sweep.work import Work, do
from sftkit.errors import ParameterError, RunError
from sftkit.files import Held, held


def sweep(
    plan: Plan,
    *,
    store: Path | str = Path("runs"),
    executor: str = "processes",
    retry_failed: bool = False,
    watch: Callable[[Progress], None] | None = None,
    work: Work = do,
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Summary:
    """Do the runs of a plan that are not done yet.

    Args:
        plan: From `Plan.read` or `Plan.of`.
        store: Folder of all runs, or an address that fsspec knows.
        executor: See `executors`.
        retry_failed: Try again what failed as often as the plan allows.
        watch: Called now and then with the sweep's progress (see `live`).
        work: What does a run; another one for tests.
        tell: Receives lines for the person who waits.

    Raises:
        ParameterError: The executor is unknown, or a package is missing.
        RunError: The disk is full or the cluster is gone. What is done stays done.
    """
    executors.refuse_unknown(executor)
    local = Path(store).resolve() if not remote.is_address(str(store)) else None
    if local is None:
        if plan.search.pruner != "none":
            raise ParameterError(
                "A pruner looks at runs under way, which needs a store that is a folder.",
                "Leave the pruner out, or use a folder that all workers share.",
            )
        local = remote.pull_records(str(store), plan.prepared.source.name)
    drive = Drive(plan, local, str(store), executor, retry_failed, watch, work, tell)
    if plan.search.method != "tpe":
        return drive.go(Listed(expand(plan)))
    executors.need("optuna", "optuna", "A guided search")
    from sftkit.course.sweep.search import Guided

    try:
        with held(sweep_folder(local, plan.name)):
            known = [m for m in manifests(local) if m["name"] == plan.name]
            before = known[0]["runs"] if known and known[0]["plan"] == plan.text else []
            chosen = {run["number"]: run["chosen"] for run in before}
            source = Guided(plan, [chosen[n] for n in sorted(chosen)], drive.folder_of)
            return drive.go(source)
    except Held as owner:
        raise RunError(
            f"This guided search is under way, by {owner}.", "Give the other plan a name."
        ) from None
