"""Longer runs of notebook 13: learning rates, all parameters, more data, epochs, no mask.

    python benchmarks/instruction.py --dry-run       # the plan, with an estimate of the time
    python benchmarks/instruction.py                 # everything that is missing
    python benchmarks/instruction.py rates           # one group
    python benchmarks/instruction.py --minutes 60    # begin no run after an hour

It may be interrupted at any time: a finished run is in the records, an unfinished one goes on
from its last checkpoint. A record counts until it is made again with ``--force``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import campaign  # noqa: E402

RECORDS = ROOT / "benchmarks" / "records" / "instruction.json"
NOTEBOOK = "13"
GROUPS = ("live", "rates", "all", "data", "epochs", "prompts", "plain")
SEEDS = (0, 1, 2)
TESTED = 96  # held-out tasks; the notebook answers fewer
# For the estimate: seconds of one thread per training conversation, and for all the rest.
PER_ROW = {"lora": 0.6, "all": 0.7}
AROUND = 260.0


@dataclass(frozen=True)
class Job(campaign.Job):
    """One run: its group, and the parameters that differ from the notebook's defaults."""

    @property
    def title(self) -> str:
        p = {k: v for k, v in self.parameters.items() if k not in ("eval_rows", "seed")}
        facts = ", ".join(f"{k}={v}" for k, v in p.items()) or "the notebook's parameters"
        return f"{self.group:8} {facts:44} seed {self.parameters['seed']}"

    def seconds(self) -> float:
        """An estimate for one thread."""
        rows = self.parameters.get("train_rows", 360) * self.parameters.get("epochs", 1.0)
        return AROUND + rows * PER_ROW[self.parameters.get("train", "lora")]


def jobs() -> list[Job]:
    """All runs, cheap and important ones first."""
    return [
        *(_job("live", seed) for seed in SEEDS),
        *(_job("rates", seed, lr=lr) for lr in (5e-4, 1e-3, 4e-3) for seed in SEEDS),
        *(_job("all", seed, train="all", lr=lr) for lr in (5e-5, 2e-4) for seed in SEEDS),
        *(_job("data", seed, train_rows=rows) for rows in (80, 1000) for seed in SEEDS),
        *(_job("prompts", seed, learn_prompts=True) for seed in SEEDS),
        *(_job("plain", seed, template="plain") for seed in SEEDS),
        # One epoch too many: what it does to the held-out loss and to the news.
        *(_job("epochs", seed, epochs=epochs) for epochs in (3.0, 8.0) for seed in SEEDS[:2]),
        _job("epochs", 0, train="all", lr=2e-4, epochs=8.0),
    ]


def _job(group: str, seed: int, **more: Any) -> Job:
    return Job(group, {"seed": seed, "eval_rows": TESTED} | more)


def todo_of(chosen: list[Job], records: list[dict[str, Any]], force: bool) -> list[Job]:
    """Print the plan; return what is to be run."""
    done = {Job(r["group"], r["parameters"]).key: r for r in records}
    todo = [job for job in chosen if force or job.key not in done]
    for job in chosen:
        known = done.get(job.key)
        again = job in todo
        state = f"about {job.seconds() / 60:.0f} min" if again or not known else known["date"]
        print(f"{job.title}  {state}")
    minutes = sum(job.seconds() for job in todo) / 60
    print(f"{len(todo)} of {len(chosen)} runs to do, about {minutes:.0f} minutes on one core")
    return todo


def work_off(
    todo: list[Job], run: campaign.Run, path: Path = RECORDS, minutes: float | None = None
) -> int:
    """Run jobs one after the other; the records are whole after each. Returns how many."""
    return campaign.work_off(todo, run, path, minutes, jobs(), _line)


def _line(record: dict[str, Any]) -> str:
    return f"does what is asked: {100 * record['metrics']['following']['value']:.0f} %"


def main(arguments: list[str] | None = None) -> None:
    options = campaign.options_of(arguments, __doc__, GROUPS)
    chosen = [job for job in jobs() if job.group in (options.groups or GROUPS)]
    todo = todo_of(chosen, campaign.read_records(RECORDS), options.force)
    if not options.dry_run:
        run = partial(campaign.run_notebook, notebook=NOTEBOOK, force=options.force)
        work_off(todo, run, minutes=options.minutes)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
