"""Longer runs of notebook 13: other jobs, all parameters, rates, weights for prompts, noise.

    python benchmarks/instruction.py --dry-run       # the plan, with an estimate of the time
    python benchmarks/instruction.py                 # everything that is missing
    python benchmarks/instruction.py rates           # one group
    python benchmarks/instruction.py --minutes 60    # begin no run after an hour

What has a goal has three seeds: ``live`` (the notebook's own parameters), ``all`` (every
parameter trained), ``long`` (3,000 conversations), and the documentation. Everything else is
compared with ``short``, which is ``live`` with 360 conversations, three seeds too. So have the
learning rates; the rest have one seed each: a difference within the range of three seeds is
none.

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
GROUPS = (
    "live",
    "all",
    "long",
    "short",
    "rates",
    "top",
    "documentation",
    "languages",
    "plain",
    "neftune",
    "prompt_weight",
    "rejection",
    "distillation",
    "epochs",
)
SEEDS = (0, 1, 2)
RATES = (5e-4, 8e-3)
SHORT, LONG = {"train_rows": 360}, {"train_rows": 3_000}
# Of every run: more held-out tasks than the notebook answers, and no time for the clock.
COMMON = {"eval_rows": 48, "steps_timed": 4}
MORE = {"eval_rows": 96}  # of what has a goal, and of jobs whose kinds are looked at apart
# For the estimate: seconds of one thread per training conversation, and for all the rest (a run
# of 60 conversations and 12 tasks took 273 of processor time beside other work, 2026-11-23).
PER_ROW = {"lora": 0.4, "all": 0.55, "top-15": 0.35}
AROUND = 160.0
LONGER = {"documentation": 2.5}  # its prompts have so many times the tokens
PER_NEW_TASK = 4.0  # four answers drawn, learnt, and up to two test tasks answered
PER_TEACHER_ANSWER = 1.0  # written by the large model, learnt by the small one
PER_SMALL_TEXT = 0.15


@dataclass(frozen=True)
class Job(campaign.Job):
    """One run: its group, and the parameters that differ from the notebook's defaults."""

    @property
    def title(self) -> str:
        p = {k: v for k, v in self.parameters.items() if k not in (*COMMON, "seed")}
        facts = ", ".join(f"{k}={v}" for k, v in p.items()) or "the notebook's parameters"
        return f"{self.group:13} {facts:50} seed {self.parameters['seed']}"

    def seconds(self) -> float:
        """An estimate for one thread."""
        p = self.parameters
        rows = p.get("train_rows", 1_400) * p.get("epochs", 1.0)
        rows *= LONGER.get(p.get("data", ""), 1.0)
        more = PER_NEW_TASK * p.get("new_tasks", 0)
        more += PER_TEACHER_ANSWER * p.get("teacher_answers", 0)
        more += PER_SMALL_TEXT * p.get("small_texts", 0)
        return AROUND + rows * PER_ROW[p.get("train", "lora")] + more


def jobs() -> list[Job]:
    """All runs, important ones first."""
    return [
        *(_job("live", seed, **MORE) for seed in SEEDS),
        *(_job("all", seed, train="all", lr=2e-4, **MORE) for seed in SEEDS),
        *(_job("long", seed, **LONG, **MORE) for seed in SEEDS),
        *(_job("short", seed, **SHORT) for seed in SEEDS),
        # A quarter of the notebook's own, 2e-3, and four times as much.
        *(_job("rates", seed, lr=lr, **SHORT) for lr in RATES for seed in SEEDS),
        _job("top", 0, train="top-15", lr=5e-4, **SHORT),
        *(_job("documentation", seed, data="documentation", **SHORT, **MORE) for seed in SEEDS),
        _job("languages", 0, data="languages", **SHORT, **MORE),
        # The model's own template withheld: marks of turns that it has never seen as such.
        _job("plain", 0, template="plain", **SHORT),
        _job("neftune", 0, neftune=5.0, **SHORT),
        *(_job("prompt_weight", 0, prompt_weight=weight, **SHORT) for weight in (0.1, 1.0)),
        # Few training rows: where all answers are right already there is nothing to gain.
        _job("rejection", 0, train_rows=120, new_tasks=40),
        _job("distillation", 0, train_rows=120, teacher_answers=160, small_texts=320),
        # Too many passes over few rows: what they do to the tasks and to the news.
        _job("epochs", 0, train_rows=80, epochs=6.0),
    ]


def _job(group: str, seed: int, **more: Any) -> Job:
    return Job(group, {"seed": seed, **COMMON, **more})


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
