"""What a plan says about one parameter: fixed, listed, ranged, sampled, conditional."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sftkit.course.parameters import Parameter, convert
from sftkit.course.sweep.located import At, Problems
from sftkit.errors import ParameterError

MOST_VALUES = 10_000  # of one parameter
FORMS = {
    "values": {"values", "when"},
    "from": {"from", "to", "step", "count", "scale", "when"},
    "sample": {"sample", "low", "high", "of", "when"},
}
SAMPLED = ("uniform", "log-uniform", "int", "choice")
DIGITS = 4  # significant digits of a drawn number: enough to tell, short enough to read


@dataclass(frozen=True)
class Entry:
    """One parameter's part of the plan.

    Attributes:
        values: What a grid goes through; one value when it is fixed; of a sampled parameter
            the choices, or nothing.
        sample: ``""``, or how it is drawn.
        low, high: The bounds of a drawn number.
        when: The parameter counts only where each of these has one of these values.
        at: Its place in the plan.
    """

    name: str
    kind: str  # the declared type
    values: tuple[Any, ...]
    sample: str = ""
    low: float = 0.0
    high: float = 0.0
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    at: At | None = None

    @property
    def varies(self) -> bool:
        return bool(self.sample) or len(self.values) > 1

    @property
    def is_int(self) -> bool:
        return self.kind.removesuffix("| None").strip() == "int"

    def holds(self, chosen: Mapping[str, Any]) -> bool:
        """Whether the condition is met by the values chosen so far (and the defaults)."""
        return all(chosen.get(name) in allowed for name, allowed in self.when)

    def draw(self, number: int, seed: int) -> Any:
        """The value of the ``number``-th random configuration.

        It depends on nothing but the seed, the parameter's name and the number, so a longer
        sweep begins as the shorter one did, and a new parameter leaves the others alone.
        """
        generator = random.Random(f"{seed} {self.name} {number}")
        if self.sample in ("", "choice"):
            return self.values[generator.randrange(len(self.values))]
        if self.sample == "int":
            return generator.randint(int(self.low), int(self.high))
        if self.sample == "log-uniform":
            value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = generator.uniform(self.low, self.high)
        return self.rounded(value)

    def rounded(self, value: float) -> float | int:
        """A drawn number as it goes into the run."""
        if self.is_int:
            return round(value)
        short = float(f"{value:.{DIGITS}g}")
        return min(max(short, self.low), self.high)


def read_entry(parameter: Parameter, at: At, problems: Problems) -> Entry | None:
    """One parameter's part of the plan, checked; None when something is wrong with it."""
    reader = _Reader(parameter, problems)
    before = len(problems.found)
    if not at.is_mapping:
        is_list = isinstance(at.value, list)
        if is_list and not reader.takes_list:
            values = reader.listed(at)
        else:  # one value; a parameter that is a list takes the list as it is
            values = (reader.value(at, at.plain),)
        entry = Entry(parameter.name, parameter.type, values, at=at)
    else:
        entry = reader.mapping(at)
    return entry if len(problems.found) == before else None


