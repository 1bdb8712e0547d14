"""Hashes that say whether a result still belongs to what made it."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sftkit
from sftkit.files import PACKAGE, sha256, sha256_text

# These show, start and describe; no number depends on them. ``__init__`` holds the version
# and lazy names only.
NOT_COMPUTING = {"__init__.py", "__main__.py", "bootstrap.py", "cli.py", "doctor.py"}


def of_json(content: Any) -> str:
    """SHA-256 of a value in canonical JSON."""
    return sha256_text(json.dumps(content, sort_keys=True, ensure_ascii=False))


def source_hash(notebook: Any) -> str:
    """Hash of a notebook's cells: kind, text and tags. Outputs and header do not count."""
    return of_json(
        [
            [cell.cell_type, cell.source, sorted(cell.metadata.get("tags", []))]
            for cell in notebook.cells
        ]
    )


def package_hash(code: Iterable[str] | None = None, package: Path = PACKAGE) -> str:
    """Hash of the modules that compute numbers, whatever the line ends of the checkout.

    A data file counts with the module that has its name: ``instructions.toml`` with
    ``instructions.py``.

    Args:
        code: A notebook's code cells: only the modules that they import count, and what those
            import in turn. None, or code that is not plain Python: all modules count.
        package: The package's folder.
    """
    modules = {
        path.relative_to(package).as_posix(): path for path in sorted(package.rglob("*.py"))
    }
    used = None if code is None else _imported(code, modules, package.name)
    parts = []
    for name, path in modules.items():
        if name in NOT_COMPUTING or name.startswith("course/"):
            continue
        if used is None or name in used:
            parts.append([name, sha256_text(path.read_text(encoding="utf-8"))])
            data = path.with_suffix(".toml")  # what ``module.py`` keeps beside it
            if data.exists():
                parts.append([data.name, sha256_text(data.read_text(encoding="utf-8"))])
    return of_json(parts)


def code_of(notebook: Any) -> list[str]:
    """The texts of a notebook's code cells."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def _imported(code: Iterable[str], modules: Mapping[str, Path], root: str) -> set[str] | None:
    """Files that code reaches by its imports; None when that cannot be said for sure."""
    used: set[str] = set()
    try:
        wanted = [name for text in code for name in _imports(text, root)]
        while wanted:
            name = wanted.pop()
            reached = _files(name, modules)
            if reached is None:
                return None
            for file in reached - used:
                used.add(file)
                if file not in NOT_COMPUTING and not file.startswith("course/"):
                    text = modules[file].read_text(encoding="utf-8")
                    wanted += _imports(text, root)
    except SyntaxError:  # a magic command, say
        return None
    return used


def _imports(text: str, root: str) -> list[str]:
    """What a text imports of the package, anywhere in it: ``evaluate.predict.predict``."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    inside = [name for name in found if name == root or name.startswith(f"{root}.")]
    return [name.removeprefix(root).removeprefix(".") for name in inside]


def _files(name: str, modules: Mapping[str, Path]) -> set[str] | None:
    """The files behind a dotted name: the module and the packages around it."""
    name = f"{sftkit.INSIDE[name]}.{name}" if name in sftkit.INSIDE else name
    steps, found = name.split("."), set()
    for end in range(1, len(steps) + 1):
        inner = "/".join(steps[:end])
        found |= {f for f in (f"{inner}.py", f"{inner}/__init__.py") if f in modules}
    if found or name.startswith("__"):
        return found
    return None  # the package as a whole, or a name that it makes up when it is asked


def assets_hash(names: Iterable[str]) -> dict[str, str]:
    """For each pinned asset, the hash of its recipe in the catalogue.

    The recipe holds the SHA-256 of the package and the files taken from it, so it stands
    for the bytes, also before they are fetched.
    """
    names = sorted(set(names))
    if not names:
        return {}
    from sftkit import assets

    return {name: assets.find(name).recipe for name in names}


def of_path(path: Path) -> str:
    """Hash of a file's bytes, or of the names and bytes of all files in a folder."""
    if path.is_file():
        return sha256(path)
    files = sorted(inner for inner in path.rglob("*") if inner.is_file())
    return of_json([[inner.relative_to(path).as_posix(), sha256(inner)] for inner in files])


def inputs(
    values: Mapping[str, Any],
    explicit: Iterable[str],
    seen: dict[Any, tuple[Path, str] | None] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters that name existing files or folders: made absolute, and hashed.

    A bare word such as ``tweets`` counts as a path only when the user gave it, and when it
    is not the name of an asset or a data set: a folder that happens to lie in the working
    folder must not change the meaning of a default.

    Args:
        values: All parameters.
        explicit: Names of those that the user gave.
        seen: Remembers paths and their hashes from one call to the next.

    Returns:
        The parameters with absolute paths, for the kernel; and the same parameters with
        each path replaced by its last part and the hash of its bytes, for the run's hash
        (moving a file does not make a new run, changing it does).
    """
    explicit = set(explicit)
    known = {} if seen is None else seen
    absolute, hashed = dict(values), dict(values)
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        found = []
        for item in items:
            key = (item, name in explicit) if isinstance(item, str) else None
            if key is not None and key not in known:
                path = _path(item, name in explicit)
                known[key] = (path, of_path(path)) if path else None
            found.append(known[key] if key is not None else None)
        if not any(found):
            continue
        full = [str(at[0]) if at else item for at, item in zip(found, items, strict=True)]
        content = [
            {"name": at[0].name, "sha256": at[1]} if at else item
            for at, item in zip(found, items, strict=True)
        ]
        absolute[name] = full if isinstance(value, list) else full[0]
        hashed[name] = content if isinstance(value, list) else content[0]
    return absolute, hashed


def _path(value: Any, given: bool) -> Path | None:
    """The absolute path that a value names, if it exists."""
    if not isinstance(value, str) or not value or value.startswith("hub:"):
        return None
    path = Path(value).expanduser()
    bare = path.name == value and not path.suffix
    try:
        if not path.exists() or (bare and (not given or _is_known(value))):
            return None
    except OSError:  # a text too long to be a path
        return None
    return path.resolve()


def _is_known(word: str) -> bool:
    """Whether a word names a pinned asset or an embedded data set."""
    from sftkit import corpora

    return word in known_assets() or word in corpora.names()


def known_assets() -> set[str]:
    """The names in the catalogue of pinned assets."""
    from sftkit import assets

    return set(assets.catalogue())
