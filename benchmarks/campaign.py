"""The runs of notebook 07 behind the README's table and the notebook's label curve.

    python benchmarks/campaign.py --dry-run        # the plan, with an estimate of the time
    python benchmarks/campaign.py                  # everything that is missing
    python benchmarks/campaign.py label-curve      # one group
    python benchmarks/campaign.py --minutes 60     # begin no run after an hour

It may be interrupted at any time: a finished run is in the records, an unfinished one goes
on from its last checkpoint. A record counts until it is made again with ``--force``; it has
the hashes of notebook and package, and the plan marks the runs whose hashes have changed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sftkit.files import locked, read_json, write_json  # noqa: E402

RECORDS = ROOT / "benchmarks" / "records" / "classification.json"
NOTEBOOK = "07"
GROUPS = ("label-curve", "benchmarks")
SEEDS = (0, 1, 2)
EPOCHS_AT = {100: 20, 300: 10, 1000: 5, 4000: 2}  # small sets need passes to get steps

# Training rows, rows that are only predicted, tokens a row at the limit used here: for the
# estimate of time alone.
SIZES = {
    "tweets": (30_526, 4_816, 33),
    "reuters-r8": (4_937, 2_737, 81),
    "reuters-r52": (5_874, 3_226, 83),
    "news-topics": (5_000, 2_000, 114),
    "newsgroups": (10_164, 8_528, 178),
}
TOKENS_PER_SECOND = 5_000.0  # forward passes, before there are records to learn from
OVERHEAD = 45.0  # seconds of a run outside the model: kernel, imports, baselines, figures

Run = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """One run: its group, and the parameters that differ from the notebook's defaults."""

    group: str
    parameters: dict[str, Any]

    @property
    def key(self) -> str:
        """What makes two jobs the same."""
        return f"{self.group} {sorted(self.parameters.items())}"

    @property
    def title(self) -> str:
        p = self.parameters
        rows = f"{p['limit']:,} labels" if p["limit"] else "all labels"
        return f"{self.group:11}  {p['data']:11}  {rows:12}  seed {p['seed']}"

    def work(self) -> float:
        """Tokens passed forward; a training step counts three times."""
        rows, others, tokens = SIZES[self.parameters["data"]]
        rows = min(rows, self.parameters["limit"] or rows)
        passes = 3 * self.parameters["epochs"] + 1  # once for the frozen features
        watched = 1_000 * self.parameters["epochs"] + 2 * others
        return tokens * (rows * passes + watched)


def jobs() -> list[Job]:
    """All runs, cheap and important ones first."""
    curve = [
        # Many short epochs: a smaller part of the validation split is looked at after each.
        _job("label-curve", "tweets", seed, limit, epochs, validation_rows=500)
        for seed in SEEDS
        for limit, epochs in EPOCHS_AT.items()
    ]
    long = {"max_length": 128}
    return [
        *curve,
        *(_job("benchmarks", "reuters-r8", seed, 0, 3, lr=2e-4, **long) for seed in SEEDS),
        *(_job("benchmarks", "tweets", seed, 0, 1) for seed in SEEDS),
        *(_job("benchmarks", "news-topics", seed, 0, 2, **long) for seed in SEEDS),
        _job("benchmarks", "reuters-r52", 0, 0, 4, lr=2e-4, **long),
        _job("benchmarks", "newsgroups", 0, 0, 2, max_length=256),
    ]


def _job(group: str, data: str, seed: int, limit: int, epochs: int, **more: Any) -> Job:
    parameters = {"data": data, "limit": limit, "seed": seed, "epochs": epochs}
    return Job(group, parameters | {"test_rows": 0, "hand_steps": 0} | more)


def read_records(path: Path = RECORDS) -> list[dict[str, Any]]:
    """The runs recorded so far."""
    return read_json(path)["runs"] if path.is_file() else []


def merge(
    records: list[dict[str, Any]], new: dict[str, Any], order: Iterable[Job]
) -> list[dict[str, Any]]:
    """The records with one added or replaced, in the order of the campaign."""
    position = {job.key: i for i, job in enumerate(order)}
    by_key = {_key(record): record for record in records} | {_key(new): new}
    return sorted(by_key.values(), key=lambda r: position.get(_key(r), len(position)))


def keep_run(path: Path, done: dict[str, Any], order: Iterable[dict[str, Any]]) -> None:
    """Add a run to records whose jobs are dictionaries; safe beside other processes."""
    with locked(path.with_name(f".{path.name}.lock")):
        runs = [r for r in read_records(path) if r["job"] != done["job"]] + [done]
        place = {str(known): i for i, known in enumerate(order)}
        runs.sort(key=lambda r: place.get(str(r["job"]), len(place)))
        write_json(path, {"runs": runs})


