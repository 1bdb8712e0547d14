"""Our loop against Hugging Face Trainer, on real tweets: speed, accuracy, memory.

    python benchmarks/classification.py            # five repetitions, about half an hour
    python benchmarks/classification.py --quick    # a smoke test

Every measurement runs in a fresh process, so that its peak memory is its own. The contestants
take turns (A B C D A B C D ...), so that a change of the machine's mood meets all of them.
Repetition r uses seed r for everyone: head, dropout and order of the data.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.contestants import (  # noqa: E402
    CONTESTANTS,
    SAME_MATHEMATICS,
    configuration,
)
from sftkit.files import read_json, write_json  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "classification.json"
SETTINGS: dict[str, Any] = {"batch_size": 32, "lr": 2e-4, "epochs": 1, "max_length": 64}
GOALS = {"trainer-default": 2.5, "trainer-tuned": 1.2, "limit_share": 0.75}
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy")


def prepare(rows: int, test_rows: int, folder: Path) -> list[str]:
    """Encode the tweets once for all contestants. Returns the classes' names."""
    from datasets import DatasetDict, disable_progress_bars

    from sftkit import corpora, encode, models

    disable_progress_bars()
    corpus = corpora.load("tweets", limit=rows, seed=0)
    test = corpus["test"].shuffle(seed=0)
    corpus = DatasetDict(
        train=corpus["train"], test=test.select(range(min(test_rows, len(test))))
    )
    names = corpus["train"].features["label"].names
    _, tokenizer = models.load("minilm", names)
    encoded = encode.classification(corpus, tokenizer, SETTINGS["max_length"])
    # Trainer's sampler by length reads this column; without it, it would count every row.
    lengths = [len(ids) for ids in encoded["train"]["input_ids"]]
    encoded["train"] = encoded["train"].add_column("length", lengths)
    encoded.save_to_disk(folder)
    return names


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One measurement in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        answer, question = Path(folder) / "answer.json", Path(folder) / "job.json"
        write_json(question, job | {"answer": str(answer)})
        script = Path(__file__).with_name("contestants.py")
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, str(script), str(question)],
            capture_output=True, text=True, env=environment, cwd=folder,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{job['contestant']} failed:\n{done.stderr[-3000:]}")
        return read_json(answer)


def interval(values: list[float]) -> tuple[float, float, float] | None:
    """Mean and 95 % interval of a mean by Student's t; None below two values."""
    from scipy.stats import t

    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    quantile = float(t.ppf(0.975, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


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
            "accuracy_interval": interval(column(name, "accuracy")),
        }
        if name == "ours" or "ours" not in by_name:
            continue
        ours, theirs = (column(n, "examples_per_second") for n in ("ours", name))
        paired = [a / b for a, b in zip(ours, theirs, strict=True)]
        gaps = zip(column("ours", "accuracy"), column(name, "accuracy"), strict=True)
        gap = interval([a - b for a, b in gaps])
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
    import matplotlib

    matplotlib.use("Agg")
    from sftkit.teach import show

    names = [n for n in CONTESTANTS if n in result["summary"]][::-1]
    panels = (
        ("examples_per_second", 1, "examples / s"),
        ("accuracy", 100, "test accuracy, %"),
        ("peak_memory_mb", 1e-3, "peak memory, GB"),
    )
    fig, axes = show.new_figure(0.5 * len(names) + 1.1, columns=3, sharey=True)
    for ax, (key, scale, label) in zip(axes, panels, strict=True):
        for y, name in enumerate(names):
            values = [scale * run[key] for run in result["runs"] if run["contestant"] == name]
            mine = name.startswith("ours")
            style = dict(color=show.COLOURS[0 if mine else 2], marker="o" if mine else "s")
            ax.plot(values, [y] * len(values), linestyle="", alpha=0.5, markersize=5, **style)
            ax.plot([statistics.median(values)], [y], marker="|", markersize=16, color="black")
        ax.set_xlabel(label)
        ax.margins(y=0.12)
    for ax in (axes[0], axes[2]):
        ax.set_xlim(0, 1.1 * ax.dataLim.xmax)
    labels = [textwrap.fill(CONTESTANTS[n], 24) for n in names]
    axes[0].set_yticks(range(len(names)), labels, fontsize=9)
    fig.suptitle(title(result["summary"]), fontsize=11, fontweight="bold", x=0.01, ha="left")
    alt = f"{title(result['summary'])}. " + "; ".join(
        f"{CONTESTANTS[n]} {result['summary'][n]['examples_per_second']:.0f}"
        for n in names[::-1]
    )
    result["figure"] = {"file": path.name, "alt": alt + " (examples per second)."}
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, metadata={"Software": None, "Description": alt})


def title(summary: dict[str, Any]) -> str:
    """The finding in a sentence."""
    ratios = [
        f"{summary[n]['ours_over_this']['ratio_of_medians']:.2f} times {text}"
        for n, text in (("trainer-default", "Trainer"), ("trainer-tuned", "Trainer tuned"))
        if "ours_over_this" in summary.get(n, {})
    ]
    return "Speed of our loop: " + ", ".join(ratios) if ratios else "Speed of training loops"


def machine() -> dict[str, Any]:
    """Machine facts and versions, for the result file."""
    from sftkit import device

    versions = {name: metadata.version(name) for name in PACKAGES}
    return {
        "machine": device.facts() | {"gflops_float32": device.matrix_gflops()},
        "versions": {"python": ".".join(map(str, sys.version_info[:3]))} | versions,
    }


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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=2000, help="training tweets")
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="64 rows, once, not warmed up")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON; figure beside it")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rows, options.test_rows, options.repetitions = min(64, options.rows), 100, 1
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        classes = prepare(options.rows, options.test_rows, data)
        shared = SETTINGS | {"data": str(data), "classes": classes,
                             "warm_up": not options.quick, "quick": options.quick}  # fmt: skip
        runs: list[dict[str, Any]] = []
        for repetition in range(options.repetitions):
            for name in options.contestants:
                job = shared | {"contestant": name, "seed": repetition}
                runs.append(measure(job) | {"order": len(runs)})
                print(f"{repetition + 1}  {name:22} "
                      f"{runs[-1]['examples_per_second']:6.1f} examples/s  "
                      f"accuracy {runs[-1]['accuracy']:.3f}", flush=True)  # fmt: skip
    result = {
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "minutes": (time.time() - started) / 60,
        "quick": options.quick,
        **machine(),
        "settings": SETTINGS | {
            "model": "minilm", "data": "tweets", "rows": options.rows,
            "test_rows": options.test_rows, "repetitions": options.repetitions,
        },
        "configurations": {name: configuration(name, SETTINGS) for name in options.contestants},
        "same_mathematics": SAME_MATHEMATICS,
        "goals": GOALS,
        "summary": summarize(runs),
        "runs": runs,
    }  # fmt: skip
    figure(result, options.out.with_suffix(".png"))
    write_json(options.out, result)
    report(result["summary"])


if __name__ == "__main__":
    main()
