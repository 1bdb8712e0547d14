"""Docstrings of installed libraries, and their numpydoc sections with places in the text.

Nothing is imported: the files of an installed package are read and parsed (`ast`), so that
reading the documentation of a library neither runs nor waits for it.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sftkit.errors import CorpusError

# Copies of other projects, and what no user calls.
_SKIPPED = {
    "tests",
    "testing",
    "_testing",
    "externals",
    "_vendor",
    "_external",
    "conftest",
    "_pyinstaller",
    "f2py",
    "sphinxext",
    "benchmarks",
    "_build_utils",
    "array_api_compat",
    "array_api_extra",
    "highspy",
    "_highspy",
}
_UNDERLINED = re.compile(r"^(\w[\w ]*)\n([-=]{3,})[ \t]*$", re.MULTILINE)
# A docstring that another function completes is not what a reader sees.
_TEMPLATE = re.compile(r"%\(\w[\w:]*\)s|\{\w+\}|%s|&_\w+|\[\[|\|\w+\|")
_PART = re.compile(r"^(?P<name>[^\s:][^:\n]*?)[ \t]*(?::[ \t]*(?P<type>[^\n]*?))?[ \t]*$", re.M)


@dataclass(frozen=True)
class Docstring:
    """The docstring of a function, method or class.

    Attributes:
        library: The package's import name, such as ``sklearn``.
        name: In full, without private modules: ``sklearn.cluster.KMeans``.
        kind: ``function``, ``method`` or ``class``.
        text: As `inspect.cleandoc` gives it.
        call: The signature, without annotations and ``self``:
            ``KMeans(n_clusters=8, *, init='k-means++')``. Empty for what is not called, and for
            a class that inherits its ``__init__``.
    """

    library: str
    name: str
    kind: str
    text: str
    call: str = ""


@dataclass(frozen=True)
class Section:
    """A section with its heading; ``text[start:end]`` is what stands below the underline."""

    title: str
    start: int
    end: int


@dataclass(frozen=True)
class Entry:
    """One item of a numpydoc section, with places in the docstring's text.

    Attributes:
        name: What stands before the colon, such as ``x`` or ``ValueError``.
        start: Where it begins.
        type: ``(start, end)`` of what stands after the colon; empty where there is none.
        body: ``(start, end)`` of the first paragraph of its description; may be empty.
    """

    name: str
    start: int
    type: tuple[int, int]
    body: tuple[int, int]

    @property
    def end(self) -> int:
        """Where its block ends: after the description's first paragraph."""
        return max(self.body[1], self.type[1], self.start + len(self.name))


def version(library: str) -> str:
    """The installed version of a library, by its import name.

    Raises:
        CorpusError: It is not installed.
    """
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(library, library))
    except importlib.metadata.PackageNotFoundError as error:
        raise CorpusError(
            f"The library {library!r} is not installed.", "Install sftkit with its pins."
        ) from error


_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def read(library: str) -> Iterator[Docstring]:
    """The docstrings of a library's public functions, methods and classes, in a fixed order.

    Left out are tests, bundled copies of other projects, names that begin with an underscore,
    and docstrings with gaps that are filled when the library is imported.
    """
    root = _folder(library)
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root.parent).with_suffix("").parts
        if _SKIPPED.intersection(parts):
            continue
        source = file.read_text(encoding="utf-8", errors="replace")
        if '"""' not in source:
            continue
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a template of code, not code
            continue
        public = ".".join(p for p in parts if not p.startswith("_"))
        yield from _of_body(tree, library, public, "function")


def _folder(library: str) -> Path:
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        raise CorpusError(
            f"The library {library!r} is not installed.", "Install sftkit with its pins."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _of_body(
    node: ast.Module | ast.ClassDef, library: str, prefix: str, kind: str
) -> Iterator[Docstring]:
    for child in node.body:
        if not isinstance(child, (ast.FunctionDef, ast.ClassDef)) or child.name[0] == "_":
            continue
        name, is_class = f"{prefix}.{child.name}", isinstance(child, ast.ClassDef)
        text = inspect.cleandoc(ast.get_docstring(child, clean=False) or "")
        if text and not _TEMPLATE.search(text):
            what = "class" if is_class else kind
            yield Docstring(library, name, what, text.expandtabs(), _call(child, kind))
        if isinstance(child, ast.ClassDef):
            yield from _of_body(child, library, name, "method")


def _call(node: ast.FunctionDef | ast.ClassDef, kind: str) -> str:
    maker: ast.AST | None = node
    if isinstance(node, ast.ClassDef):
        maker = next((f for f in node.body if getattr(f, "name", "") == "__init__"), None)
    if not isinstance(maker, ast.FunctionDef):
        return ""
    decorators = {ast.unparse(d).rpartition(".")[2] for d in maker.decorator_list}
    if decorators & {"property", "cached_property", "setter"}:
        return ""
    given = maker.args
    positional = given.posonlyargs or given.args
    if (maker is not node or kind == "method") and "staticmethod" not in decorators:
        del positional[:1]  # self, or the class
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    for argument in every:
        if argument is not None:
            argument.annotation = None
    return f"{node.name}({ast.unparse(given)})"


def sections(text: str) -> list[Section]:
    """The sections that numpydoc knows by an underlined heading, in order."""
    found = list(_UNDERLINED.finditer(text))
    ends = [*(m.start() for m in found[1:]), len(text)][: len(found)]
    return [Section(m[1].strip(), m.end(), end) for m, end in zip(found, ends, strict=True)]


def entries(text: str, section: Section) -> list[Entry]:
    """The items of a section such as Parameters, Returns or Raises."""
    found = []
    starts = [m for m in _PART.finditer(text, section.start, section.end) if m["name"].strip()]
    for number, head in enumerate(starts):
        end = starts[number + 1].start() if number + 1 < len(starts) else section.end
        kind = head.span("type") if head["type"] else (head.end(), head.end())
        found.append(Entry(head["name"].strip(), head.start(), kind, _body(text, head, end)))
    return found


def _body(text: str, head: re.Match[str], end: int) -> tuple[int, int]:
    """The first paragraph of a description: indented lines up to an empty one."""
    start = head.end()
    below = text[start:end]
    begin = len(below) - len(below.lstrip())
    if begin == len(below) or below[:begin].count("\n") > 1:
        return start, start  # nothing, or an empty line first
    paragraph = re.split(r"\n[ \t]*\n|\n[ \t]*(?:\.\. |[-*•] )", below[begin:])[0]
    return start + begin, start + begin + len(paragraph.rstrip())
