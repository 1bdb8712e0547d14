"""All tests in one command, part by part; a part that fails does not hide the next."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sftkit.course import notebooks
from sftkit.errors import RunError, SftError
from sftkit.files import project_folder

CELL_TIMEOUT = 600  # seconds per cell
FOLDERS = ("sftkit", "tests", "benchmarks", "notebooks/src")  # for the linter
NO_TESTS = 5  # pytest's exit code when nothing was selected
PARALLEL = ("-n", "2", "--dist", "loadfile")  # a notebook's cells must stay on one kernel
LONGEST = ("--durations=15", "--durations-min=5")  # where the time went
NBVAL = ("--nbval-current-env", f"--nbval-cell-timeout={CELL_TIMEOUT}")


@dataclass(frozen=True)
class Part:
    """What one part of the tests came to."""

    name: str
    seconds: float
    code: int

    def __str__(self) -> str:
        verdict = "ok" if self.code == 0 else f"FAILED (exit {self.code})"
        return f"{self.name:<28} {self.seconds:7.1f} s  {verdict}"


def test(slow: bool = False, more: Sequence[str] = ()) -> int:
    """Run all tests of the checkout and print a line per part.

    Args:
        slow: Only the tests marked slow.
        more: Further arguments for pytest on ``tests``.

    Returns:
        0 when every part succeeded, otherwise 1.

    Raises:
        RunError: There is no checkout to test.
    """
    root = project_folder()
    if root is None:
        raise RunError(
            "Tests need a checkout of the project.",
            "Clone the repository and install it with: pip install -e .",
        )
    with tempfile.TemporaryDirectory(prefix="sftkit-test-") as temporary:
        parts = _slow_parts(root, more) if slow else _parts(root, Path(temporary), more)
        done = []
        for name, work in parts:
            print(f"\n== {name}", flush=True)
            start = time.monotonic()
            try:
                code = work()
            except SftError as error:
                print(f"{type(error).__name__}: {error}", flush=True)
                code = 2
            done.append(Part(name, time.monotonic() - start, code))
    print("\n== summary")
    for part in done:
        print(part)
    print(f"{'all':<28} {sum(part.seconds for part in done):7.1f} s", flush=True)
    return 0 if all(part.code == 0 for part in done) else 1


Work = Callable[[], int]


def _slow_parts(root: Path, more: Sequence[str]) -> list[tuple[str, Work]]:
    return [("slow tests", lambda: _pytest(root, "tests", "-m", "slow", *more))]


def _parts(root: Path, temporary: Path, more: Sequence[str]) -> list[tuple[str, Work]]:
    known = notebooks.sources()
    headers = {s: notebooks.header(notebooks.read(s), s.name) for s in known}
    strict = [s.executed for s in known if headers[s].strict and s.executed.is_file()]
    lax = [s.name for s in known if not headers[s].strict]
    # Outputs were made on Linux; elsewhere other libraries round the last digits otherwise.
    mode = ("--nbval",) if sys.platform == "linux" else ("--nbval-lax",)
    wanted = sorted({name for header in headers.values() for name in header.assets})

    sanitize = root / "tests" / "nbval_sanitize.cfg"  # errors of proofs: their bound is checked
    compared = (*mode, f"--nbval-sanitize-with={sanitize}")

    def fetch() -> int:
        from sftkit import assets

        if wanted:
            assets.fetch(wanted)
        print(f"here: {', '.join(wanted) or 'nothing needed'}")
        return 0

    def fast_copies() -> int:
        from sftkit.course.build import copies

        made = copies(temporary / "notebooks", lax) if lax else []
        return _notebooks(root, ("--nbval-lax",), made)

    def check() -> int:
        from sftkit.course.check import examine

        report = examine()
        for line in report.problems:
            print(line)
        return 1 if report.problems else 0

    def ruff(*arguments: str) -> int:
        here = [name for name in FOLDERS if (root / name).is_dir()]
        return _call(root, "ruff", *arguments, *here)

    return [
        ("assets", fetch),
        ("ruff check", lambda: ruff("check")),
        ("ruff format", lambda: ruff("format", "--check")),
        ("mypy", lambda: _call(root, "mypy")),
        ("tests", lambda: _pytest(root, "tests", "-m", "not slow", *PARALLEL, *LONGEST, *more)),
        ("notebooks, compared", lambda: _notebooks(root, compared, strict)),
        ("notebooks, fast copies", fast_copies),
        ("notebooks, check", check),
    ]


def _notebooks(root: Path, mode: Sequence[str], paths: Sequence[Path]) -> int:
    if not paths:
        print("there are none")
        return 0
    return _pytest(root, *mode, *NBVAL, *PARALLEL, *map(str, paths))


def _pytest(root: Path, *arguments: str) -> int:
    code = _call(root, "pytest", "-q", *arguments)
    return 0 if code == NO_TESTS else code


def _call(root: Path, module: str, *arguments: str) -> int:
    """``python -m module …`` in the checkout, in an environment as kernels have it."""
    from sftkit.course.kernel import environment

    command = [sys.executable, "-m", module, *arguments]
    # Two workers on two cores: with more threads each, they wait for one another.
    alone = {"OMP_NUM_THREADS": "1"} if set(PARALLEL) <= set(arguments) else {}
    return subprocess.run(
        command, cwd=root, env={**os.environ, **environment(), **alone}
    ).returncode
