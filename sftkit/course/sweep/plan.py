"""The plan of a sweep: read, and checked as a whole before anything runs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftkit.course.parameters import convert
from sftkit.course.planned import SET_BY_RUNNER, Prepared, prepare
from sftkit.course.sweep.keys import Keys
from sftkit.course.sweep.located import At, Problems, from_python, from_yaml
from sftkit.course.sweep.space import Entry, read_entry
from sftkit.errors import ParameterError, SftError

KEYS = {
    "name", "notebook", "parameters", "search", "seeds", "repetitions", "budget", "metric",
    "direction", "retries", "memory", "slurm",
}  # fmt: skip
METHODS = ("grid", "random", "tpe")
PRUNERS = ("none", "median", "hyperband")
SEARCH_KEYS = {"method", "seed", "pruner", "watch", "startup"}
MOST_RUNS = 100_000
EVALUATIONS = "evaluations."  # metrics that begin so are the best of a run's learning curve


@dataclass(frozen=True)
class Search:
    """How configurations are chosen.

    Attributes:
        pruner: Ends unpromising runs of a guided search early.
        watch: The metric of the notebook's evaluations that the pruner looks at.
        startup: Random configurations before the guided ones.
    """

    method: str = "grid"
    seed: int = 0
    pruner: str = "none"
    watch: str = ""
    startup: int = 10


@dataclass(frozen=True)
class Plan:
    """A checked plan. Make one with `Plan.read` or `Plan.of`."""

    name: str
    prepared: Prepared = field(repr=False)
    entries: tuple[Entry, ...]  # each after those that its condition names
    search: Search
    seeds: tuple[int, ...]  # empty: the notebook's own
    repetitions: int
    most_runs: int | None
    minutes: float | None
    metric: str
    maximize: bool
    retries: int
    memory: float | None  # GB per run
    slurm: dict[str, Any]
    text: str  # as it was written

    @classmethod
    def read(cls, path: str | Path, folder: Path | None = None) -> Plan:
        """A plan from a YAML file.

        Args:
            path: The file.
            folder: The notebooks' folder; the checkout's by default.

        Raises:
            ParameterError: With a line for each problem.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ParameterError(f"{path} cannot be read: {error}", "Check the path.") from None
        return _check(from_yaml(text, path.name), path.name, path, folder, text)

    @classmethod
    def of(cls, content: Mapping[str, Any], folder: Path | None = None) -> Plan:
        """The same from a dictionary, written as the YAML would be.

        Raises:
            ParameterError: With a line for each problem.
        """
        import yaml

        found = from_python(dict(content))
        text = yaml.safe_dump(found.plain, sort_keys=False)
        return _check(found, "the plan", None, folder, text)

    @property
    def copies(self) -> int:
        """Runs of one configuration."""
        return max(1, len(self.seeds)) * self.repetitions

    @property
    def varied(self) -> list[str]:
        """The parameters that differ between configurations."""
        return [entry.name for entry in self.entries if entry.varies or entry.when]


def _check(root: At, name: str, path: Path | None, folder: Path | None, text: str) -> Plan:
    problems = Problems(name)
    if not root.is_mapping:
        problems.add(root, "a plan begins with names such as notebook: and parameters:")
        problems.refuse()
    for key, at in root.value.items():
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            there = f"there are {', '.join(sorted(KEYS))}"
            hint = f"did you mean {near[0]}?" if near else there
            problems.add(at, f"'{key}' is not known here; {hint}")
    reader = Keys(root, problems)
    prepared = _notebook(root, problems, path, folder)
    title = reader.text("name", path.stem if path else prepared.source.name if prepared else "")
    if not title or set(title) & set('/\\:*?"<>|') or title.startswith("."):
        problems.add(root.value.get("name"), f"{title!r} cannot be the name of a folder")
    search = _search(reader)
    seeds = reader.seeds()
    budget = reader.section("budget", {"runs", "minutes"})
    metric = reader.text("metric", "")
    direction = reader.choice("direction", ("maximize", "minimize"), "maximize")
    slurm = root.value["slurm"].plain if "slurm" in root.value else {}
    if not isinstance(slurm, dict):
        problems.add(root.value["slurm"], "names and values are wanted here")
    plan_parts = dict(
        repetitions=reader.whole("repetitions", 1, 1),
        most_runs=budget.whole("runs", None, 1),
        minutes=budget.number("minutes", None),
        retries=reader.whole("retries", 0, 0),
        memory=reader.number("memory", None),
    )
    entries = _entries(root, problems, prepared, search, seeds) if prepared else ()
    _combinations(root, problems, search, metric, plan_parts["most_runs"])
    if not metric and "direction" in root.value:
        problems.add(root.value["direction"], "there is no metric")
    problems.refuse()
    assert prepared is not None
    plan = Plan(
        title, prepared, entries, search, seeds, metric=metric,
        maximize=direction == "maximize", slurm=slurm, text=text, **plan_parts,  # type: ignore[arg-type]
    )  # fmt: skip
    _size(root, problems, plan)
    problems.refuse()
    return plan


def _notebook(
    root: At, problems: Problems, path: Path | None, folder: Path | None
) -> Prepared | None:
    at = root.value.get("notebook")
    if at is None:
        problems.add(None, "line 1, 'notebook' is missing: a number, a name or a path")
        return None
    wanted = str(at.value)
    if path is not None and wanted.endswith((".py", ".ipynb")):
        beside = path.parent / wanted
        wanted = str(beside) if beside.is_file() else wanted
    try:
        return prepare(wanted, folder)
    except SftError as error:
        problems.add(at, f"{error.what} {error.fix}")
        return None


