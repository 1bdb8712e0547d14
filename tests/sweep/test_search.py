"""Guided search: it learns, it prunes by learning curves, and it goes on where it was."""

from __future__ import annotations

import json

import pytest

from sftkit.course.sweep import sweep
from sftkit.course.sweep.store import manifest_of
from sftkit.errors import RunError
from tests.sweep.stubs import log_of, quick, times

SPACE = {
    "x": {"sample": "uniform", "low": -1.0, "high": 1.0},
    "kind": {"sample": "choice", "of": ["plain", "fancy"]},
    "extra": {"sample": "int", "low": 1, "high": 9, "when": {"kind": "fancy"}},
}


def guided(plan_of, runs, **search):
    options = {"method": "tpe", "startup": 5} | search
    return plan_of(SPACE, search=options, budget={"runs": runs})


def chosen(store) -> list[dict]:
    return [run["chosen"] for run in manifest_of(store)["runs"]]


def test_a_broken_search_goes_on_as_the_unbroken_one(plan_of, tmp_path, said) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    plan = guided(plan_of, 14)
    options = {"work": quick, "tell": said, "executor": "processes:1"}
    assert sweep(plan, store=whole, **options).done == 14

    def break_off(progress) -> None:
        if progress.done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(plan, store=broken, watch=break_off, **options)
    assert 8 <= len(chosen(broken)) < 14
    assert sweep(plan, store=broken, **options).done == 14
    assert chosen(broken) == chosen(whole)
    assert set(times(broken)) == set(times(whole))
    assert sum(times(whole).values()) == 14
    found = [c["x"] for c in chosen(whole)]
    assert sum(found[7:]) / 7 > sum(found[:5]) / 5  # it has learnt where x is good
    assert all(("extra" in c) == (c["kind"] == "fancy") for c in chosen(whole))


def test_a_search_is_driven_by_one_process(plan_of, tmp_path, said) -> None:
    from sftkit.files import held

    with held(tmp_path / "sweeps" / "p"):
        import threading

        raised: list[BaseException] = []

        def other() -> None:
            try:
                sweep(guided(plan_of, 3), store=tmp_path, work=quick, tell=said)
            except RunError as error:
                raised.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(raised) == 1 and "is under way" in str(raised[0])


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_unpromising_runs_are_given_up_by_their_curves(pruner, plan_of, tmp_path, said) -> None:
    plan = plan_of(
        {"x": {"sample": "choice", "of": [1.0, 0.9, 0.1, 0.2]}, "mode": "slow", "k": 9},
        search={
            "method": "tpe",
            "startup": 1,
            "pruner": pruner,
            "watch": "accuracy",
            "seed": 3,
        },
        budget={"runs": 6},
    )
    summary = sweep(plan, store=tmp_path, tell=said, executor="processes:1")
    assert summary.done + summary.stopped == 6 and summary.failed == 0
    if pruner == "median":
        assert summary.stopped >= 1
    stopped = list(tmp_path.glob("05_stub/*/stopped.json"))
    assert len(stopped) == summary.stopped
    for path in stopped:
        rows = json.loads((path.parent / "curves.json").read_text())["training"]
        assert len(rows) < 9
    begun = len(log_of(tmp_path))
    again = sweep(plan, store=tmp_path, tell=said, executor="processes:1")
    assert (again.fresh, again.stopped, len(log_of(tmp_path))) == (0, summary.stopped, begun)
