"""What the short form of benchmarks found on this machine, beside the repository's results.

`sftkit bench` calls this in the end, with the names of the scripts that it ran.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.readme_bench import FINDINGS, Finding, Record
from benchmarks.turns import RESULTS, STORE
from sftkit.course.bench import BENCHMARKS
from sftkit.files import read_json
from sftkit.teach.show import Table


def rows(scripts: Sequence[str], here: Path, there: Path) -> list[list[str]]:
    """Benchmark, what it found, here, in the repository, and the goal."""
    found = []
    for name, findings in FINDINGS.items():
        script = BENCHMARKS[name].script
        if script not in scripts or not (here / f"{script}.json").is_file():
            continue
        own, kept = (_by_what(folder / f"{script}.json", findings) for folder in (here, there))
        found += [[name, what, told, kept.get(what, ["–"])[0], goal]
                  for what, (told, goal, _) in own.items()]  # fmt: skip
    return found


def _by_what(file: Path, findings: Callable[[Record], list[Finding]]) -> dict[str, list[str]]:
    if not file.is_file():
        return {}
    return {what: rest for what, *rest in (f.row() for f in findings(read_json(file)))}


def main(scripts: Sequence[str]) -> None:
    """Print the table; growth tells its exponents itself."""
    if found := rows(scripts, STORE / "short", RESULTS):
        print(Table(found, ["benchmark", "what", "here", "repository", "goal"]))


if __name__ == "__main__":
    main(sys.argv[1:])