class _Reader:
    def __init__(self, parameter: Parameter, problems: Problems) -> None:
        self.parameter, self.problems = parameter, problems
        self.kind = parameter.type or type(parameter.default).__name__
        self.takes_list = self.kind.startswith("list")

    def value(self, at: At, plain: Any) -> Any:
        """One value in the parameter's type, or a problem."""
        try:
            return convert(self.parameter, plain)
        except ParameterError:
            text = f"must be of type {self.kind}, not {plain!r}"
            if isinstance(plain, bool):
                text += " (YAML reads a bare yes, no, on, off as true, false: use quotes)"
            self.problems.add(at, text)
            return None

    def listed(self, at: At) -> tuple[Any, ...]:
        if not isinstance(at.value, list) or not at.value:
            self.problems.add(at, "a list of values is wanted here, with at least one")
            return ()
        values: list[Any] = []
        for item in at.value:
            value = self.value(item, item.plain)
            if value in values and value is not None:
                self.problems.add(item, f"{value!r} is listed twice")
            values.append(value)
        return tuple(values)

    def mapping(self, at: At) -> Entry:
        form = next((name for name in FORMS if name in at.value), "")
        known = FORMS.get(form, set().union(*FORMS.values()))
        for name, inner in at.value.items():
            if name not in known:
                there = ", ".join(sorted(known))
                self.problems.add(inner, f"'{name}' is not known here; there are {there}")
        if not form:
            self.problems.add(at, "say values, from and to, or sample")
        when = self.when(at.value["when"]) if "when" in at.value else ()
        values: tuple[Any, ...] = ()
        sample, low, high = "", 0.0, 0.0
        if form == "values":
            values = self.listed(at.value["values"])
        elif form == "from":
            values = self.ranged(at)
        elif form == "sample":
            sample, low, high, values = self.sampled(at)
        return Entry(self.parameter.name, self.kind, values, sample, low, high, when, at)

    def when(self, at: At) -> tuple[tuple[str, tuple[Any, ...]], ...]:
        """Names and allowed values; their types are checked when all entries are known."""
        if not at.is_mapping or not at.value:
            self.problems.add(at, "name a parameter and its values, as in when: {train: all}")
            return ()
        return tuple(
            (name, tuple(inner.plain if isinstance(inner.value, list) else [inner.plain]))
            for name, inner in at.value.items()
        )

    def number(self, at: At, name: str) -> float | None:
        """A number under this name; a missing one is a problem."""
        inner = at.value.get(name)
        if inner is None:
            self.problems.add(at, f"'{name}' is missing")
            return None
        if self.kind.split("|")[0].strip() not in ("int", "float"):
            self.problems.add(at, f"{self.kind} is no number: list its values instead")
            return None
        return self.value(inner, inner.plain)

    def bounds(self, at: At, low: str, high: str, log: bool) -> tuple[float, float] | None:
        first, last = self.number(at, low), self.number(at, high)
        if first is None or last is None:
            return None
        if not first < last:
            self.problems.add(at.value[high], f"{low} {first:g} must be below {high} {last:g}")
            return None
        if log and first <= 0:
            self.problems.add(at.value[low], f"on a log scale {low} must be above 0")
            return None
        return first, last

    def ranged(self, at: At) -> tuple[Any, ...]:
        scale = at.value["scale"].value if "scale" in at.value else "linear"
        if scale not in ("linear", "log"):
            self.problems.add(at.value["scale"], f"scale is linear or log, not {scale!r}")
        bounds = self.bounds(at, "from", "to", scale == "log")
        if ("step" in at.value) == ("count" in at.value):
            self.problems.add(at, "say either step or count")
            return ()
        if "step" in at.value and scale == "log":
            self.problems.add(at.value["step"], "on a log scale say count, not step")
            return ()
        inner = at.value.get("count") or at.value["step"]
        size = inner.value
        if "count" in at.value and not (type(size) is int and 2 <= size <= MOST_VALUES):
            self.problems.add(inner, f"count must be from 2 to {MOST_VALUES:,}, not {size!r}")
            return ()
        if "step" in at.value and (self.number(at, "step") or 0) <= 0:
            self.problems.add(inner, f"step must be above 0, not {size!r}")
            return ()
        if bounds is None:
            return ()
        low, high = bounds
        if "step" in at.value:
            step = float(self.value(inner, size))
            steps = math.floor((high - low) / step + 1e-9) + 1
            if steps > MOST_VALUES:
                self.problems.add(inner, f"{steps:,} values are too many")
                return ()
            found = [low + i * step for i in range(steps)]
        elif scale == "log":
            found = [low * (high / low) ** (i / (size - 1)) for i in range(size)]
        else:
            found = [low + (high - low) * i / (size - 1) for i in range(size)]
        whole = self.kind.split("|")[0].strip() == "int"
        short = [round(x) if whole else float(f"{x:.10g}") for x in found]
        return tuple(dict.fromkeys(short))

    def sampled(self, at: At) -> tuple[str, float, float, tuple[Any, ...]]:
        kind = at.value["sample"].value
        if kind not in SAMPLED:
            there = ", ".join(SAMPLED)
            self.problems.add(at.value["sample"], f"sample is one of {there}; not {kind!r}")
            return "", 0.0, 0.0, ()
        if kind == "choice":
            if "of" not in at.value:
                self.problems.add(at, "'of' is missing: the values to choose from")
                return kind, 0.0, 0.0, ()
            return kind, 0.0, 0.0, self.listed(at.value["of"])
        if "of" in at.value:
            self.problems.add(at.value["of"], "'of' goes with sample: choice")
        whole = self.kind.split("|")[0].strip() == "int"
        if kind == "int" and not whole:
            self.problems.add(at.value["sample"], f"the parameter is of type {self.kind}")
        bounds = self.bounds(at, "low", "high", kind == "log-uniform")
        low, high = bounds or (0.0, 0.0)
        return ("int" if whole and kind == "uniform" else kind), low, high, ()
