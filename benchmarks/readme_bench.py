"""The README's parts about speed: classification in full, and every benchmark with its goal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import chat, turns
from benchmarks.contestants import CONTESTANTS, SAME_MATHEMATICS
from benchmarks.tables import NOTHING_YET, machine, markdown, of_medians
from sftkit.course.bench import BENCHMARKS
from sftkit.files import read_json

Record = Mapping[str, Any]


def bench_part(result: Record | None) -> str:
    """Our loop against Trainer: speed, accuracy, memory, distance to the machine's limit."""
    if result is None:
        return NOTHING_YET.format("sftkit bench --full classification")
    summary, settings = result["summary"], result["settings"]
    rows = [_bench_row(name, summary[name]) for name in CONTESTANTS if name in summary]
    header = ["", "examples/s", "ours is … times as fast", "accuracy, %", "peak memory, GB",
              "of machine's limit, %"]  # fmt: skip
    same = [n for n in SAME_MATHEMATICS if n in summary]
    facts, repetitions = result["machine"], settings["repetitions"]
    return "\n".join([
        f"MiniLM on {settings['rows']:,} tweets, {settings['epochs']} epoch, batches of "
        f"{settings['batch_size']}, float32, {repetitions} repetition"
        f"{'s' * (repetitions != 1)} in turns with as many seeds: medians of speed, in "
        "brackets the smallest and the largest ratio within a repetition; mean accuracy on "
        f"{settings['test_rows']:,} test tweets with its 95 % interval over seeds.\n",
        markdown(header, rows),
        f"The first {len(same)} do the same mathematics. The limit is the speed of float32 "
        f"matrix products at the same shapes, measured after each run. Measured "
        f"{result['date']} with torch {result['versions']['torch']} and transformers "
        f"{result['versions']['transformers']} on {machine(facts)}, which gives "
        f"{facts['gflops_float32']:.0f} GFLOP/s. "
        "Again: `sftkit bench --full classification`.\n",
    ])  # fmt: skip


def _bench_row(name: str, entry: Record) -> list[str]:
    over, spread = entry.get("ours_over_this"), entry["accuracy_interval"]
    accuracy = f"{100 * entry['accuracy']:.1f}"
    accuracy += f" ± {100 * (spread[2] - spread[0]):.1f}" if spread else ""
    speed = f"{entry['examples_per_second']:.1f}"
    memory = f"{entry['peak_memory_mb'] / 1e3:.2f}"
    share = f"{100 * entry['limit_share']:.0f}"
    ratio = of_medians(over) if over else ""
    return [CONTESTANTS[name], speed, ratio, accuracy, memory, share]


@dataclass(frozen=True)
class Finding:
    """What a benchmark found, and what was wanted.

    Attributes:
        what: In words.
        value: The number that the goal is about.
        goal: None: there is none.
        told: The number for people, with its spread; two decimals unless given.
        at_most: Whether smaller is better.
    """

    what: str
    value: float
    goal: float | None = None
    told: str = ""
    at_most: bool = False

    def row(self) -> list[str]:
        """What, value, goal, and whether it was reached."""
        told = self.told or f"{self.value:.2f}"
        if self.goal is None:
            return [self.what, told, "", ""]
        reached = self.value <= self.goal if self.at_most else self.value >= self.goal
        goal = f"{'at most' if self.at_most else 'at least'} {self.goal:g}"
        return [self.what, told, goal, "reached" if reached else "missed"]


def _ratio(what: str, over: Record, goal: float | None, at_most: bool = False) -> Finding:
    return Finding(what, over["ratio_of_medians"], goal, of_medians(over), at_most)


def _classification(result: Record) -> list[Finding]:
    summary, goals = result["summary"], result["goals"]
    found = [
        _ratio(f"speed over {CONTESTANTS[name]}", over, goals[name])
        for name in ("trainer-default", "trainer-tuned")
        if (over := summary.get(name, {}).get("ours_over_this"))
    ]
    share = summary["ours"]["limit_share"]
    return [*found, Finding("share of the machine's limit", share, goals["limit_share"])]


def _chat(result: Record) -> list[Finding]:
    found, goals = [], result["goals"]
    for theirs, name in (("trl", "TRL, all parameters"), ("trl-lora", "TRL with peft, LoRA")):
        over = result["summary"][theirs]["ours_over_this"]
        found += [
            _ratio(f"speed over {name}", over["speed"], goals["speed"]),
            _ratio(f"peak memory over {name}", over["memory"], goals["memory"], True),
        ]
    summary, settings = result["summary"], result["settings"]
    light = {
        what: turns.ratio(result["runs"], name, "ours", "peak_memory_mb")
        for name, what in (("ours-lora", "LoRA"), ("ours-lora-recompute", "LoRA, recomputing,"))
        if any(run["contestant"] == name for run in result["runs"])
    }
    mean = settings["tokens"] / settings["rows"]
    minutes = 1_000 / summary["ours"]["examples_per_second"] / 60
    short = f"1,000 dialogues of {mean:.0f} tokens, all parameters, minutes at its speed"
    found += [
        Finding(short, minutes, chat.MINUTES_OF_1000, f"{minutes:.1f}", at_most=True),
        *(_ratio(f"peak memory of {what} over all parameters", ratio, chat.LORA_MEMORY, True)
          for what, ratio in light.items()),
    ]  # fmt: skip
    apart = summary["trl"]["ours_over_this"]["loss_difference"]
    what = "largest difference of a step's loss from TRL's, all parameters, nats"
    return [*found, Finding(what, apart, goals["loss_difference"], f"{apart:.1e}", True)]


