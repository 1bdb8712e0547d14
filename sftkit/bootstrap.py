"""Set sftkit up in ``.venv`` when that is needed, then run it. Standard library only.

    python3 sftkit/bootstrap.py [--dev] [arguments of sftkit ...]
    python3 sftkit/bootstrap.py --clean

--dev     installs what tests need as well
--clean   removes .venv and what tools leave behind; keeps runs/ and data/cache/

The first call makes .venv beside pyproject.toml and installs the pinned versions into it.
Later calls start at once, until pyproject.toml or constraints.txt change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 11), (3, 13)
REMOVED: tuple[str, ...] = ("build", "dist", "__pycache__", ".coverage")
REMOVED += (".pytest_cache", ".ruff_cache", ".mypy_cache")
KEPT = ("runs", "data/cache")
WINDOWS = os.name == "nt"


class SetupError(Exception):
    """Set-up cannot go on; the text says what is wrong and what to do."""


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Set up if needed, then hand over to sftkit.

    Returns:
        sftkit's exit code on Windows (elsewhere this process becomes sftkit), or 1 when
        set-up failed.
    """
    extras: set[str] = set()
    while arguments and arguments[0] in ("--dev", "--clean", "--help", "-h"):
        option, *arguments = arguments
        if option in ("--help", "-h"):
            print(__doc__)
            return 0
        if option == "--clean":
            return clean(root)
        extras.add("dev")
    try:
        other = suitable_python()
        if other:
            return hand_over([other, __file__, *(f"--{e}" for e in extras), *arguments])
        python = set_up(root, extras)
    except SetupError as error:
        print(f"\nset-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: interrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    os.environ["VIRTUAL_ENV"] = str(root / ".venv")
    os.environ["PATH"] = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
    return hand_over([str(python), "-m", "sftkit", *arguments])


def hand_over(command: list[str]) -> int:
    """Become ``command``; on Windows, which cannot, run it and return its exit code."""
    sys.stdout.flush()
    if not WINDOWS:
        os.execv(command[0], command)
    try:
        return subprocess.run(command).returncode
    except KeyboardInterrupt:  # the command has had it too, and has said what it must
        return 130


def suitable_python() -> str | None:
    """None when this Python will do; otherwise one on PATH that does.

    Raises:
        SetupError: There is none.
    """
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return None
    here = "%d.%d" % sys.version_info[:2]  # noqa: UP031 - this line must run on old Pythons
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        # (pyenv puts names on PATH that do not run)
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            print(f"set-up: this is Python {here}; going on with {found}.")
            return found
    raise SetupError(
        f"this is Python {here}, and sftkit needs 3.{OLDEST[1]} to 3.{NEWEST[1]}.\n"
        "  Install one of these (conda users: 'conda env create -f environment.yml'), then\n"
        "  name it: make run PYTHON=python3.12"
    )


def set_up(root: Path, extras: set[str]) -> Path:
    """Make ``.venv`` hold sftkit with these extras; return its Python. Cheap when it does.

    Raises:
        SetupError: With what to do about it.
    """
    python = venv_python(root)
    stamp = root / ".venv" / "sftkit-installed.json"
    if python.exists() and _is_current(stamp, root, extras):
        return python
    with _locked(root / ".venv.lock"):
        # Another process may have done it while this one waited.
        if python.exists() and _is_current(stamp, root, extras):
            return python
        extras = extras | set(_read(stamp).get("extras", []))
        stamp.unlink(missing_ok=True)  # an interrupted install must not look finished
        if not _works(python):
            _make_venv(root)
            extras_text = " with tests" if "dev" in extras else ""
            print(
                f"set-up: installing the pinned packages{extras_text} into .venv. Once, a few "
                "minutes.",
                flush=True,
            )
        _install(python, root, extras)
        made = {"inputs": _inputs(root), "extras": sorted(extras)}
        temporary = stamp.with_suffix(".new")
        temporary.write_text(json.dumps(made), encoding="utf-8")
        os.replace(temporary, stamp)
    return python


def venv_python(root: Path) -> Path:
    """Where the Python of ``.venv`` is."""
    return root / ".venv" / ("Scripts/python.exe" if WINDOWS else "bin/python")


def _inputs(root: Path) -> str:
    """A hash of all that decides what is installed, the checkout's place included."""
    digest = hashlib.sha256(str(root).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def _read(stamp: Path) -> dict:
    try:
        content = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_current(stamp: Path, root: Path, extras: set[str]) -> bool:
    made = _read(stamp)
    return made.get("inputs") == _inputs(root) and extras <= set(made.get("extras", []))


def _works(python: Path) -> bool:
    """Whether this Python starts, is of a version we support, and has pip."""
    if not python.exists():
        return False
    test = f"import sys, pip; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    try:
        return subprocess.run([str(python), "-c", test], capture_output=True).returncode == 0
    except OSError:
        return False


def _make_venv(root: Path) -> None:
    folder = root / ".venv"
    _remove(folder)
    print(f"set-up: making {folder} with Python {sys.version.split()[0]}.", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "venv", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode == 0 and _works(venv_python(root)):
        return
    _remove(folder)  # a half-made one would be in the way
    version = "3.%d" % sys.version_info[1]  # noqa: UP031
    if "ensurepip" in done.stdout or "No module named" in done.stdout:
        raise SetupError(
            "this Python cannot make virtual environments: its module venv or ensurepip is "
            f"missing.\n  On Debian and Ubuntu: sudo apt install python{version}-venv; then "
            "the same command again."
        )
    reason = (done.stdout.strip().splitlines() or ["it gave no reason"])[-1]
    raise SetupError(
        f"{folder} could not be made: {reason}\n  Check that the folder can be written and "
        "the disk has room, then the same command again."
    )


def _install(python: Path, root: Path, extras: set[str]) -> None:
    what = f".[{','.join(sorted(extras))}]" if extras else "."
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    if not sys.stdout.isatty():
        command.append("--quiet")  # a log has no use for progress bars
    command += ["-c", "constraints.txt", "-e", what]
    if subprocess.run(command, cwd=root).returncode != 0:
        raise SetupError(
            "pip could not install the packages; its own words are above.\n"
            "  Without a network it cannot: run the same command again when there is one;\n"
            "  what it has downloaded is kept. Behind a proxy set PIP_PROXY; for an index of\n"
            "  your own set PIP_INDEX_URL. On a full disk, PyTorch without CUDA is smaller:\n"
            "  see the README."
        )


def clean(root: Path) -> int:
    """Remove ``.venv`` and what tools leave behind; say what is kept."""
    found = [root / ".venv", root / ".venv.lock", *(root / name for name in REMOVED)]
    found += root.glob("*.egg-info")
    for folder in (root / name for name in ("sftkit", "tests", "benchmarks", "notebooks")):
        for name in ("__pycache__", ".ipynb_checkpoints"):
            found += folder.rglob(name)
    for path in found:
        if path.exists() or path.is_symlink():
            _remove(path)
            if path.parent == root:
                print(f"removed {path.name}")
    for name in KEPT:
        if (root / name).exists():
            print(f"kept {name}: delete it yourself if you want to")
    return 0


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the system lets go of the lock when the process ends."""
    with open(path, "a+") as stream:
        if sys.platform == "win32":
            import msvcrt
            import time

            while True:
                try:
                    msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
                    break
                except OSError:
                    time.sleep(0.5)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
