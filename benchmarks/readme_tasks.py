"""The README's table of notebooks 09 to 13: baseline, from scratch, fine-tuned, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import entities, questions, summaries, translation
from benchmarks.campaign import read_records
from benchmarks.tables import NOTHING_YET, machine, markdown

Record = Mapping[str, Any]
HEADER = ["task", "trained on", "measure, %", "baseline", "from scratch", "fine-tuned",
          "seconds"]  # fmt: skip
CAMPAIGNS = ("entities", "questions", "translation", "summaries", "instruction")


def tasks_part(folder: Path) -> str:
    """One row for each size and task with records.

    Args:
        folder: Of the records.
    """
    runs = {name: read_records(folder / f"{name}.json") for name in CAMPAIGNS}
    rows = [
        *_entities(runs["entities"]),
        *_questions(runs["questions"]),
        *_translation(runs["translation"]),
        *_summaries(runs["summaries"]),
        *_instruction(runs["instruction"]),
    ]
    if not rows:
        return NOTHING_YET.format("python benchmarks/entities.py")
    machines = sorted({machine(r["machine"]) for some in runs.values() for r in some})
    return (
        "On test data, mean over seeds, in brackets the smallest and the largest; one number "
        "alone is of one run. Baselines are tuned on validation data.\n\n"
        f"{markdown(HEADER, rows)}\n"
        "BLEU is of whole test sets, F1 of entities, of words (questions) or ROUGE-L "
        "(summaries); what instructions ask for is judged by a program. The rules of 10 know "
        "the format of docstrings; where they say nothing, the block answers whose embedding "
        "is nearest to the question's, or (rules first) the fine-tuned reader. Seconds are "
        "processor time of a whole fine-tuned run, loading and testing included, since runs "
        "shared "
        f"the machine (13: of the training, by the clock). On {'; '.join(machines)}.\n"
    )


def over(runs: Sequence[Record], value: Callable[[Record], float]) -> str:
    """``"79.4 (79.1 to 79.8)"``, the number alone for one run, or nothing."""
    found = [value(run) for run in runs]
    if not found:
        return ""
    told = f"{statistics.fmean(found):.1f}"
    return told if len(found) == 1 else f"{told} ({min(found):.1f} to {max(found):.1f})"


def _seconds(runs: Sequence[Record]) -> str:
    known = [run["processor_seconds"] for run in runs]
    return f"{statistics.median(known):,.0f}" if known else ""


def _of(runs: Sequence[Record], **wanted: Any) -> list[Record]:
    return [r for r in runs if wanted.items() <= r["job"].items()]


def _row(
    task: str, on: str, measure: str, bar: str, parts: Sequence[Sequence[Record]],
    value: Callable[[Record], float],
) -> list[list[str]]:  # fmt: skip
    """A row of baseline (named), from scratch and fine-tuned, if there is a fine-tuned run."""
    if not parts[-1]:
        return []
    baseline, *others = (over(part, value) for part in parts)
    told = f"{bar}: {baseline}" if baseline else ""
    return [[task, on, measure, told, *others, _seconds(parts[-1])]]


def _entities(runs: Sequence[Record]) -> list[list[str]]:
    names = (entities.BASELINE, "from scratch, CRF", "pretrained, CRF")
    rows = []
    for size in entities.EPOCHS_AT:
        parts = [_of(runs, group="curve", model=name, sentences=size) for name in names]
        what = "09 names in Chinese news"
        on = f"{size:,} sentences"
        rows += _row(what, on, "F1", "CRF on features", parts, lambda r: 100 * r["f1"][0])
    return rows


def _questions(runs: Sequence[Record]) -> list[list[str]]:
    rows, untrained = [], [r for r in runs if r["job"]["model"] in questions.BASELINES]
    for size in sorted({r["job"]["questions"] for r in _of(runs, model="fine-tuned")}):
        scratch, tuned = (
            _of(runs, model=name, questions=size) for name in ("from scratch", "fine-tuned")
        )
        mixed = [r["with_rules"] for r in tuned]
        task, on = "10 questions about docstrings", f"{size:,} questions"
        for key, measure in (("f1", "F1"), ("unnamed", "F1, nothing named")):

            def value(run: Record, key: str = key) -> float:
                return 100 * run[key][0]

            best = max(untrained, key=value, default=None)  # in its favour: on test questions
            name, bar = (best["job"]["model"], [best]) if best else ("", [])
            rows += _row(task, on, measure, name, [bar, scratch, tuned], value)
            if mixed:
                rows.append(["", "", f"{measure}, rules first", rows[-1][3], "",
                             over(mixed, value), ""])  # fmt: skip
            task, on = "", ""
    return rows


def _translation(runs: Sequence[Record]) -> list[list[str]]:
    rows = []
    chinese, french = translation.LANGUAGE, translation.SECOND
    for group, language, name in (
        ("headline", chinese, "Chinese"),
        ("long", chinese, "Chinese"),
        ("language", french, "French"),
    ):
        bars = _of(runs, group="baselines", language=language, pairs=translation.ALL)
        mine = _of(runs, group=group, language=language)
        parts = [
            _of(bars, model="nearest"),
            *(_of(mine, model=m) for m in (translation.SCRATCH, translation.PRETRAINED)),
        ]
        if parts[-1]:
            first = parts[-1][0]
            on = f"{first['train_pairs']:,} pairs, {first['epochs']:.0f} passes"
            task = f"11 English to {name}"
            rows += _row(task, on, "BLEU", "nearest", parts, lambda r: r["bleu"][0])
    return rows


def _summaries(runs: Sequence[Record]) -> list[list[str]]:
    def rouge(r: Record) -> float:
        return 100 * r["rougeL"]

    without = [_of(runs, model=name) for name in (summaries.LEAD, summaries.RANKED)]
    best = max(without, key=lambda part: max(map(rouge, part), default=0.0))
    names = (summaries.SCRATCH, summaries.DENOISED)
    own = [best, *(_of(runs, model=name) for name in names)]
    zero, tuned = (_of(runs, model=name) for name in (summaries.ZERO, summaries.TUNED))
    return [
        *_row("12 first lines, encoder-decoder", "all pairs", "ROUGE-L",
              str(best[0]["job"]["model"]) if best else "", own, rouge),
        *_row("12 first lines, SmolLM2", f"{summaries.CHAT_ROWS} pairs", "ROUGE-L",
              "as it is", [zero, [], tuned], rouge),
    ]  # fmt: skip


def _instruction(runs: Sequence[Record]) -> list[list[str]]:
    names = {
        "short": "LoRA",
        "live": "LoRA",
        "long": "LoRA",
        "all": "all parameters",
        "top": "the last {} blocks",
    }
    groups: dict[tuple[str, int], list[Record]] = {}
    for group, name in names.items():
        for run in (r for r in runs if r["group"] == group):
            last = run["parameters"].get("train", "").removeprefix("top-")
            what = (f"13 instructions, {name.format(last)}", run["metrics"]["train_rows"])
            groups.setdefault(what, []).append(run)
    return [
        [
            what,
            f"{rows:,} conversations",
            f"done as asked, {mine[0]['parameters']['eval_rows']} tasks",
            *_before_and_after(mine),
        ]
        for (what, rows), mine in groups.items()
    ]


def _before_and_after(runs: Sequence[Record]) -> list[str]:
    before, few, after = (
        over(runs, lambda r, key=key: 100 * r["metrics"][key]["value"])
        for key in ("following_before", "following_few_shot", "following")
    )
    trained = statistics.median(r["metrics"]["seconds"]["training"] for r in runs)
    return [f"as downloaded: {before}; with examples: {few}", "", after, f"{trained:,.0f}"]
