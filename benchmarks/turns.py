"""Contestants take turns, each measurement in a fresh process: what all benchmarks share.

A benchmark is a module with

* ``CONTESTANTS``: name to a description for people;
* ``measure(job)``: one measurement, called in a process of its own, so that its peak memory is
  its own; gives a dictionary that can be written as JSON.

The contestants take turns (A B C A B C ...), so that a change of the machine's mood meets all
of them. What was measured is kept in ``runs/bench`` after every turn: an interrupted benchmark
goes on from there, as long as its settings and its code are the same.

Each has three forms: the short one, some minutes, whose result stays in ``runs/bench/short``;
``--full``, whose result is part of the repository; ``--quick``, a smoke test.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sftkit.files import read_json, sha256_text, write_json  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
STORE = ROOT / "runs" / "bench"
REPETITIONS = {"quick": 1, "short": 3, "full": 5}
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy")

Run = dict[str, Any]


def parser(doc: str | None, full: str) -> argparse.ArgumentParser:
    """The command line of a benchmark.

    Args:
        doc: Its script's documentation.
        full: What the long form does more.
    """
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--full", action="store_true", help=full)
    parser.add_argument("--quick", action="store_true", help="a smoke test, once")
    parser.add_argument("--out", type=Path, help="the JSON; its figure is put beside it")
    return parser


def form(options: argparse.Namespace) -> str:
    """``"quick"``, ``"full"`` or ``"short"``."""
    return "quick" if options.quick else "full" if options.full else "short"


def result_file(options: argparse.Namespace, script: str) -> Path:
    """Where a result goes: that of the long form into the repository."""
    folder = RESULTS if form(options) == "full" else STORE / form(options)
    return options.out or folder / f"{script}.json"


def in_fresh_process(module: str, job: Run) -> Run:
    """``measure(job)`` of a module, in a process of its own.

    Stops the benchmark with the end of its error output when the process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer, question = Path(folder) / "answer.json", Path(folder) / "job.json"
        write_json(question, {"module": module, "job": job, "answer": str(answer)})
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.turns", str(question)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )
        if done.returncode:
            sys.exit(f"{module} {job.get('contestant', '')} failed:\n{done.stderr[-3000:]}")
        return read_json(answer)


def take_turns(
    module: str,
    contestants: Iterable[str],
    repetitions: int,
    shared: Mapping[str, Any],
    show: Callable[[Run], str],
    *,
    keep: bool = True,
    first_seed: int = 0,
) -> list[Run]:
    """All measurements of a benchmark. Each repetition has the same ``seed`` for everyone.

    Args:
        module: Dotted name of the benchmark's module.
        shared: What every job has. Paths of temporary folders must not be in it; put those
            under names that begin with ``_``, which do not decide what was done already.
        show: One line about a measurement, printed after it.
        keep: Whether to go on from what an interrupted run of the same has measured.
    """
    runs: list[Run] = []
    names = list(contestants)
    for repetition in range(first_seed, first_seed + repetitions):
        for name in names:
            job = {"contestant": name, "seed": repetition, **shared}
            file = STORE / f"{_key(module, job)}.json"
            if keep and file.is_file():
                run = read_json(file)
            else:
                run = in_fresh_process(module, job)
                if keep:
                    write_json(file, run)
            run |= {"contestant": name, "seed": repetition, "order": len(runs)}
            runs.append(run)
            print(f"{repetition + 1}  {name:24} {show(run)}", flush=True)
    return runs


def _key(module: str, job: Run) -> str:
    """What makes two measurements the same: settings and the code of the benchmarks."""
    settings = {name: value for name, value in job.items() if not name.startswith("_")}
    code = "".join(
        hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((ROOT / "benchmarks").glob("*.py"))
    )
    text = json.dumps([module, settings, code, time.strftime("%Y-%m-%d")], sort_keys=True)
    return f"{module.rsplit('.', 1)[-1]}-{sha256_text(text)[:16]}"


