"""What can be said about notebooks without running them."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftkit.course import hashes, notebooks
from sftkit.course.build import hashes_of
from sftkit.course.handouts import CHECK, EXERCISE, SOLUTION, tags
from sftkit.course.kernel import machine_paths
from sftkit.course.parameters import fill, parse
from sftkit.errors import SftError

LINE = 88  # characters of a code line
CELL, LONG_CELL = 25, 15  # lines of code: refused above the first, remarked above the second
SECTIONS = ("Exercises", "Summary", "Where to go next")
TIME = re.compile(r"\b(minutes?|seconds?|min|s)\b[^.\n]*\b(2|two) (cores|processors)", re.I)
MARKDOWN_PICTURE = re.compile(r"!\[([^\]]*)\]\(")
HTML_PICTURE = re.compile(r"<img\b[^>]*>", re.I)
PICTURES = ("image/png", "image/jpeg", "image/svg+xml", "image/gif")


@dataclass
class Report:
    """Problems fail the check; remarks are for the author."""

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def check(folder: Path | None = None) -> list[str]:
    """All problems of all notebooks in a folder; empty when there are none."""
    return examine(folder).problems


def examine(folder: Path | None = None) -> Report:
    """Problems and remarks of all notebooks in a folder."""
    folder = folder or notebooks.default_folder()
    report = Report()
    known = notebooks.sources(folder)
    if not known:
        report.problems.append(f"{folder / 'src'} holds no notebook sources")
    for source in known:
        _source(source, report)
    expected = {source.executed.name for source in known}
    for path in sorted(folder.glob("*.ipynb")):
        if path.name not in expected:
            report.problems.append(f"{path.name}: no source of this name in src/")
    return report


def _source(source: notebooks.Source, report: Report) -> None:
    try:
        notebook = notebooks.read(source)
        header = notebooks.header(notebook, source.name)
    except SftError as error:
        report.problems.append(f"{source.name}: {error.what}")
        return

    def problem(text: str) -> None:
        report.problems.append(f"{source.name}: {text}")

    parameters = _parameters(notebook, header.fast, source.name)
    for text in [*_parts(notebook), *parameters, *_exercises(notebook)]:
        problem(text)
    for position, cell in enumerate(notebook.cells, 1):
        where = f"cell {position} (`{_first_line(cell.source)}`)"
        if cell.cell_type == "markdown":
            for text in [*_markdown(cell.source), *_links(cell.source, source)]:
                problem(f"{where}: {text}")
            continue
        if "raises-exception" in cell.metadata.get("tags", []):
            problem(f"{where}: tag raises-exception stops a run; use try and except")
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if wide := [line for line in lines if len(line) > LINE]:
            problem(f"{where}: a line of {len(wide[0])} characters, more than {LINE}")
        if "parameters" in cell.metadata.get("tags", []):
            continue  # as long as there are parameters
        if CHECK in tags(cell):
            continue  # folded: it holds cases and planted mistakes
        if len(lines) > CELL:
            problem(f"{where}: {len(lines)} lines of code, more than {CELL}")
        elif len(lines) > LONG_CELL:
            report.remarks.append(f"{source.name}: {where}: {len(lines)} lines of code")
    for text in _executed(source, notebook):
        problem(text)


def _parts(notebook: Any) -> list[str]:
    """The parts that every notebook has."""
    found = []
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        found.append("the first cell must be markdown that begins with '# ' and the title")
    else:
        if not notebooks.question(notebook):
            found.append("the first cell must ask the notebook's question")
        if not TIME.search(first.source):
            found.append("the first cell must say the time, as in '6 minutes on 2 cores'")
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    for section in SECTIONS:
        if not re.search(rf"^#+ {section}\b", text, re.M | re.I):
            found.append(f"a section '{section}' is missing")
    return found


def _exercises(notebook: Any) -> list[str]:
    """Faults that would spoil a student's copy, which has no solution cells."""
    found: list[str] = []
    order: list[str] = []
    solved: set[str] = set()
    used: dict[str, int] = {}  # name to the cell that uses it
    for position, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code":
            continue
        kinds = set(tags(cell)) & {EXERCISE, CHECK, SOLUTION}
        order += sorted(kinds)
        try:
            nodes = list(ast.walk(ast.parse(cell.source)))
        except SyntaxError:  # a magic command
            continue
        if SOLUTION in kinds:
            solved |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        else:
            names = {n.id: position for n in nodes if isinstance(n, ast.Name)}
            used = names | used
    if order != [EXERCISE, CHECK, SOLUTION] * (len(order) // 3):
        found.append("exercises must be cells tagged exercise, check, solution, in this order")
    for name in sorted(solved & used.keys()):
        found.append(f"cell {used[name]} uses {name}, which only the solution defines")
    return found


def _parameters(notebook: Any, fast: dict[str, Any] | None, name: str) -> list[str]:
    cell = notebooks.parameters_cell(notebook)
    if cell is None:
        return ["a code cell tagged 'parameters' is missing"]
    try:
        known = parse(cell.source, name)
        fill(known, {p.name: p.default for p in known}, name)
        fill(known, fast or {}, name)
    except SftError as error:
        return [f"parameters: {error.what}"]
    found = []
    for parameter in known:
        if not parameter.type:
            found.append(f"parameter {parameter.name} has no type")
        if not parameter.help:
            found.append(f"parameter {parameter.name} has no comment")
        elif "=" in parameter.help:
            found.append(f"parameter {parameter.name}: papermill cannot read '=' in a comment")
    if not any(parameter.name == "out" for parameter in known):
        found.append("parameter 'out' (folder for results) is missing")
    names = {parameter.name for parameter in known}
    for position, other in enumerate(notebook.cells, 1):
        if other.cell_type == "code" and other is not cell:
            for again in sorted(names & _assigned(other.source)):
                found.append(f"cell {position} gives the parameter {again} another value")
    return found


def _assigned(code: str) -> set[str]:
    """Names that a cell gives a value of another kind, outside of functions.

    ``n = min(n, 9)`` and ``n = 0`` bound a parameter or switch it off: they are meant.
    """
    try:
        todo: list[ast.AST] = [ast.parse(code)]
    except SyntaxError:  # a magic command
        return set()
    inside = (ast.FunctionDef, ast.ClassDef, ast.Lambda)
    loops = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    found = set()
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        if isinstance(node, ast.Assign) and _is_meant(node):
            continue
        todo += [n for n in ast.iter_child_nodes(node) if not isinstance(n, (*inside, *loops))]
    return found


def _is_meant(node: ast.Assign) -> bool:
    read = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
    given = {
        n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)
    }
    return isinstance(node.value, ast.Constant) or given <= read


