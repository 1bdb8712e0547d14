"""Rooms import in one direction, and the door is light."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sftkit

PACKAGE = Path(sftkit.__file__).parent
# From the ground up: each room may import from its own and from lower floors.
FLOORS = [
    ["errors", "files", "arguments"],
    ["teach"],
    ["assets"],
    ["device", "generators", "modes"],
    ["exact"],
    ["corpora"],
    ["chat_templates", "vocabularies"],
    ["encode", "encode_lm", "encode_chat", "encode_pairs", "encode_spans", "encode_tags"],
    ["batches"],
    ["batches_denoising", "batches_lm", "batches_tokens", "packed_attention", "packing"],
    ["losses"],
    ["losses_lm"],
    [
        "losses_chunked",
        "losses_distillation",
        "losses_preference",
        "losses_seq2seq",
        "losses_spans",
        "losses_tags",
    ],
    ["losses_weighted"],
    ["models"],
    ["guard"],
    ["optim"],
    ["states"],
    ["checkpoints", "fingerprint"],
    ["resume"],
    ["evaluate"],
    ["checks"],
    ["fit_settings"],
    ["loggers"],
    ["fit"],
    ["course"],
    ["lessons"],
    ["doctor"],
    ["cli"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ALONE = {"bootstrap"}  # standard library only: it runs before anything is installed
DOORS = {"__init__", "__main__"}
HEAVY = ["torch", "transformers", "datasets", "pandas", "matplotlib", "numpy", "sklearn"]
HEAVY += ["nbformat", "tqdm", "IPython"]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms that a module imports, at its top or within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            assert node.level == 0, f"{path.name}: imports are written in full"
            found |= {f"{base}.{a.name}" for a in node.names} if base == "sftkit" else {base}
    return {name.split(".")[1] for name in found if name.startswith("sftkit.")}


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if room_of(path) not in DOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_from_its_floor_or_below(path: Path) -> None:
    room = room_of(path)
    used = imports(path) - {room, "__version__"}
    if room in ALONE:
        assert used == set()
        return
    assert room in FLOOR, f"{room} has no floor: name it in FLOORS"
    above = {name for name in used if FLOOR.get(name, 99) > FLOOR[room]}
    assert above == set(), f"{path.name} imports from above: {sorted(above)}"


@pytest.mark.parametrize("line", ["import sftkit", "import sftkit.course", "import sftkit.cli"])
def test_importing_is_light(line: str) -> None:
    code = f"import sys\n{line}\nprint([m for m in {HEAVY} if m in sys.modules])"
    assert _python("-c", code) == "[]\n"


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom sftkit.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n"
        f"    print([m for m in {HEAVY} if m in sys.modules])"
    )
    out = _python("-c", code)
    assert out.startswith("usage: sftkit") and out.endswith("[]\n")


def _python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names_are_there() -> None:
    for name in sftkit.__all__:
        assert getattr(sftkit, name).__doc__
        assert name in dir(sftkit)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sftkit.nothing  # noqa: B018


def test_versions_agree() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["version"] == sftkit.__version__
