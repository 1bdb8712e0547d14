"""A guided search: Optuna's TPE over a plan's space, with pruning by learning curves.

Trial by trial, the sampler is seeded anew from the plan's seed and the trial's number, and
what it knows is rebuilt from the records of the runs. A search that was interrupted therefore
goes on as if it had not been (with one run at a time, exactly so).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sftkit.course.run import CURVES_FILE
from sftkit.course.sweep.plan import Plan
from sftkit.course.sweep.runs import Run, copies, defaults
from sftkit.course.sweep.store import metric_of
from sftkit.files import read_json
from sftkit.teach.progress import STOP_FILE


class Guided:
    """Gives the runs of a guided search, one configuration after the other.

    Args:
        plan: With ``search: tpe``.
        known: The configurations that an earlier start of this search has chosen, in order.
        folder_of: Where a run's files are.
    """

    def __init__(
        self, plan: Plan, known: list[dict[str, Any]], folder_of: Callable[[Run], Path]
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.plan, self.folder_of, self.optuna = plan, folder_of, optuna
        self.study = optuna.create_study(
            study_name=plan.name,
            direction="maximize" if plan.maximize else "minimize",
            pruner=self._pruner(),
        )
        assert plan.most_runs is not None
        self.wanted = plan.most_runs // plan.copies
        self.total = self.wanted * plan.copies
        self.trials: list[_Trial] = []
        self.waiting = [copies(plan, n, chosen) for n, chosen in enumerate(known)]
        self.waiting = self.waiting[: self.wanted]

    def _pruner(self) -> Any:
        pruners = self.optuna.pruners
        if self.plan.search.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=self.plan.search.startup)
        if self.plan.search.pruner == "hyperband":
            return pruners.HyperbandPruner()
        return pruners.NopPruner()

    @property
    def runs(self) -> list[Run]:
        """All runs so far chosen, also those of an earlier start."""
        now = [run for trial in self.trials for run in trial.runs]
        return now + [run for runs in self.waiting for run in runs]

    def take(self) -> list[Run]:
        """The runs of the next configuration; none when there are enough.

        With a pruner, the first seed's run decides whether the others are worth it: they
        come by `more`, when it is done.
        """
        if len(self.trials) >= self.wanted:
            return []
        number = len(self.trials)
        search = self.plan.search
        self.study.sampler = self.optuna.samplers.TPESampler(
            n_startup_trials=search.startup,
            seed=zlib.crc32(f"{search.seed} {number}".encode()),
            constant_liar=True,
        )
        runs = self.waiting.pop(0) if self.waiting else None
        if runs is not None:
            self.study.enqueue_trial(self._optuna_values(runs[0].chosen))
        asked = self.study.ask()
        chosen = self._suggest(asked)
        if runs is None:
            runs = copies(self.plan, number, chosen)
        self.trials.append(_Trial(asked, runs))
        return runs[:1] if search.pruner != "none" else runs

    def _suggest(self, trial: Any) -> dict[str, Any]:
        """Ask for each parameter that counts, those of conditions after what they name."""
        known = defaults(self.plan)
        chosen: dict[str, Any] = {}
        for entry in self.plan.entries:
            if not entry.holds(known | chosen):
                continue
            if not entry.varies:
                chosen[entry.name] = entry.values[0]
            elif entry.sample in ("", "choice"):
                names = [repr(value) for value in entry.values]  # lists are no categories
                found = trial.suggest_categorical(entry.name, names)
                chosen[entry.name] = entry.values[names.index(found)]
            elif entry.is_int:
                log = entry.sample == "log-uniform"
                low, high = int(entry.low), int(entry.high)
                chosen[entry.name] = trial.suggest_int(entry.name, low, high, log=log)
            else:
                log = entry.sample == "log-uniform"
                # Not rounded: the search must find in its records what it asked for.
                chosen[entry.name] = trial.suggest_float(
                    entry.name, entry.low, entry.high, log=log
                )
        return chosen

    def _optuna_values(self, chosen: dict[str, Any]) -> dict[str, Any]:
        values = {}
        for entry in self.plan.entries:
            if entry.name in chosen and entry.varies:
                value = chosen[entry.name]
                values[entry.name] = repr(value) if entry.sample in ("", "choice") else value
        return values

    def land(self, run: Run, state: str, data: dict[str, Any] | None) -> list[Run]:
        """Take in what became of a run; returns further runs of its configuration."""
        trial = self.trials[run.number]
        if trial.told:
            return []
        trial.states[run.hash] = state
        if run is trial.runs[0]:
            self._report(trial, (data or {}).get("curves") or self._curves(run))
        if state == "done" and data is not None:
            value = metric_of(data, self.plan.metric, self.plan.maximize)
            if value is not None:
                trial.values.append(value)
        if state == "stopped":
            self.study.tell(trial.asked, state=self.optuna.trial.TrialState.PRUNED)
            trial.told = True
            return []
        first_alone = self.plan.search.pruner != "none" and len(trial.states) == 1
        if first_alone and state == "done" and len(trial.runs) > 1:
            return trial.runs[1:]
        if first_alone or len(trial.states) == len(trial.runs):
            self._tell(trial)
        return []

    def _tell(self, trial: _Trial) -> None:
        if trial.values:
            self.study.tell(trial.asked, sum(trial.values) / len(trial.values))
        else:
            self.study.tell(trial.asked, state=self.optuna.trial.TrialState.FAIL)
        trial.told = True

    def watch(self, under_way: list[Run]) -> list[Run]:
        """Read the learning curves of runs under way; ask the unpromising ones to stop."""
        if self.plan.search.pruner == "none":
            return []
        stopped = []
        for run in under_way:
            trial = self.trials[run.number]
            if run is not trial.runs[0] or trial.told or trial.asked_to_stop:
                continue
            self._report(trial, self._curves(run))
            if trial.reported and trial.asked.should_prune():
                (self.folder_of(run) / STOP_FILE).touch()
                trial.asked_to_stop = True
                stopped.append(run)
        return stopped

    def _curves(self, run: Run) -> dict[str, list[dict[str, float]]]:
        try:
            return read_json(self.folder_of(run) / CURVES_FILE)
        except (OSError, ValueError):
            return {}

    def _report(self, trial: _Trial, curves: dict[str, list[dict[str, float]]]) -> None:
        name = self.plan.search.watch
        values = [row[name] for rows in curves.values() for row in rows if name in row]
        for step in range(trial.reported, len(values)):
            trial.asked.report(values[step], step + 1)
        trial.reported = max(trial.reported, len(values))


class _Trial:
    """One configuration of the search: its runs, and what is known of them."""

    def __init__(self, asked: Any, runs: list[Run]) -> None:
        self.asked, self.runs = asked, runs
        self.states: dict[str, str] = {}
        self.values: list[float] = []
        self.reported = 0
        self.told = self.asked_to_stop = False
