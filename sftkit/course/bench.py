"""``sftkit bench``: the repository's benchmarks by name, one after the other."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sftkit.errors import ParameterError, SftError
from sftkit.files import project_folder, read_json


@dataclass(frozen=True)
class Benchmark:
    """A script of ``benchmarks/``.

    Attributes:
        script: Its file name without ``.py``; results have the same name.
        question: What it measures.
    """

    script: str
    question: str


BENCHMARKS = {
    "classification": Benchmark(
        "classification", "a classifier's training: our loop against Hugging Face Trainer"
    ),
    "classification-reuters": Benchmark(
        "classification_reuters", "the same on news, which are longer"
    ),
    "chat": Benchmark("chat", "a chat model's training: ours against TRL's SFTTrainer"),
    "prediction": Benchmark("prediction", "prediction: ours against transformers' pipeline"),
    "collation": Benchmark("collation", "what encoding and collation take of an epoch"),
    "limit": Benchmark("limit", "the distance to this machine's limit, by phase; memory"),
    "growth": Benchmark(
        "growth", "how time and memory grow with rows, length, vocabulary, layers"
    ),
    "sweeps": Benchmark(
        "sweeps", "sweeps: two Dask workers against one, a run's overhead, 10,000 planned runs"
    ),
    "time-to-accuracy": Benchmark(
        "time_to_accuracy", "time until the usual recipe's accuracy is reached"
    ),
}


def bench(names: Sequence[str], *, full: bool = False, quick: bool = False) -> int:
    """Run benchmarks; each goes on from what it had measured when it was interrupted.

    The short form ends with a table of what was found here beside the repository's results.

    Args:
        names: None: all of them.
        full: The long form, whose results are part of the repository.
        quick: A smoke test of each.

    Returns:
        0 when all ran to their end, 1 otherwise.

    Raises:
        ParameterError: There is no such benchmark.
        SftError: This is no checkout of the repository.
    """
    folder = _folder()
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise ParameterError(
            f"There is no benchmark {', '.join(unknown)}.",
            f"There are {', '.join(BENCHMARKS)}.",
        )
    failed = []
    for name in names or BENCHMARKS:
        benchmark = BENCHMARKS[name]
        print(f"{time.strftime('%H:%M')}  {name}: {benchmark.question}", flush=True)
        arguments = ["--quick"] * quick + ["--full"] * full
        script = folder / f"{benchmark.script}.py"
        if subprocess.run([sys.executable, str(script), *arguments], check=False).returncode:
            failed.append(name)
    if not (quick or full):
        scripts = [BENCHMARKS[name].script for name in names or BENCHMARKS]
        subprocess.run([sys.executable, str(folder / "beside.py"), *scripts], check=False)
    if failed:
        print(f"did not end: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def listing() -> str:
    """Names, questions, and when each was measured last."""
    folder = _folder()
    lines = []
    for name, benchmark in BENCHMARKS.items():
        result = folder / "results" / f"{benchmark.script}.json"
        when = read_json(result)["date"] if result.is_file() else "never"
        lines.append(f"{name:22} {when:12} {benchmark.question}")
    return "\n".join([f"{'NAME':22} {'MEASURED':12} WHAT", *lines])


def _folder() -> Path:
    root = project_folder()
    if root is None or not (root / "benchmarks" / "turns.py").is_file():
        raise SftError(
            "Benchmarks are part of the repository, not of the installed package.",
            "Run this in a clone of it.",
        )
    return root / "benchmarks"
