"""Our loop against Hugging Face Trainer, on real tweets: speed, accuracy, memory.

    python benchmarks/classification.py            # 400 tweets, three contestants
    python benchmarks/classification.py --full     # 2,000, all of them: about half an hour
    python benchmarks/classification.py --quick    # a smoke test

``classification_reuters.py`` does the same on news, which are longer.

The contestants take turns (see `turns`). Repetition r uses seed r for everyone: head, dropout
and order of the data.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import turns
from benchmarks.contestants import CONTESTANTS, SAME_MATHEMATICS, configuration
from sftkit.files import write_json

SETTINGS: dict[str, Any] = {"batch_size": 32, "lr": 2e-4, "epochs": 1}
SIZES = {  # rows, test rows
    "tweets": {"quick": (64, 100), "short": (400, 300), "full": (2_000, 1_000)},
    "reuters-r8": {"quick": (64, 100), "short": (200, 300), "full": (600, 1_000)},
}
MAX_LENGTH = {"tweets": 64, "reuters-r8": 128}
SHORT = ("ours", "trainer-default", "trainer-tuned")
GOALS = {"trainer-default": 2.5, "trainer-tuned": 1.2, "limit_share": 0.75}


def prepare(data: str, rows: int, test_rows: int, folder: Path) -> list[str]:
    """Encode the texts once for all contestants. Returns the classes' names."""
    from datasets import DatasetDict, disable_progress_bars

    from sftkit import corpora, encode, models

    disable_progress_bars()
    corpus = corpora.load(data, limit=rows, seed=0)
    test = corpus["test"].shuffle(seed=0)
    corpus = DatasetDict(
        train=corpus["train"], test=test.select(range(min(test_rows, len(test))))
    )
    names = corpus["train"].features["label"].names
    _, tokenizer = models.load("minilm", names)
    encoded = encode.classification(corpus, tokenizer, MAX_LENGTH[data])
    # Trainer's sampler by length reads this column; without it, it would count every row.
    lengths = [len(ids) for ids in encoded["train"]["input_ids"]]
    encoded["train"] = encoded["train"].add_column("length", lengths)
    encoded.save_to_disk(folder)
    return names


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Per contestant: medians, intervals, and how ``ours`` compares with it."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        by_name.setdefault(run["contestant"], []).append(run)

    def column(name: str, key: str) -> list[float]:
        return [run[key] for run in by_name[name]]

    summary: dict[str, Any] = {}
    for name in by_name:
        median = {
            key: statistics.median(column(name, key))
            for key in ("examples_per_second", "seconds", "peak_memory_mb", "achieved_gflops",
                        "limit_gflops", "positions")
        }  # fmt: skip
        shares = [run["achieved_gflops"] / run["limit_gflops"] for run in by_name[name]]
        summary[name] = median | {
            "limit_share": statistics.median(shares),
            "accuracy": statistics.fmean(column(name, "accuracy")),
            "accuracy_interval": turns.interval(column(name, "accuracy")),
        }
        if name == "ours" or "ours" not in by_name:
            continue
        ours, theirs = (column(n, "examples_per_second") for n in ("ours", name))
        paired = [a / b for a, b in zip(ours, theirs, strict=True)]
        gaps = zip(column("ours", "accuracy"), column(name, "accuracy"), strict=True)
        gap = turns.interval([a - b for a, b in gaps])
        summary[name]["ours_over_this"] = {
            "ratio_of_medians": statistics.median(ours) / statistics.median(theirs),
            "paired_ratio_min": min(paired),
            "paired_ratio_max": max(paired),
            "accuracy_difference": gap,
            "equal_accuracy": None if gap is None else gap[1] <= 0 <= gap[2],
        }
    return summary


def figure(result: dict[str, Any], path: Path) -> None:
    """Speed, accuracy and memory side by side; every repetition is a point."""
    panels = (
        ("examples_per_second", 1, "examples / s"),
        ("accuracy", 100, "test accuracy, %"),
        ("peak_memory_mb", 1e-3, "peak memory, GB"),
    )
    told = f"{title(result['summary'])} ({result['settings']['data']})"
    result["figure"] = turns.points(result["runs"], CONTESTANTS, panels, told, path)


def title(summary: dict[str, Any]) -> str:
    """The finding in a sentence."""
    ratios = [
        f"{summary[n]['ours_over_this']['ratio_of_medians']:.2f} times {text}"
        for n, text in (("trainer-default", "Trainer"), ("trainer-tuned", "Trainer tuned"))
        if "ours_over_this" in summary.get(n, {})
    ]
    return "Speed of our loop: " + ", ".join(ratios) if ratios else "Speed of training loops"


def report(summary: dict[str, Any]) -> None:
    """The table, for the person who waits."""
    from sftkit.teach.show import Table

    rows = []
    for name, s in summary.items():
        over = s.get("ours_over_this")
        ratio = "" if over is None else (
            f"{over['ratio_of_medians']:.2f} "
            f"({over['paired_ratio_min']:.2f} to {over['paired_ratio_max']:.2f})"
        )  # fmt: skip
        rows.append((CONTESTANTS[name], s["examples_per_second"], ratio, 100 * s["accuracy"],
                     s["peak_memory_mb"] / 1e3, s["limit_share"]))  # fmt: skip
    header = ("", "examples/s", "ours is x times", "accuracy, %", "memory, GB", "of limit")
    print(Table(rows, header, digits=2))


def main(
    arguments: list[str] | None = None,
    data: str = "tweets",
    script: str = "classification",
    doc: str | None = __doc__,
) -> None:
    parser = turns.parser(doc, f"{SIZES[data]['full'][0]:,} texts, five times each")
    parser.add_argument("--rows", type=int, help="training texts")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS)
    options = parser.parse_args(arguments)
    form, out = turns.form(options), turns.result_file(options, script)
    all_of_them = data == "tweets" and form != "short"
    names = options.contestants or (tuple(CONTESTANTS) if all_of_them else SHORT)
    rows, test_rows = SIZES[data][form]
    settings = SETTINGS | {"max_length": MAX_LENGTH[data]}
    rows, repetitions = options.rows or rows, turns.REPETITIONS[form]
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        encoded = Path(folder) / "data"
        classes = prepare(data, rows, test_rows, encoded)
        shared = settings | {"_data": str(encoded), "rows": rows, "classes": classes,
                             "warm_up": form != "quick", "quick": form == "quick"}  # fmt: skip
        runs = turns.take_turns(
            "benchmarks.contestants", names, repetitions, shared,
            lambda run: f"{run['examples_per_second']:6.1f} examples/s  "
            f"accuracy {run['accuracy']:.3f}", keep=form != "quick",
        )  # fmt: skip
    result = turns.header(started, form=form) | turns.machine() | {
        "settings": settings | {
            "model": "minilm", "data": data, "rows": rows,
            "test_rows": test_rows, "repetitions": repetitions,
        },
        "configurations": {name: configuration(name, settings) for name in names},
        "same_mathematics": SAME_MATHEMATICS,
        "goals": GOALS,
        "summary": summarize(runs),
        "runs": runs,
    }  # fmt: skip
    figure(result, out.with_suffix(".png"))
    write_json(out, result)
    report(result["summary"])


if __name__ == "__main__":
    main()
