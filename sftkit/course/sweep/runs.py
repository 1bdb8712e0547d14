"""From a plan to its runs, each with the hash that names its folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sftkit.course.planned import PlannedRun
from sftkit.course.sweep.plan import Plan

DRAWS = 20  # attempts per wanted configuration, before a random search counts as exhausted


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        number: Of the configuration, from 0.
        chosen: The plan's parameters with their values; what a condition leaves out is not
            among them and has the notebook's default.
        seed: None when the plan says nothing about seeds.
    """

    number: int
    chosen: dict[str, Any]
    seed: int | None
    repetition: int
    planned: PlannedRun

    @property
    def hash(self) -> str:
        return self.planned.hash


def defaults(plan: Plan) -> dict[str, Any]:
    """What the notebook's parameters are when a plan says nothing."""
    return {parameter.name: parameter.default for parameter in plan.prepared.known}


def grid(plan: Plan) -> Iterator[dict[str, Any]]:
    """All combinations. A parameter whose condition is not met does not multiply them."""
    known = defaults(plan)

    def combinations(index: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if index == len(plan.entries):
            yield chosen
            return
        entry = plan.entries[index]
        if not entry.when or entry.holds(known | chosen):
            for value in entry.values:
                yield from combinations(index + 1, chosen | {entry.name: value})
        else:
            yield from combinations(index + 1, chosen)

    return combinations(0, {})


def drawn(plan: Plan, number: int) -> dict[str, Any]:
    """The random configuration of this number."""
    known = defaults(plan)
    chosen: dict[str, Any] = {}
    for entry in plan.entries:
        if entry.holds(known | chosen):
            chosen[entry.name] = entry.draw(number, plan.search.seed)
    return chosen


def configurations(plan: Plan) -> list[dict[str, Any]]:
    """What a grid or a random search will try, in order, without repeats."""
    if plan.search.method == "grid":
        return list(grid(plan))
    assert plan.most_runs is not None
    wanted = plan.most_runs // plan.copies
    found: dict[str, dict[str, Any]] = {}
    for number in range(wanted * DRAWS):
        chosen = drawn(plan, number)
        found.setdefault(repr(chosen), chosen)
        if len(found) == wanted:
            break
    return list(found.values())


def copies(plan: Plan, number: int, chosen: dict[str, Any]) -> list[Run]:
    """The runs of one configuration: each seed, each repetition."""
    return [
        _run(plan, number, chosen, seed, repetition)
        for repetition in range(plan.repetitions)
        for seed in plan.seeds or (None,)
    ]


def expand(plan: Plan) -> list[Run]:
    """All runs of a grid or a random search, as far as the budget goes.

    Seeds come last: every configuration is run once before any is run again, so that a
    sweep that is cut short has compared them all.
    """
    chosen = list(enumerate(configurations(plan)))
    runs = [
        _run(plan, number, values, seed, repetition)
        for repetition in range(plan.repetitions)
        for seed in plan.seeds or (None,)
        for number, values in chosen
    ]
    return runs[: plan.most_runs]


def _run(
    plan: Plan, number: int, chosen: dict[str, Any], seed: int | None, repetition: int
) -> Run:
    given = chosen if seed is None else chosen | {"seed": seed}
    return Run(number, chosen, seed, repetition, plan.prepared.run(given, repetition))
