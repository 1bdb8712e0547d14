"""Notebook sources: where they are, how they are read, what their headers say.

A source is a Python file in the percent format. Cells are written there and nowhere else;
`build` makes the executed notebook from it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftkit.errors import ParameterError, RunError
from sftkit.files import project_folder, sha256_text

HEADER_KEYS = {"strict", "minutes", "fast", "assets"}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


@dataclass(frozen=True)
class Header:
    """What a source says about itself, under ``sftkit:`` in its first comment block."""

    strict: bool = False  # outputs repeat exactly, so nbval compares them
    minutes: float = 0  # on 2 cores, default parameters
    fast: dict[str, Any] | None = None  # parameters for tests
    assets: tuple[str, ...] = ()  # pinned models and data sets that it uses


@dataclass(frozen=True)
class Source:
    """One notebook: its source file, and where its executed form lies."""

    path: Path

    @property
    def name(self) -> str:
        """``07_text_classification``."""
        return self.path.stem

    @property
    def number(self) -> int | None:
        """``7``, or None for a notebook outside the course."""
        match = re.match(r"(\d+)_", self.name)
        return int(match.group(1)) if match else None

    @property
    def executed(self) -> Path:
        """The executed notebook: one folder up from ``src``, otherwise beside the source."""
        folder = self.path.parent
        return (folder.parent if folder.name == "src" else folder) / f"{self.name}.ipynb"


def default_folder() -> Path:
    """The folder ``notebooks`` of the checkout, or of the working folder without one."""
    return (project_folder() or Path.cwd()) / "notebooks"


def sources(folder: Path | None = None) -> list[Source]:
    """All sources in ``folder/src``, in the order of their numbers."""
    paths = sorted(((folder or default_folder()) / "src").glob("*.py"))
    return [Source(path) for path in paths]


def find(name: str | Path, folder: Path | None = None) -> Source:
    """A notebook by number ("07", "7"), name, name without number, or path.

    Raises:
        ParameterError: No notebook, or more than one, answers to the name.
    """
    text = str(name)
    if text.endswith((".py", ".ipynb")):
        path = Path(text).expanduser()
        if not path.is_file():
            raise ParameterError(f"There is no file {text}.", "Check the path.")
        return Source(path.resolve())
    known = sources(folder)
    if text.isdigit():
        found = [source for source in known if source.number == int(text)]
    else:
        found = [s for s in known if text in (s.name, re.sub(r"^\d+_", "", s.name))]
    if len(found) == 1:
        return found[0]
    names = [source.name for source in known]
    if not names:
        where = (folder or default_folder()) / "src"
        raise ParameterError(
            f"There is no notebook {text}: {where} holds no sources.",
            "Work in a checkout of the project, or give the path of a notebook.",
        )
    bare = {re.sub(r"^\d+_", "", n): n for n in names} | {n: n for n in names}
    near = difflib.get_close_matches(text, bare, n=1)
    hint = f"Did you mean {bare[near[0]]}? " if near else ""
    raise ParameterError(
        f"There is no notebook {text}.", f"{hint}There are: {', '.join(names)}."
    )


def find_all(names: Iterable[str | Path], folder: Path | None = None) -> list[Source]:
    """The notebooks that these names stand for; all there are when none is named."""
    wanted = list(names)
    return [find(name, folder) for name in wanted] if wanted else sources(folder)


def read(source: Source) -> Any:
    """The notebook of a source, without outputs and with fixed cell ids.

    Args:
        source: A percent file, or an ``.ipynb`` (a learner's own copy).

    Returns:
        ``nbformat.NotebookNode``, version 4.5; metadata hold the kernel and our header.

    Raises:
        RunError: The file cannot be read as a notebook, or its header is not valid.
    """
    import nbformat

    text = source.path.read_text(encoding="utf-8")
    try:
        if source.path.suffix == ".ipynb":
            notebook = nbformat.reads(text, as_version=4)
        else:
            import jupytext

            notebook = jupytext.reads(text, fmt="py:percent")
    except Exception as error:
        raise RunError(
            f"{source.path.name} cannot be read as a notebook: {error}",
            "Sources are Python in the percent format, with a YAML header.",
        ) from error
    facts = dict(notebook.metadata.get("sftkit", {}))
    facts.pop("hashes", None)
    clean = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL, "sftkit": facts})
    for cell in notebook.cells:
        keep: dict[str, Any] = {}
        if cell.metadata.get("tags"):
            keep["tags"] = list(cell.metadata["tags"])
        for name in ("jupyter", "slideshow"):  # folded code, kind of slide
            if name in cell.metadata:
                keep[name] = dict(cell.metadata[name])
        if "injected-parameters" in keep.get("tags", []):
            continue  # of an earlier run; this one gets its own
        make = {
            "code": nbformat.v4.new_code_cell,
            "markdown": nbformat.v4.new_markdown_cell,
            "raw": nbformat.v4.new_raw_cell,
        }[cell.cell_type]
        clean.cells.append(make(cell.source, metadata=keep))
    clean.nbformat, clean.nbformat_minor = 4, 5
    set_ids(clean)
    header(clean, source.name)
    return clean


def set_ids(notebook: Any) -> None:
    """Give each cell an id that depends on its text alone (and on how often it occurred)."""
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        text = f"{cell.cell_type}\n{cell.source}"
        seen[text] = seen.get(text, 0) + 1
        cell.id = sha256_text(f"{text}\n{seen[text]}")[:12]


def header(notebook: Any, name: str = "notebook") -> Header:
    """The header of a notebook that `read` gave.

    Raises:
        RunError: A key is unknown or has the wrong type.
    """
    facts = dict(notebook.metadata.get("sftkit", {}))
    facts.pop("hashes", None)
    unknown = sorted(set(facts) - HEADER_KEYS)
    if unknown:
        raise RunError(
            f"{name}: the header has unknown keys: {', '.join(unknown)}.",
            f"Known keys under 'sftkit:' are {', '.join(sorted(HEADER_KEYS))}.",
        )
    strict, minutes = facts.get("strict", False), facts.get("minutes", 0)
    fast, assets = facts.get("fast"), facts.get("assets", [])
    for key, fine in {
        "strict": isinstance(strict, bool),
        "minutes": isinstance(minutes, int | float),
        "fast": fast is None or isinstance(fast, dict),
        "assets": isinstance(assets, list) and all(isinstance(a, str) for a in assets),
    }.items():
        if not fine:
            raise RunError(f"{name}: header key '{key}' has the wrong type: {facts[key]!r}.")
    return Header(strict, minutes, dict(fast) if fast else None, tuple(assets))


FEW_WORDS = 5


def question(notebook: Any) -> str:
    """The first sentence of the first cell that ends in a question mark, or "".

    A question of few words comes with what stands before it in its paragraph.
    """
    if not notebook.cells or notebook.cells[0].cell_type != "markdown":
        return ""
    for paragraph in notebook.cells[0].source.split("\n\n"):
        text = " ".join(paragraph.split()).strip("*_> ")
        match = re.search(r"[^.?!]*\?", text)
        if match and not text.startswith("#"):
            short = len(match.group(0).split()) < FEW_WORDS
            found = text[: match.end()] if short else match.group(0)
            return found.strip("*_> \"'“”")
    return ""


def title(notebook: Any) -> str:
    """The first heading, without its sign, or ""."""
    first = notebook.cells[0].source if notebook.cells else ""
    return first.splitlines()[0].lstrip("# ").strip() if first.startswith("# ") else ""


def parameters_cell(notebook: Any) -> Any | None:
    """The cell tagged ``parameters``, or None."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            return cell
    return None
