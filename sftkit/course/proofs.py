"""What the executed notebooks have proved: every line of ``teach.proofs`` in their outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sftkit.course import notebooks

LINE = re.compile(
    r"^(?P<what>\S.*?) +"
    r"(?:max \|error\| (?P<error>= 0|< 1e[+-]\d+)|0 of (?P<count>[\d,]+) differ)"
    r" +tolerance (?P<tolerance>\S+) +ok$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Proof:
    """One comparison of two independent computations."""

    notebook: str
    what: str
    error: str  # "= 0", "< 1e-12", or "0 of 500 differ"
    tolerance: str


def collect(folder: Path | None = None) -> list[Proof]:
    """The proofs in the outputs of all executed notebooks, in the order of the course."""
    import nbformat

    found = []
    for source in notebooks.sources(folder):
        if not source.executed.is_file():
            continue
        notebook = nbformat.read(source.executed, as_version=4)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                for match in LINE.finditer(output.get("text", "")):
                    count = match["count"]
                    error = f"0 of {count} differ" if count else match["error"]
                    proof = Proof(source.name, match["what"], error, match["tolerance"])
                    found.append(proof)
    return found
