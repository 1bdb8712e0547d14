"""The campaign of notebook 13: its plan, what is recorded, and that it goes on."""

from __future__ import annotations

import pytest

from benchmarks import campaign, instruction
from sftkit.course import notebooks
from sftkit.course.parameters import parse

FACTS = {
    "timings": {"seconds": 300.0, "started": "2030-01-02T03:04", "cells": []},
    "versions": {}, "hash": "h", "hashes": {"notebook": "n", "package": "p"}, "resumed": False,
}  # fmt: skip


def done(parameters):
    share = 0.5 + 0.1 * parameters["seed"]
    return FACTS | {"metrics": {"following": {"value": share}}}


def test_every_run_is_there_once_and_its_parameters_are_the_notebooks():
    jobs = instruction.jobs()
    assert len({job.key for job in jobs}) == len(jobs)
    assert {job.group for job in jobs} == set(instruction.GROUPS)
    source = notebooks.find("13")
    cell = notebooks.parameters_cell(notebooks.read(source))
    known = {p.name: p.default for p in parse(cell.source, source.name)}
    for job in jobs:
        assert set(job.parameters) <= set(known)
        varied = {k: v for k, v in job.parameters.items() if k != "seed"}
        assert not any(known[k] == v for k, v in varied.items()), "a run with the default"


def test_it_is_small_and_the_seeds_are_where_the_comparisons_are():
    jobs = instruction.jobs()
    assert len(jobs) <= 30 and sum(job.seconds() for job in jobs) < 300 * 60
    for group in ("live", "all", "long"):
        assert [j.parameters["seed"] for j in jobs if j.group == group][:3] == [0, 1, 2]
    rates = [(j.parameters["lr"], j.parameters["seed"]) for j in jobs if j.group == "rates"]
    assert len(set(rates)) == len(rates) == 3 * len(instruction.RATES)
    assert {*instruction.GROUPS} >= {"neftune", "prompt_weight", "rejection", "distillation"}


def test_the_plan_is_worked_off_once_and_goes_on(tmp_path, capsys):
    path, jobs = tmp_path / "records.json", instruction.jobs()[:4]
    assert instruction.work_off(jobs[:2], done, path) == 2
    todo = instruction.todo_of(jobs, campaign.read_records(path), force=False)
    assert todo == jobs[2:] and "2 of 4 runs to do" in capsys.readouterr().out
    assert instruction.work_off(todo, done, path) == 2
    records = campaign.read_records(path)
    assert [r["parameters"] for r in records] == [job.parameters for job in jobs]
    assert instruction.todo_of(jobs, records, force=False) == []
    assert instruction.todo_of(jobs, records, force=True) == jobs
    assert instruction.work_off(jobs, done, path, minutes=-1) == 0


def test_a_dry_run_runs_nothing(monkeypatch, capsys):
    monkeypatch.setattr(campaign, "run_notebook", lambda *_, **__: pytest.fail("it ran"))
    instruction.main(["rates", "--dry-run"])
    out = capsys.readouterr().out
    assert "lr=0.0005" in out and "runs to do" in out
    with pytest.raises(SystemExit):
        instruction.main(["nothing"])
