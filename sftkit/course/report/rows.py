"""The records of a sweep as tidy tables: a row per run, a row per point of a curve."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftkit.course.run import NOTEBOOK, PAGE
from sftkit.course.sweep.store import State, metric_of, run_folder, states

if TYPE_CHECKING:
    import pandas as pd

# Columns that differ from one time to the next; all others repeat exactly.
MEASURED = ("seconds", "memory_gb", "attempts")


@dataclass(frozen=True)
class Tables:
    """A sweep in tables.

    Attributes:
        runs: A row per run: its state, parameters, seed, every number that it recorded.
        curves: A row per number of an evaluation: run, training, step, name, value.
        links: For each run, the file to read: its page, or the notebook as far as it came.
    """

    manifest: dict[str, Any]
    store: Path
    runs: pd.DataFrame
    curves: pd.DataFrame
    links: dict[str, Path]

    @property
    def metric(self) -> str:
        return self.manifest["metric"]

    @property
    def varied(self) -> list[str]:
        """The parameters that differ in what was run."""
        return [name for name in self.manifest["varied"] if name in self.runs.columns]

    def done(self) -> pd.DataFrame:
        """The runs that are done and have the metric."""
        chosen = self.runs[self.runs["state"] == "done"]
        return chosen[chosen[self.metric].notna()] if self.metric else chosen


def tables(store: Path, manifest: dict[str, Any]) -> Tables:
    """Read all records of a sweep."""
    import pandas as pd

    found, points, links = [], [], {}
    known = states(store, manifest)
    for run, state in zip(manifest["runs"], known, strict=True):
        folder = run_folder(store, manifest["notebook"], run["hash"])
        digest = run["hash"][:12]
        found.append(_row(manifest, run, state))
        points += [(digest, *point) for point in _points(state.data.get("curves", {}))]
        for name in (PAGE, NOTEBOOK):
            if (folder / name).is_file():
                links[digest] = folder / name
                break
    curves = pd.DataFrame(points, columns=["run", "training", "step", "name", "value"])
    return Tables(manifest, store, pd.DataFrame(found), curves, links)


def _row(manifest: dict[str, Any], run: dict[str, Any], state: State) -> dict[str, Any]:
    data = state.data
    row: dict[str, Any] = {
        "run": run["hash"][:12],
        "configuration": run["number"],
        "state": state.name,
    }
    parameters = data.get("parameters", {})
    for name in manifest["varied"]:
        # What a condition left out has the notebook's default, which the record knows.
        row[name] = _cell(run["chosen"].get(name, parameters.get(name)))
    row |= {"seed": run["seed"], "repetition": run["repetition"]}
    if metric := manifest["metric"]:
        row[metric] = metric_of(data, metric, manifest["maximize"])
    row["seconds"] = data.get("timings", {}).get("with_page", data.get("seconds"))
    row["memory_gb"] = data.get("peak_memory_gb")
    row["attempts"] = data.get("attempts")
    row["cell"] = data.get("cell")
    row["error"] = data.get("error", "").split("\n  The notebook as far")[0] or None
    for name, value in flat(data.get("metrics", {})):
        row.setdefault(name, value)
    return row


def _cell(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value


def flat(metrics: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """``("tuned.accuracy", 0.7)``, with ``.low`` and ``.high`` where there is an interval."""
    if isinstance(metrics, dict):
        for name, inner in metrics.items():
            if name == "value" and prefix:
                yield from flat(inner, prefix)
            else:
                yield from flat(inner, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(metrics, int | float) and not isinstance(metrics, bool):
        yield prefix, metrics


def _points(curves: dict[str, Any]) -> Iterator[tuple[str, float, str, float]]:
    for training, rows in curves.items():
        for row in rows:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                    yield training, row["step"], name, float(value)


@dataclass(frozen=True)
class Configuration:
    """What was found for one choice of parameters, over its seeds and repetitions."""

    number: int
    chosen: dict[str, Any]
    runs: list[str]
    mean: float
    low: float | None  # of the 95 % interval of the mean; None for a single run
    high: float | None
    seconds: float
    memory: float | None


def configurations(found: Tables) -> list[Configuration]:
    """All configurations with a result, the best first."""
    from sftkit.evaluate.intervals import mean_interval

    result = []
    for number, group in found.done().groupby("configuration", sort=True):
        values = [float(value) for value in group[found.metric]]
        mean, low, high = values[0], None, None
        if len(values) > 1:
            mean, low, high = mean_interval(values)
        memory = group["memory_gb"].dropna()
        result.append(
            Configuration(
                int(number),  # type: ignore[call-overload]
                {name: group[name].iloc[0] for name in found.varied},
                list(group["run"]),
                mean,
                low,
                high,
                float(group["seconds"].mean()),
                float(memory.max()) if len(memory) else None,
            )
        )
    sign = -1 if found.manifest["maximize"] else 1
    return sorted(result, key=lambda c: (sign * c.mean, c.number))


def best_by(found: Tables, name: str) -> list[Configuration]:
    """The best configuration for each value of a parameter, the best of all first."""
    chosen: dict[Any, Configuration] = {}
    for configuration in configurations(found):
        chosen.setdefault(configuration.chosen[name], configuration)
    return list(chosen.values())


def pareto(
    points: list[Configuration], maximize: bool, cost: str = "seconds"
) -> list[Configuration]:
    """Those that no other beats in both the metric and the cost, the cheapest first."""
    sign = 1 if maximize else -1
    chosen: list[Configuration] = []
    for point in sorted(points, key=lambda p: (getattr(p, cost), -sign * p.mean)):
        if not chosen or sign * point.mean > sign * chosen[-1].mean:
            chosen.append(point)
    return chosen


@dataclass(frozen=True)
class Effect:
    """What one parameter does to the metric, all others averaged over.

    Attributes:
        share: Of the variance of all runs that lies between this parameter's values (eta
            squared). In a full grid the shares of all parameters add up to at most 1.
        means: Mean, and its 95 % interval where there are several runs, by value.
    """

    name: str
    share: float
    means: list[tuple[Any, float, float | None, float | None, int]]


def effects(found: Tables, most: int = 12) -> list[Effect]:
    """The effect of each parameter that has a few values, the largest share first."""
    import pandas as pd

    from sftkit.evaluate.intervals import mean_interval

    done = found.done()
    result = []
    total = float(((done[found.metric] - done[found.metric].mean()) ** 2).sum())
    for name in found.varied:
        # Numbers in their order, words in that of the plan.
        by_value = done.groupby(name, sort=pd.api.types.is_numeric_dtype(done[name]))
        groups = [(value, g[found.metric].astype(float)) for value, g in by_value]
        if not 2 <= len(groups) <= most:
            continue
        between, means = 0.0, []
        for value, values in groups:
            mean, low, high = float(values.mean()), None, None
            if len(values) > 1:
                mean, low, high = mean_interval(list(values))
            between += len(values) * (mean - float(done[found.metric].mean())) ** 2
            means.append((value, mean, low, high, len(values)))
        result.append(Effect(name, between / total if total else 0.0, means))
    return sorted(result, key=lambda effect: -effect.share)