def _search(reader: Keys) -> Search:
    at = reader.at.get("search")
    if at is not None and not at.is_mapping:
        return Search(reader.choice("search", METHODS, "grid"))
    inner = reader.section("search", SEARCH_KEYS)
    return Search(
        inner.choice("method", METHODS, "grid"),
        inner.whole("seed", 0, 0) or 0,
        inner.choice("pruner", PRUNERS, "none"),
        inner.text("watch", ""),
        inner.whole("startup", 10, 1) or 10,
    )


def _entries(
    root: At, problems: Problems, prepared: Prepared, search: Search, seeds: tuple[int, ...]
) -> tuple[Entry, ...]:
    known = {parameter.name: parameter for parameter in prepared.known}
    given = root.value.get("parameters", At({}, None, "parameters"))
    if not given.is_mapping:
        problems.add(given, "names and values are wanted here, as in lr: [1e-4, 2e-4]")
        return ()
    if "seeds" in root.value and "seed" not in known:
        problems.add(root.value["seeds"], f"{prepared.source.name} has no parameter 'seed'")
    entries: dict[str, Entry] = {}
    for name, at in given.value.items():
        if name in SET_BY_RUNNER:
            problems.add(at, f"'{name}' is set by the runner: leave it out")
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            problems.add(at, f"{prepared.source.name} has no parameter '{name}'; {hint}")
        elif name == "seed" and seeds:
            problems.add(at, "the seed is also under 'seeds': say it once")
        elif (entry := read_entry(known[name], at, problems)) is not None:
            if entry.sample and search.method == "grid":
                problems.add(
                    at, "a grid cannot go through a sampled parameter: list its values, or "
                    "say search: random"
                )  # fmt: skip
            entries[name] = entry
    return _ordered(entries, known, problems)


def _ordered(
    entries: dict[str, Entry], known: dict[str, Any], problems: Problems
) -> tuple[Entry, ...]:
    """Each parameter after those that its condition names; conditions checked."""
    done: dict[str, Entry] = {}
    waiting = {n: _condition(entry, entries, known, problems) for n, entry in entries.items()}
    while waiting:
        ready = [
            name for name, entry in waiting.items()
            if all(other not in waiting for other, _ in entry.when)
        ]  # fmt: skip
        if not ready:
            first = next(iter(waiting.values()))
            problems.add(first.at, f"its condition is circular: {', '.join(waiting)}")
            return ()
        for name in ready:
            done[name] = waiting.pop(name)
    return tuple(done.values())


def _condition(
    entry: Entry, entries: dict[str, Entry], known: dict[str, Any], problems: Problems
) -> Entry:
    from dataclasses import replace

    when = []
    for name, allowed in entry.when:
        if name not in known:
            problems.add(entry.at, f"its condition names '{name}', which is no parameter")
            continue
        try:
            values = tuple(convert(known[name], value) for value in allowed)
        except ParameterError as error:
            problems.add(entry.at, f"in its condition, {error.what}")
            continue
        other = entries.get(name)
        possible = other.values if other else (known[name].default,)
        drawn = other is not None and other.sample in ("uniform", "log-uniform", "int")
        # A condition may leave the other parameter out, which then has its default.
        if other is not None and other.when:
            possible = (*possible, known[name].default)
        never = [] if drawn else [value for value in values if value not in possible]
        if never:
            there = ", ".join(repr(value) for value in possible)
            problems.add(entry.at, f"{name} is never {never[0]!r} here; there is {there}")
        when.append((name, values))
    return replace(entry, when=tuple(when))


def _combinations(
    root: At, problems: Problems, search: Search, metric: str, most_runs: Any
) -> None:
    """What does not go together, whatever the notebook."""
    at = root.value.get("search")
    if search.method != "grid" and most_runs is None:
        problems.add(at, f"a {search.method} search needs budget: {{runs: N}}")
    if search.method == "tpe" and not metric:
        problems.add(at, "a guided search needs a metric")
    if search.pruner != "none":
        if search.method != "tpe":
            problems.add(at, f"a pruner goes with method: tpe, not {search.method}")
        if not search.watch:
            problems.add(
                at, "a pruner needs watch: the metric of the notebook's own evaluations that "
                "it looks at, such as accuracy"
            )  # fmt: skip
    elif search.watch:
        problems.add(at, "watch goes with a pruner: median or hyperband")


def _size(root: At, problems: Problems, plan: Plan) -> None:
    at = root.value.get("parameters") or root
    if plan.search.method == "grid":
        most = math.prod(max(1, len(entry.values)) for entry in plan.entries) * plan.copies
        if most > MOST_RUNS:
            problems.add(at, f"{most:,} runs are more than {MOST_RUNS:,}")
        return
    assert plan.most_runs is not None
    if plan.most_runs < plan.copies:
        problems.add(
            root.value.get("budget"),
            f"{plan.most_runs} runs are not enough for one configuration with its "
            f"{plan.copies} seeds and repetitions",
        )
    if plan.most_runs > MOST_RUNS:
        problems.add(root.value.get("budget"), f"more than {MOST_RUNS:,} runs")
    if not any(entry.varies for entry in plan.entries):
        problems.add(at, f"nothing varies: a {plan.search.method} search has nothing to choose")