def _prediction(result: Record) -> list[Finding]:
    summary = result["summary"]
    plain = {n: e for n, e in summary.items() if n in ("pipeline-8", "pipeline-32")}
    better = max(plain, key=lambda n: plain[n]["examples_per_second"])
    over, ordered = (summary[n]["ours_over_this"] for n in (better, "pipeline-sorted"))
    size = better.rsplit("-", 1)[1]
    return [
        _ratio(f"speed over `pipeline`, batches of {size}", over, result["goals"]["pipeline"]),
        _ratio("speed over `pipeline`, texts sorted for it", ordered, None),
    ]


def _collation(result: Record) -> list[Finding]:
    share, goal = result["share"], result["goals"]["share"]
    what = "encoding and collation, share of an epoch"
    return [Finding(what, share, goal, f"{share:.3f}", at_most=True)]


def _limit(result: Record) -> list[Finding]:
    summary, goals = result["summary"], result["goals"]
    with_dropout, without = summary["ours"], summary["ours-no-dropout"]
    share = "share of the limit, dropout 0.1", "share of the limit, no dropout"
    return [
        Finding(share[0], with_dropout["limit_share"], goals["with_dropout"]),
        Finding(share[1], without["limit_share"], goals["without_dropout"]),
        Finding(
            "peak memory over what the step must keep",
            with_dropout["memory_ratio"],
            goals["memory"],
            at_most=True,
        ),
    ]


def _sweeps(result: Record) -> list[Finding]:
    summary, goals = result["summary"], result["goals"]
    large = summary["large"]
    first = summary["overhead"]["first_overhead"]
    expand, resume = large["expand_seconds"], large["resume_seconds"]
    planned = f"{large['planned']:,.0f} planned runs, seconds to"
    up = summary["workers"]["speed_up"]
    return [
        _ratio("two Dask workers over one", up, goals["two_workers"]),
        Finding("a run beside its cells, seconds", first, goals["overhead_seconds"], "", True),
        Finding(f"{planned} expand and check", expand, goals["expand_seconds"], "", True),
        Finding(f"{planned} find them done", resume, goals["resume_seconds"], "", True),
    ]


def _time_to_accuracy(result: Record) -> list[Finding]:
    short, test = result["times_as_short"], result["summary"]
    told = f"{short['median']:.1f} ({short['min']:.1f} to {short['max']:.1f})"
    ours, recipe = (100 * test[name]["test"] for name in ("ours", "recipe"))
    what = "times as short as the usual recipe, to its validation accuracy"
    if short["reached"] < short["seeds"]:
        what += (
            f" (reached by {short['reached']} of {short['seeds']} seeds; the others count as 0)"
        )
    return [
        Finding(what, short["median"], result["goals"]["times_as_short"], told),
        Finding("test accuracy then, % (recipe's)", ours, None, f"{ours:.1f} ({recipe:.1f})"),
    ]


FINDINGS: dict[str, Callable[[Record], list[Finding]]] = {
    "classification": _classification,
    "classification-reuters": _classification,
    "chat": _chat,
    "prediction": _prediction,
    "collation": _collation,
    "limit": _limit,
    "sweeps": _sweeps,
    "time-to-accuracy": _time_to_accuracy,
}


def goals_part(folder: Path) -> str:
    """What every benchmark with a result found, beside its goal; how time and memory grow."""
    rows, machines, growth = [], set(), ""
    for name, benchmark in BENCHMARKS.items():
        file = folder / f"{benchmark.script}.json"
        if not file.is_file():
            continue
        result = read_json(file)
        machines.add(machine(result["machine"]))
        link = f"[{name}](benchmarks/results/{result['figure']['file']})"
        if name in FINDINGS:
            found = [finding.row() for finding in FINDINGS[name](result)]
            rows += [[link, *found[0]], *(["", *row] for row in found[1:])]
        else:
            told = "\n".join(f"- {e['sentence']}" for e in result["summary"].values())
            growth = f"\nHow time and memory grow ({link}):\n\n{told}\n"
    if not rows:
        return NOTHING_YET.format("sftkit bench --full")
    table = markdown(["benchmark, its figure", "what", "measured", "goal", ""], rows)
    where = "; ".join(sorted(machines))
    return (
        "Every benchmark with its goal. What is compared was measured in turns, in one run; "
        "ratios are of medians, in brackets the smallest and the largest within a repetition. "
        f"On {where}.\n"
        f"\n{table}{growth}"
    )