def _key(record: dict[str, Any]) -> str:
    return Job(record["group"], record["parameters"]).key


def as_record(job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run's ``result.json``."""
    timings = {k: v for k, v in result["timings"].items() if k != "cells"}
    facts = ("device", "threads", "cores", "machine", "gflops")
    return {
        "group": job.group,
        "parameters": job.parameters,
        "metrics": result["metrics"],
        "timings": timings,
        "versions": result["versions"],
        "machine": {name: result.get(name) for name in facts} | {"processor": _processor()},
        "hash": result["hash"],
        "hashes": {name: result["hashes"][name] for name in ("notebook", "package")},
        "resumed": result["resumed"],
        "date": timings["started"][:10],
    }


def _processor() -> str:
    from sftkit import device

    return device.facts()["device_name"]


def estimate(job: Job, records: list[dict[str, Any]]) -> float:
    """Seconds, at the speed of the runs recorded so far."""
    work = sum(Job(r["group"], r["parameters"]).work() for r in records)
    needed = sum(max(r["timings"]["seconds"] - OVERHEAD, 1.0) for r in records)
    rate = work / needed if records else TOKENS_PER_SECOND
    return OVERHEAD + job.work() / rate


def run_notebook(
    parameters: dict[str, Any], notebook: str = NOTEBOOK, force: bool = False
) -> dict[str, Any]:
    """Run a notebook, or go on from its last checkpoint. Returns its ``result.json``."""
    from sftkit.course.run import run

    store = ROOT / "runs"
    return run(notebook, parameters, store=store, force=force, resume=not force).data


def accuracy_line(record: dict[str, Any]) -> str:
    """What is printed of a run."""
    return f"accuracy {100 * record['metrics']['tuned']['accuracy']['value']:.1f} %"


def current_hashes() -> dict[str, str]:
    """Hashes of notebook and package as they are now."""
    from sftkit.course.run import plan

    parts = plan(NOTEBOOK, {}).parts
    return {name: parts[name] for name in ("notebook", "package")}


def show_plan(
    chosen: list[Job], records: list[dict[str, Any]], hashes: dict[str, str], force: bool
) -> list[Job]:
    """Print the plan; return what is to be run."""
    done = {_key(record): record for record in records}
    todo = [job for job in chosen if force or job.key not in done]
    for job in chosen:
        if job in todo:
            state = f"about {estimate(job, records) / 60:.0f} min"
        else:
            record = done[job.key]
            state = f"done {record['date']}"
            state += "" if record["hashes"] == hashes else ", with an older version"
        print(f"{job.title}  {state}")
    minutes = sum(estimate(job, records) for job in todo) / 60
    print(f"{len(todo)} of {len(chosen)} runs to do, about {minutes:.0f} minutes")
    return todo


def work_off(
    todo: Sequence[Job],
    run: Run,
    path: Path = RECORDS,
    minutes: float | None = None,
    order: Iterable[Job] | None = None,
    told: Callable[[dict[str, Any]], str] = accuracy_line,
) -> int:
    """Run jobs one after the other; the records are whole after each. Returns how many.

    Args:
        order: All jobs of the campaign, in the order of the records; those of this one.
        told: What is printed of a record.
    """
    started, plan = time.monotonic(), list(order or jobs())
    for count, job in enumerate(todo):
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            print(f"{minutes:g} minutes are over; {len(todo) - count} runs are left")
            return count
        print(f"{time.strftime('%H:%M')}  {job.title}", flush=True)
        record = as_record(job, run(job.parameters))
        with locked(path.with_name(f".{path.name}.lock")):
            write_json(path, {"runs": merge(read_records(path), record, plan)})
        print(f"       {told(record)}, {record['timings']['seconds']:.0f} s", flush=True)
    return len(todo)


def options_of(
    arguments: list[str] | None, doc: str, groups: Sequence[str]
) -> argparse.Namespace:
    """The command line that the notebooks' campaigns share."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(groups))
    parser.add_argument("--dry-run", action="store_true", help="print the plan only")
    parser.add_argument("--minutes", type=float, help="begin no run after so many")
    parser.add_argument("--force", action="store_true", help="also what is recorded already")
    options = parser.parse_args(arguments)
    if unknown := set(options.groups) - set(groups):
        parser.error(f"there is no group {', '.join(sorted(unknown))}; there are {groups}")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments, __doc__, GROUPS)
    chosen = [job for job in jobs() if job.group in (options.groups or GROUPS)]
    todo = show_plan(chosen, read_records(), current_hashes(), options.force)
    if not options.dry_run:
        work_off(todo, lambda p: run_notebook(p, force=options.force), minutes=options.minutes)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
