"""What the campaigns of single jobs share: nothing lost, nothing twice, estimates, stamps."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks import entities, label_curve, questions, search, summaries, translation
from benchmarks.jobs import PRECISIONS, Campaign, precision
from sftkit import device
from sftkit.files import PACKAGE

MODULES = (entities, label_curve, questions, search, summaries, translation)
ALL = [module.CAMPAIGN for module in MODULES]
NAMES = [one.script.stem for one in ALL]


@pytest.fixture
def small(tmp_path) -> Campaign:
    """Three jobs that take no time."""
    jobs = [{"group": g, "seed": s} for g, s in (("a", 0), ("b", 0), ("b", 1))]
    return Campaign(
        tmp_path / "small.py",
        lambda: jobs,
        lambda job, runs: {"value": job["seed"], "before": len(runs)},
        stamp=("corpus", lambda job: "now"),
        line=lambda job: f"{job['group']} {job['seed']}",
        told=lambda record: f"value {record['value']}",
        guess=lambda job: 60.0,
        alike=("group",),
        choice="group",
        records=tmp_path / "records.json",
    )


@pytest.mark.parametrize("one", ALL, ids=NAMES)
def test_no_job_is_there_twice_and_each_has_a_line_and_a_guess(one) -> None:
    jobs = one.jobs()
    assert len({str(job) for job in jobs}) == len(jobs)
    assert len({one.line(job) for job in jobs}) == len(jobs)
    assert all(one.guess(job) > 0 for job in jobs)


@pytest.mark.parametrize("one", ALL, ids=NAMES)
def test_committed_records_are_of_what_is_committed(one) -> None:
    runs = one.read()
    left = one.missing(runs)
    for run in runs:
        assert run["job"] in one.jobs() and run["job"] not in left
        assert run["processor_seconds"] > 0
        if one is not search.CAMPAIGN:  # its records are older than the entry
            assert run["command"] == one.origin


@pytest.mark.parametrize("one", ALL, ids=NAMES)
def test_a_dry_run_says_what_and_how_long(one, capsys, monkeypatch) -> None:
    monkeypatch.setattr(type(one), "do", lambda *_: pytest.fail("it ran"))
    one.main("What it is for.", ["--dry-run"])
    assert f"of {len(one.jobs())} runs to do, about" in capsys.readouterr().out


def test_the_script_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/translation.py", "--help"],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert translation.__doc__.split("\n")[0] in " ".join(done.stdout.split())


def test_a_campaign_is_worked_off_once_and_in_order(small, capsys) -> None:
    small.do(small.jobs()[1])
    small.main("doc", [])
    assert "2 of 3 runs to do" in capsys.readouterr().out
    runs = small.read()
    assert [r["job"] for r in runs] == small.jobs() and small.missing(runs) == []
    assert [r["before"] for r in runs] == [1, 0, 2]  # each sees the records before it
    assert small.path.name == "records.json"
    small.main("doc", [])
    assert "0 of 3" in capsys.readouterr().out and small.read() == runs


@pytest.mark.parametrize("asked", PRECISIONS)
def test_a_record_says_in_which_precision_it_was_trained(small, asked) -> None:
    asking = replace(small, measure=lambda job, runs: {"value": 0, "used": precision()})
    try:
        asking.main("doc", ["--precision", asked])
    finally:
        small.main("doc", [])  # no option: back to what holds unless given
    expected = device.auto_precision(device.best_device()) if asked == "auto" else asked
    for run in small.read():
        assert (run["used"], run["machine"]["precision"]) == (asked, expected)


def test_a_precision_that_does_not_apply_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        search.CAMPAIGN.main("doc", ["--dry-run", "--precision", "bf16"])
    assert "--precision" in capsys.readouterr().err


def test_an_interrupted_campaign_keeps_what_is_done_and_goes_on(small) -> None:
    def breaks(job, runs):
        if runs:
            raise KeyboardInterrupt
        return {"value": 0}

    with pytest.raises(SystemExit, match="the same command goes on"):
        replace(small, measure=breaks).main("doc", [])
    assert [r["job"] for r in small.read()] == small.jobs()[:1]
    small.main("doc", [])
    assert small.missing(small.read()) == []


def test_a_record_counts_as_long_as_its_stamp_stays(small) -> None:
    small.main("doc", [])
    later = replace(small, stamp=("corpus", lambda job: "later" if job["seed"] else "now"))
    assert later.missing(later.read()) == [job for job in small.jobs() if job["seed"]]
    later.main("doc", [])
    assert later.missing(later.read()) == [] and len(later.read()) == 3


def test_without_a_stamp_a_record_counts_for_ever(small) -> None:
    always = replace(small, stamp=None, command="make small")
    always.main("doc", [])
    assert always.missing(always.read()) == []
    assert {run["command"] for run in always.read()} == {"make small"}
    assert "corpus" not in always.read()[0]


def test_some_jobs_can_be_chosen_and_time_runs_out(small, capsys) -> None:
    small.main("doc", ["--minutes", "-1"])
    assert "3 are left" in capsys.readouterr().out and small.read() == []
    small.main("doc", ["--group", "b"])
    assert [r["job"]["group"] for r in small.read()] == ["b", "b"]
    with pytest.raises(SystemExit):
        small.main("doc", ["--group", "c"])
    assert "invalid choice: 'c'" in capsys.readouterr().err


def test_estimates_come_from_records_of_jobs_like_it(small) -> None:
    runs = [{"job": {"group": "b", "seed": s}, "processor_seconds": 10.0 * s} for s in (1, 2)]
    assert small.estimate({"group": "b", "seed": 7}, runs) == 15.0
    assert small.estimate({"group": "a", "seed": 0}, runs) == 60.0
