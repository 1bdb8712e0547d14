"""A run before it starts: its parameters checked, and the hash that names its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftkit.course import hashes, notebooks
from sftkit.course.parameters import Parameter, fill, parse
from sftkit.errors import ParameterError

SET_BY_RUNNER = ("out", "resume")  # say where and how, not what: no part of the hash


@dataclass(frozen=True)
class PlannedRun:
    """Checked parameters, and what goes into the hash."""

    source: notebooks.Source
    notebook: Any
    parameters: dict[str, Any]  # as the kernel gets them, but for SET_BY_RUNNER
    accepts: frozenset[str]  # those of SET_BY_RUNNER that the notebook has
    hash: str
    parts: dict[str, Any]  # what went into the hash

    def folder(self, store: Path) -> Path:
        """``<store>/<notebook>/<first 12 digits of the hash>``."""
        return Path(store).resolve() / self.source.name / self.hash[:12]


@dataclass(frozen=True)
class Prepared:
    """A notebook read once, from which any number of runs can be planned.

    Files that parameters name are hashed once, so a plan holds for the moment when it was
    made.
    """

    source: notebooks.Source
    notebook: Any
    known: list[Parameter]  # those that a user may set
    accepts: frozenset[str]
    parts: dict[str, Any]  # hashes of notebook and package
    _paths: dict[Any, Any] = field(default_factory=dict, repr=False)
    _assets: dict[frozenset[str], dict[str, str]] = field(default_factory=dict, repr=False)

    def run(self, parameters: Mapping[str, Any], repetition: int = 0) -> PlannedRun:
        """One run with these parameters.

        Args:
            parameters: Values, or texts as typed on a command line.
            repetition: From 1 on, the same run once more, in a folder of its own.

        Raises:
            ParameterError: A parameter is unknown, or a value does not fit.
        """
        for name in SET_BY_RUNNER:
            if name in parameters:
                raise ParameterError(
                    f"Parameter '{name}' is set by the runner.",
                    "Use --store DIR for the folder of all runs, and --resume to go on.",
                )
        values = fill(self.known, parameters, self.source.name)
        absolute, hashed = hashes.inputs(values, parameters, self._paths)
        texts = [t for v in values.values() for t in (v if isinstance(v, list) else [v])]
        words = frozenset(text for text in texts if isinstance(text, str))
        if words not in self._assets:
            header = notebooks.header(self.notebook, self.source.name)
            used = set(header.assets) | (words & hashes.known_assets() if words else set())
            self._assets[words] = hashes.assets_hash(used)
        parts = {
            "notebook": self.parts["notebook"],
            "parameters": hashed,
            "assets": self._assets[words],
            "package": self.parts["package"],
        }
        if repetition:
            parts["repetition"] = repetition
        return PlannedRun(
            self.source, self.notebook, absolute, self.accepts, hashes.of_json(parts), parts
        )


def prepare(notebook: str | Path, folder: Path | None = None) -> Prepared:
    """Read a notebook and hash what all its runs share.

    Raises:
        ParameterError: The notebook is unknown.
    """
    source = notebooks.find(notebook, folder)
    content = notebooks.read(source)
    cell = notebooks.parameters_cell(content)
    known = parse(cell.source, source.name) if cell is not None else []
    return Prepared(
        source,
        content,
        [p for p in known if p.name not in SET_BY_RUNNER],
        frozenset(p.name for p in known if p.name in SET_BY_RUNNER),
        {
            "notebook": hashes.source_hash(content),
            "package": hashes.package_hash(hashes.code_of(content)),
        },
    )
