"""The figures of a report. Each gives ``(figure, alt text)``, or None without data."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from sftkit.course.report.rows import Configuration, Effect, Tables, pareto
from sftkit.course.sweep.status import label_of, number
from sftkit.teach import show

Figure = tuple[Any, str] | None
LOG_FROM = 20  # largest over smallest value, from which an axis is logarithmic
MOST_LINES = 400
CROWDED = 36  # letters of all ticks of a half-width axis, from which they are turned
NAMED = (0, 1, 2, 4, 5)  # colours of the best learning curves; the others are grey


def parallel(found: Tables, configurations: list[Configuration]) -> Figure:
    """A line per configuration through its parameters to the metric."""
    if len(configurations) < 2 or not found.varied:
        return None
    shown = configurations[:MOST_LINES]
    names = found.varied
    scales = [_Scale([c.chosen[name] for c in shown]) for name in names]
    result = _Scale([c.mean for c in shown], force_linear=True)
    fig, ax = show.new_figure(height=3.8)
    ranks = len(shown)
    colours = _shades(ranks)
    for rank, c in reversed(list(enumerate(shown))):
        line = [scale.at(c.chosen[name]) for scale, name in zip(scales, names, strict=True)]
        width = 2.2 if rank == 0 else 1.0
        line.append(result.at(c.mean))
        ax.plot(range(len(line)), line, color=colours[rank], lw=width, alpha=0.85)
    for position, scale in enumerate([*scales, result]):
        ax.axvline(position, color="#888888", lw=0.8)
        for height, text in scale.ticks():
            ax.annotate(text, (position, height), xytext=(4, 0), textcoords="offset points",
                        fontsize=8, va="center", bbox={"fc": "white", "ec": "none", "pad": 0.6,
                                                       "alpha": 0.75})  # fmt: skip
    ax.set_xticks(range(len(names) + 1), [*names, found.metric])
    ax.set_xlim(-0.1, len(names) + 0.35)
    ax.set_yticks([])
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_title("Every configuration, the best darkest")
    best, worst = shown[0], shown[-1]
    return fig, (
        f"Parallel coordinates of {ranks} configurations over {', '.join(names)} and "
        f"{found.metric}. Best: {_label(found, best)}, {best.mean:.4g}. "
        f"Worst: {_label(found, worst)}, {worst.mean:.4g}."
    )


def effect_panels(found: Tables, effects: list[Effect]) -> Figure:
    """The metric by the values of each parameter: runs as dots, means with intervals."""
    if not effects:
        return None
    columns = min(2, len(effects))
    rows = math.ceil(len(effects) / columns)
    fig, axes = show.new_figure(
        height=2.7 * rows, columns=columns, rows=rows, squeeze=False, sharey=True
    )
    done, said = found.done(), []
    for ax, effect in zip(axes.flat, effects, strict=False):
        for x, (value, mean, low, high, _) in enumerate(effect.means):
            dots = done[done[effect.name] == value][found.metric]
            ax.plot([x - 0.12] * len(dots), dots, "o", color=show.COLOURS[3], ms=3, alpha=0.6)
            if low is not None and high is not None:
                ax.errorbar(x + 0.08, mean, [[mean - low], [high - mean]], fmt="s", ms=5,
                            color=show.COLOURS[0], capsize=3)  # fmt: skip
            else:
                ax.plot(x + 0.08, mean, "s", ms=5, color=show.COLOURS[0])
        ticks = [number(value) for value, *_ in effect.means]
        crowded = sum(map(len, ticks)) > CROWDED
        ax.set_xticks(range(len(ticks)), ticks, rotation=20 * crowded)
        ax.set_xlim(-0.5, len(effect.means) - 0.5)
        ax.set_xlabel(effect.name)
        ax.set_title(f"{effect.name}: {100 * effect.share:.0f} % of the variance")
        means = ", ".join(f"{number(value)}: {mean:.4g}" for value, mean, *_ in effect.means)
        said.append(f"{effect.name} ({means})")
    for ax in list(axes.flat)[len(effects) :]:
        ax.set_visible(False)
    for row in axes:
        row[0].set_ylabel(found.metric)
    return fig, f"{found.metric} by the values of each parameter; means: {'; '.join(said)}."


def curves(found: Tables, configurations: list[Configuration]) -> Figure:
    """Evaluations against optimizer steps: the best configurations in colour."""
    if not len(found.curves):
        return None
    names = [name for name in found.curves["name"].unique() if name != "training_loss"]
    wanted = found.metric.rpartition(".")[2]
    chosen = [wanted if wanted in names else names[0]] if names else []
    if "training_loss" in set(found.curves["name"]):
        chosen.append("training_loss")
    best = {run: rank for rank, c in enumerate(configurations[: len(NAMED)]) for run in c.runs}
    fig, axes = show.new_figure(height=3.2, columns=len(chosen), squeeze=False)
    for ax, name in zip(axes[0], chosen, strict=True):
        part = found.curves[found.curves["name"] == name]
        labelled: set[int] = set()
        for (run, _), rows in part.groupby(["run", "training"]):
            rank = best.get(run)
            style: dict[str, Any] = {"color": "#c8c8c8", "lw": 0.8, "zorder": 1}
            if rank is not None:
                colour, marker = show.COLOURS[NAMED[rank]], show.MARKERS[rank]
                style = {"color": colour, "marker": marker, "ms": 4, "lw": 1.3, "zorder": 3}
                if rank not in labelled:
                    style["label"] = _label(found, configurations[rank])
                    labelled.add(rank)
            ax.plot(rows["step"], rows["value"], **style)
        ax.set(xlabel="optimizer step", ylabel=name.replace("_", " "))
        ax.set_title(name.replace("_", " ").capitalize())
    if best:
        handles, texts = axes[0][0].get_legend_handles_labels()
        ranks = {_label(found, c): rank for rank, c in enumerate(configurations)}
        order = sorted(range(len(texts)), key=lambda i: ranks[texts[i]])
        fig.legend([handles[i] for i in order], [texts[i] for i in order],
                   loc="outside lower center", ncols=1, fontsize=8)  # fmt: skip
    count = found.curves["run"].nunique()
    top = f" The best are {_label(found, configurations[0])} and the like." if best else ""
    return fig, f"Learning curves of {count} runs: {' and '.join(chosen)} by step.{top}"


def costs(found: Tables, configurations: list[Configuration]) -> Figure:
    """Time and memory against the metric, with the configurations that none beats in both."""
    if len(configurations) < 2:
        return None
    kinds = [("seconds", "seconds of a run")]
    if all(c.memory is not None for c in configurations):
        kinds.append(("memory", "peak memory, GB"))
    fig, axes = show.new_figure(height=3.2, columns=len(kinds), squeeze=False, sharey=True)
    said = []
    for ax, (cost, words) in zip(axes[0], kinds, strict=True):
        front = pareto(configurations, found.manifest["maximize"], cost)
        x = [getattr(c, cost) for c in configurations]
        ax.plot(x, [c.mean for c in configurations], "o", color=show.COLOURS[3], ms=4)
        ax.plot([getattr(c, cost) for c in front], [c.mean for c in front], "-s",
                color=show.COLOURS[2], ms=6, label="beaten by none in both")  # fmt: skip
        ax.set(xlabel=words)
        ax.legend()
        ends = [f"{_label(found, c)} ({getattr(c, cost):.3g}, {c.mean:.4g})" for c in front]
        said.append(f"by {words}: {'; '.join(ends)}")
    axes[0][0].set_ylabel(found.metric)
    axes[0][0].set_title("What quality costs")
    return fig, f"{found.metric} against cost. Not beaten in both, {'. '.join(said)}."


class _Scale:
    """Values on an axis from 0 to 1: linear, logarithmic, or one place per value."""

    def __init__(self, values: list[Any], force_linear: bool = False) -> None:
        self.values = values
        self.numeric = all(
            isinstance(value, Real) and not isinstance(value, bool) for value in values
        )
        if self.numeric:
            self.low, self.high = float(min(values)), float(max(values))
            ratio = self.high / self.low if self.low > 0 else 0
            self.log = not force_linear and ratio >= LOG_FROM
        else:
            self.places = sorted({str(value) for value in values})

    def at(self, value: Any) -> float:
        if not self.numeric:
            return self.places.index(str(value)) / max(1, len(self.places) - 1)
        if self.low == self.high:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (float(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        if not self.numeric:
            return [(self.at(place), place) for place in self.places]
        distinct = sorted({float(value) for value in self.values})
        if len(distinct) > 8:
            middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
            distinct = [self.low, middle, self.high]
        return [(self.at(value), f"{value:.4g}") for value in distinct]


def _shades(count: int) -> list[Any]:
    import matplotlib

    ramp = matplotlib.colormaps["viridis"]
    return [ramp(0.92 * rank / max(1, count - 1)) for rank in range(count)]


def _label(found: Tables, c: Configuration) -> str:
    return label_of(c.chosen, found.varied, None)
