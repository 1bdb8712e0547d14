"""Campaigns whose jobs are dictionaries: what is missing, one job after the other.

A finished job is in the records at once, so a campaign may be interrupted at any time, and the
same command goes on. A record counts as long as its stamp, a hash of the corpus or the weights
that its run began with, stays what it is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import campaign

Job = dict[str, Any]
Record = dict[str, Any]

PRECISIONS = ("auto", "fp32", "bf16")
_chosen = {"precision": PRECISIONS[0]}


def precision() -> str:
    """In which precision `fit` trains: what ``--precision`` says. Records tell which it was."""
    return _chosen["precision"]


@dataclass(frozen=True)
class Campaign:
    """What the command line of a campaign needs to know about it.

    Args:
        script: The file that is run, which also names the records and documents the command.
        jobs: All jobs, in the order in which they are done and recorded.
        measure: Runs a job, given the records before it; what is recorded of it.
        stamp: The name of a record's stamp, and the stamp that a job's record must have; None
            where a record counts for ever.
        line: A job for people.
        told: What is printed of a record.
        guess: Seconds of one core for a job that is like none in the records.
        alike: The entries in which jobs must agree for one to take as long as the other.
        choice: An entry of the jobs; ``--<entry>`` chooses some of its values.
        command: What a record names as its origin; the script unless given.
        records: The file of the records; the script's name in ``records/`` unless given.
        precisions: What ``--precision`` offers, the first unless given. The measure asks
            `precision`.
    """

    script: Path
    jobs: Callable[[], list[Job]]
    measure: Callable[[Job, list[Record]], Record]
    stamp: tuple[str, Callable[[Job], str]] | None
    line: Callable[[Job], str]
    told: Callable[[Record], str]
    guess: Callable[[Job], float]
    alike: tuple[str, ...]
    choice: str = ""
    command: str = ""
    records: Path | None = None
    precisions: tuple[str, ...] = PRECISIONS

    @property
    def path(self) -> Path:
        """Where the records are."""
        return self.records or campaign.RECORDS.with_name(f"{self.script.stem}.json")

    @property
    def origin(self) -> str:
        """The command that a record names."""
        return self.command or f"python benchmarks/{self.script.name}"

    def read(self) -> list[Record]:
        """The runs recorded so far."""
        return campaign.read_records(self.path)

    def missing(self, runs: Sequence[Record], chosen: Sequence[Any] = ()) -> list[Job]:
        """The jobs without a record that counts; all, or those of the chosen values."""
        done = {str(run["job"]): run for run in runs}
        jobs = [job for job in self.jobs() if not chosen or job.get(self.choice) in chosen]
        return [job for job in jobs if not self._counts(job, done.get(str(job)))]

    def _counts(self, job: Job, record: Record | None) -> bool:
        return record is not None and self._stamped(job).items() <= record.items()

    def _stamped(self, job: Job) -> Record:
        """The entry that says what a record is of."""
        return {self.stamp[0]: self.stamp[1](job)} if self.stamp else {}

    def estimate(self, job: Job, runs: Sequence[Record]) -> float:
        """Seconds of one core: those of the jobs like it so far, or the guess."""
        alike = [r for r in runs if all(r["job"].get(k) == job.get(k) for k in self.alike)]
        if alike:
            return sum(r["processor_seconds"] for r in alike) / len(alike)
        return self.guess(job)

    def do(self, job: Job) -> Record:
        """Run a job and record it."""
        begin = time.process_time()
        record = {"job": job, "command": self.origin, **self.measure(job, self.read())}
        record |= self._stamped(job) | {
            "processor_seconds": round(time.process_time() - begin, 1),
            "machine": _machine(),
            "date": time.strftime("%Y-%m-%d"),
        }
        campaign.keep_run(self.path, record, self.jobs())
        return record

    def main(self, doc: str, arguments: Sequence[str] | None = None) -> None:
        """The command line: print what is missing, and do it unless it is a dry run.

        Args:
            doc: The script's documentation; its first line is shown by ``--help``.
        """
        parser = argparse.ArgumentParser(description=doc.split("\n")[0])
        parser.add_argument("--dry-run", action="store_true", help="print the plan only")
        parser.add_argument("--minutes", type=float, help="begin no run after so many")
        if self.choice:
            values = list(dict.fromkeys(job.get(self.choice) for job in self.jobs()))
            parser.add_argument(f"--{self.choice}", nargs="*", choices=values, dest="chosen")
        parser.add_argument("--precision", choices=self.precisions, default=self.precisions[0],
                            help="of what fit trains; auto is fp32 on CPU")  # fmt: skip
        options = parser.parse_args(arguments)
        _chosen["precision"] = options.precision
        try:
            self._work_off(vars(options).get("chosen") or (), options)
        except KeyboardInterrupt:
            sys.exit("interrupted; the same command goes on")

    def _work_off(self, chosen: Sequence[Any], options: argparse.Namespace) -> None:
        begin, runs = time.monotonic(), self.read()
        todo = self.missing(runs, chosen)
        minutes = sum(self.estimate(job, runs) for job in todo) / 60
        every = len(self.jobs())
        print(f"{len(todo)} of {every} runs to do, about {minutes:.0f} minutes of one core")
        for count, job in enumerate(todo):
            if options.dry_run:
                print(f"{self.line(job)}  about {self.estimate(job, runs):.0f} s")
                continue
            if options.minutes is not None and time.monotonic() - begin > 60 * options.minutes:
                print(f"{options.minutes:g} minutes are over; {len(todo) - count} are left")
                return
            told = self.told(self.do(job))
            print(f"{time.strftime('%H:%M')}  {self.line(job)}  {told}", flush=True)


def _machine() -> dict[str, Any]:
    """Processor and threads, and the precision of training."""
    from sftkit import device

    facts = device.facts()
    auto = precision() == "auto"
    used = device.auto_precision(facts["device"]) if auto else precision()
    return facts | {"precision": used}