def _markdown(text: str) -> list[str]:
    found = ["a picture without alt text" for alt in MARKDOWN_PICTURE.findall(text) if not alt]
    for tag in HTML_PICTURE.findall(text):
        if not re.search(r"""\balt\s*=\s*["'][^"']+["']""", tag, re.I):
            found.append("a picture without alt text")
    return found


def _links(text: str, source: notebooks.Source) -> list[str]:
    """Links to notebooks and files that are not there."""
    folder = source.executed.parent
    found = []
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        path = folder / target
        known = path == source.executed or path.exists() or _is_source(path)
        if "://" not in target and not target.startswith("attachment:") and not known:
            found.append(f"a link to {target}, which does not exist")
    return found


def _is_source(path: Path) -> bool:
    """Whether a notebook that is not built yet has a source."""
    return (path.parent / "src" / f"{path.stem}.py").is_file()


def _executed(source: notebooks.Source, notebook: Any) -> list[str]:
    """Problems of the executed notebook, compared with its source."""
    import nbformat

    remedy = f"build it: sftkit build {source.name}"
    if not source.executed.is_file():
        return [f"{source.executed.name} is missing; {remedy}"]
    try:
        executed = nbformat.read(source.executed, as_version=4)
    except Exception as error:  # nbformat raises many kinds
        return [f"{source.executed.name} cannot be read ({error}); {remedy}"]
    found = []
    facts = dict(executed.metadata.get("sftkit", {}))
    stored = facts.pop("hashes", {})
    if hashes.source_hash(executed) != hashes.source_hash(notebook):
        found.append(f"the executed notebook has other cells than its source; {remedy}")
    else:
        current = hashes_of(notebook)
        for part in ("source", "package", "assets"):
            if stored.get(part) != current[part]:
                found.append(f"the {part} changed since the notebook was built; {remedy}")
        if facts != dict(notebook.metadata.sftkit):
            found.append(f"the header changed since the notebook was built; {remedy}")
        if [c.id for c in executed.cells] != [c.id for c in notebook.cells]:
            found.append(f"cell ids are not those of the source; {remedy}")
    counts = []
    for position, cell in enumerate(executed.cells, 1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        where = f"cell {position} (`{_first_line(cell.source)}`)"
        if cell.execution_count is None:
            found.append(f"{where}: has not been executed; {remedy}")
        counts.append(cell.execution_count)
        if SOLUTION in tags(cell):
            said = "".join(output.get("text", "") for output in cell.outputs)
            if ": right on " not in said:
                found.append(f"{where}: the solution does not pass its own check")
        found += [f"{where}: {text}" for output in cell.outputs for text in _output(output)]
    if None not in counts and counts != list(range(1, len(counts) + 1)):
        found.append(f"cells were not executed once each, from top to bottom; {remedy}")
    return found


def _output(output: Any) -> list[str]:
    if output.output_type == "error":
        return [f"an error in the outputs: {output.ename}"]
    found = []
    data = {"text": output.get("text", "")} | dict(output.get("data", {}))
    for kind in PICTURES:
        if kind in data and not output.metadata.get(kind, {}).get("alt", "").strip():
            found.append("a picture without alt text: show it with sftkit.teach.show.figure")
    text = json.dumps({k: v for k, v in data.items() if k not in PICTURES}, ensure_ascii=False)
    found += _markdown(data.get("text/markdown", "")) + _markdown(data.get("text/html", ""))
    paths = [f"{p}/" for p in machine_paths() if f"{p}/" in text]
    if paths:  # one path may lie within another: the longest says most
        found.append(f"a path of this machine in the outputs: {max(paths, key=len)}")
    return found


def _first_line(source: str) -> str:
    line = next((line.strip() for line in source.splitlines() if line.strip()), "")
    return line if len(line) <= 50 else line[:49] + "…"