def interval(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Mean and 95 % interval of a mean by Student's t; None below two values."""
    from scipy.stats import t

    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    quantile = float(t.ppf(0.975, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def column(runs: Iterable[Run], contestant: str, key: str) -> list[float]:
    """A contestant's values in the order of the repetitions."""
    own = [run for run in runs if run["contestant"] == contestant]
    return [run[key] for run in sorted(own, key=lambda run: run["seed"])]


def ratio(runs: Sequence[Run], ours: str, theirs: str, key: str) -> dict[str, float]:
    """How many times as large ``key`` is for ``ours``: medians, and within repetitions."""
    a, b = column(runs, ours, key), column(runs, theirs, key)
    paired = [x / y for x, y in zip(a, b, strict=True)]
    return {
        "ratio_of_medians": statistics.median(a) / statistics.median(b),
        "paired_ratio_min": min(paired),
        "paired_ratio_max": max(paired),
    }


def medians(runs: Sequence[Run], keys: Iterable[str]) -> dict[str, dict[str, float]]:
    """Per contestant, in the order of first appearance."""
    names = list(dict.fromkeys(run["contestant"] for run in runs))
    return {n: {k: statistics.median(column(runs, n, k)) for k in keys} for n in names}


def machine(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Machine facts and versions, for the result file."""
    from sftkit import device

    versions = {name: metadata.version(name) for name in packages}
    return {
        "machine": device.facts() | {"gflops_float32": device.matrix_gflops()},
        "versions": {"python": ".".join(map(str, sys.version_info[:3]))} | versions,
    }


def header(started: float, **more: Any) -> dict[str, Any]:
    """What every result file begins with."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "minutes": (time.time() - started) / 60,
        **more,
    }


def points(
    runs: Sequence[Run],
    contestants: Mapping[str, str],
    panels: Sequence[tuple[str, float, str]],
    title: str,
    file: Path,
) -> dict[str, str]:
    """A figure with a panel per quantity: every repetition a point, medians as bars.

    Args:
        panels: ``(key, scale, axis label)``.

    Returns:
        Name and alternative text of the figure, for the result file.
    """
    import textwrap

    import matplotlib

    matplotlib.use("Agg")
    from sftkit.teach import show

    present = {run["contestant"] for run in runs}
    names = [name for name in contestants if name in present][::-1]
    height = 0.5 * len(names) + 1.3
    fig, axes = show.new_figure(height, columns=len(panels), sharey=True)
    for ax, (key, scale, label) in zip(_all(axes), panels, strict=True):
        for y, name in enumerate(names):
            values = [scale * value for value in column(runs, name, key)]
            mine = name.startswith("ours")
            style = dict(color=show.COLOURS[0 if mine else 2], marker="o" if mine else "s")
            ax.plot(values, [y] * len(values), linestyle="", alpha=0.5, markersize=5, **style)
            ax.plot([statistics.median(values)], [y], marker="|", markersize=16, color="black")
        ax.set_xlabel(label)
        ax.set_xlim(0, 1.1 * ax.dataLim.xmax)
        ax.margins(y=0.12)
    labels = [textwrap.fill(contestants[name], 26) for name in names]
    _all(axes)[0].set_yticks(range(len(names)), labels, fontsize=9)
    fig.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    key, scale, label = panels[0]
    told = "; ".join(
        f"{contestants[n]} {scale * statistics.median(column(runs, n, key)):.3g}"
        for n in names[::-1]
    )
    alt = f"{title}. {told} ({label}, medians)."
    file.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(file, metadata={"Software": None, "Description": alt})
    return {"file": file.name, "alt": alt}


def _all(axes: Any) -> list[Any]:
    return list(axes.flat) if hasattr(axes, "flat") else [axes]


def main(arguments: Sequence[str]) -> None:
    """Do the measurement that a file asks for."""
    question = read_json(Path(arguments[0]))
    answer = importlib.import_module(question["module"]).measure(question["job"])
    write_json(Path(question["answer"]), answer)


if __name__ == "__main__":
    main(sys.argv[1:])
