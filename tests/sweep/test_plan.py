"""Plans: read with line numbers, checked as a whole, expanded without repeats."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from sftkit.course import notebooks as notebooks_module
from sftkit.course.sweep import Plan, expand
from sftkit.course.sweep.runs import configurations
from sftkit.errors import ParameterError

WRONG = """\
notebook: "5"
parameters:
  x: [1, fast]
  z: 3
  kind: no
  k: {sample: int, low: 5, high: 2}
  extra: {from: 8, to: 32}
  out: x
  mode:
    when: {kind: nothing}
    values: [ok, fail, ok]
search: tpe
budgets: {}
seeds: [1, 1]
retries: -1
"""


def problems(text: str, folder: Path, tmp_path: Path) -> str:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError) as caught:
        Plan.read(path, folder)
    return str(caught.value)


def test_everything_wrong_is_said_at_once_with_its_line(notebooks, tmp_path) -> None:
    lines = problems(WRONG, notebooks, tmp_path).splitlines()
    assert lines[0].startswith("plan.yaml has 12 problems; nothing was run.")
    assert [line.strip().split(":")[0] for line in lines[1:]] == [
        "line 3, parameters.x",
        "line 4, parameters.z",
        "line 5, parameters.kind",
        "line 6, parameters.k.high",
        "line 7, parameters.extra",
        "line 8, parameters.out",
        "line 11, parameters.mode.values",
        "line 12, search",
        "line 12, search",
        "line 13, budgets",
        "line 14, seeds",
        "line 15, retries",
    ]
    assert "must be of type float, not 'fast'" in lines[1]
    assert "YAML reads a bare yes, no, on, off as true, false" in lines[3]
    assert "did you mean budget?" in lines[10]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 1, this is not YAML"),
        ("notebook: '5'\nx: \t1\n  y: 2", "line 2, this is not YAML"),
        ("name: a\nname: b", r"line 2, 'name' is there twice \(see line 1\)"),
        ("name: &x a\nseeds: *x", "line 1, seeds: anchors and aliases"),
        ("notebook: 2020-01-01", "line 1, notebook: 2020-01-01 is read as a date: use quotes"),
        ("- 1", "line 1, a plan begins with names"),
        ("", "'notebook' is missing"),
        ("1: x", "the name 1 must be a text"),
        ("notebook: '77'", "line 1, notebook: There is no notebook 77"),
    ],
)
def test_what_is_no_plan_is_refused(text, message, notebooks, tmp_path) -> None:
    import re

    assert re.search(message, problems(text, notebooks, tmp_path))


def test_nothing_in_a_plan_is_executed(notebooks, tmp_path) -> None:
    mark = tmp_path / "mark"
    text = f"notebook: !!python/object/apply:pathlib.Path.touch ['{mark}']"
    problems(text, notebooks, tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("parameters", "more", "message"),
    [
        ({"x": {"sample": "uniform", "low": 0, "high": 1}}, {}, "a grid cannot go through"),
        ({"x": [1, 2]}, {"search": "random"}, "random search needs budget"),
        ({"x": 1.0}, {"search": "random", "budget": {"runs": 3}}, "nothing varies"),
        (
            {"x": [1, 2]},
            {"search": {"method": "random", "pruner": "median"}, "budget": {"runs": 3}},
            "a pruner goes with method: tpe",
        ),
        (
            {"x": [1, 2]},
            {"search": {"method": "tpe", "pruner": "median"}, "budget": {"runs": 3}},
            "a pruner needs watch",
        ),
        (
            {"x": [1, 2]},
            {"search": "random", "budget": {"runs": 3}, "seeds": 2, "repetitions": 2},
            "3 runs are not enough for one configuration with its 4",
        ),
        ({"x": {"from": 0, "to": 1, "count": 3, "scale": "log"}}, {}, "must be above 0"),
        ({"x": {"from": 1, "to": 2, "step": 0}}, {}, "step must be above 0"),
        ({"x": {"from": 1, "to": 1, "count": 2}}, {}, "must be below"),
        ({"kind": {"from": 1, "to": 2, "count": 2}}, {}, "is no number"),
        ({"x": {"values": [1], "step": 2}}, {}, "'step' is not known here"),
        ({"x": {"sample": "gauss"}}, {}, "sample is one of"),
        ({"x": []}, {}, "with at least one"),
        ({"x": [1, 1.0]}, {}, "listed twice"),
        ({"seed": [0, 1]}, {"seeds": 2}, "the seed is also under 'seeds'"),
        ({"extra": {"values": [1], "when": {"kind": "odd"}}}, {}, "kind is never 'odd' here"),
        (
            {
                "extra": {"values": [1, 2], "when": {"k": 2}},
                "k": {"values": [1, 2], "when": {"extra": 1}},
            },
            {},
            "circular",
        ),
        ({"x": {"from": 0, "to": 1, "step": 1e-5}}, {}, "100,001 values are too many"),
        ({"x": list(range(400)), "k": list(range(400))}, {}, "160,000 runs are more than"),
        ({"x": 1}, {"direction": "up"}, "one of maximize, minimize"),
        ({"x": 1}, {"name": "a/b"}, "cannot be the name of a folder"),
        ({"x": 1}, {"budget": {"minutes": 0}}, "a number above 0"),
    ],
)
def test_impossible_plans_are_refused(plan_of, parameters, more, message) -> None:
    with pytest.raises(ParameterError, match=message):
        plan_of(parameters, **more)


def test_python_and_yaml_give_the_same_runs(notebooks, tmp_path, plan_of) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "notebook: '5'\nmetric: score\nseeds: 2\nparameters:\n"
        "  x: {from: 1e-3, to: 1e-1, count: 3, scale: log}\n  many: [3, 4]\n"
    )
    ours = plan_of({"x": [0.001, 0.01, 0.1], "many": [3, 4]}, seeds=[0, 1])
    read = Plan.read(path, notebooks)
    assert read.name == "p" and read.varied == ["x"]
    assert [run.hash for run in expand(read)] == [run.hash for run in expand(ours)]
    assert all(run.planned.parameters["many"] == [3, 4] for run in expand(read))


def test_a_condition_does_not_multiply_what_it_leaves_out(plan_of) -> None:
    plan = plan_of(
        {"extra": {"when": {"kind": "fancy"}, "values": [5, 6]}, "kind": ["plain", "fancy"]}
    )
    assert configurations(plan) == [
        {"kind": "plain"},
        {"kind": "fancy", "extra": 5},
        {"kind": "fancy", "extra": 6},
    ]
    assert expand(plan)[0].planned.parameters["extra"] == 0  # the notebook's default


def test_every_configuration_comes_once_before_any_comes_again(plan_of) -> None:
    runs = expand(plan_of({"x": [1, 2, 3]}, seeds=2, repetitions=2))
    assert [(run.number, run.seed, run.repetition) for run in runs[:4]] == [
        (0, 0, 0),
        (1, 0, 0),
        (2, 0, 0),
        (0, 1, 0),
    ]
    assert len({run.hash for run in runs}) == 12
    cut = expand(plan_of({"x": [1, 2, 3]}, seeds=2, budget={"runs": 4}))
    assert [run.hash for run in cut] == [run.hash for run in runs[:4]]


def test_random_draws_stay_in_bounds_and_a_longer_search_begins_as_the_shorter(plan_of) -> None:
    space = {
        "x": {"sample": "log-uniform", "low": 1e-4, "high": 1e-1},
        "k": {"sample": "int", "low": 1, "high": 4},
        "kind": {"sample": "choice", "of": ["plain", "fancy"]},
        "extra": {"sample": "int", "low": 1, "high": 9, "when": {"kind": "fancy"}},
    }
    short = configurations(plan_of(space, search="random", budget={"runs": 50}))
    long = configurations(plan_of(space, search="random", budget={"runs": 400}))
    assert long[:50] == short and len(long) == 400
    assert all(1e-4 <= c["x"] <= 1e-1 and 1 <= c["k"] <= 4 for c in long)
    below = sum(c["x"] < 10**-2.5 for c in long)  # the middle of the scale
    assert 160 < below < 240
    assert all(("extra" in c) == (c["kind"] == "fancy") for c in long)
    assert Counter(c["k"] for c in long).keys() == {1, 2, 3, 4}
    other = plan_of(space, search={"method": "random", "seed": 1}, budget={"runs": 50})
    assert configurations(other) != short


def test_a_small_space_is_exhausted_without_repeats(plan_of) -> None:
    plan = plan_of({"k": {"sample": "int", "low": 1, "high": 3}}, search="random",
                   budget={"runs": 50})  # fmt: skip
    assert sorted(c["k"] for c in configurations(plan)) == [1, 2, 3]


def test_ten_thousand_runs_read_the_notebook_once(plan_of, monkeypatch) -> None:
    reads = []
    read = notebooks_module.read
    monkeypatch.setattr(notebooks_module, "read", lambda s: reads.append(s) or read(s))
    start = time.process_time()
    grid = {
        "x": [i / 100 for i in range(1, 101)],
        "k": list(range(1, 11)),
        "kind": ["plain", "fancy"],
    }
    runs = expand(plan_of(grid, seeds=5))
    assert len({run.hash for run in runs}) == 10_000
    assert len(reads) == 1
    assert time.process_time() - start < 10  # under 2 on a quiet machine
