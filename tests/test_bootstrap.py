"""The set-up step, with a real venv and a real pip, on a project small enough for a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sftkit import bootstrap
from tests.small_packages import BUILD_SYSTEM, backend

MAIN = """
import os, sys
print("sftkit says", sys.argv[1:], os.environ["VIRTUAL_ENV"], sys.prefix)
sys.exit(7)
"""
PROJECT = f"""
[project]
name = "sftkit"
version = "1.0"
optional-dependencies = {{dev = []}}
{BUILD_SYSTEM}
"""


class Checkout:
    """A checkout of a tiny sftkit, whose builds append a line to a log."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, root.parent / "builds.txt"
        self.stamp = root / ".venv" / "sftkit-installed.json"

    def write(self) -> Checkout:
        package = self.root / "sftkit"
        package.mkdir(parents=True)
        shutil.copy(bootstrap.__file__, package / "bootstrap.py")
        (package / "__main__.py").write_text(MAIN, encoding="utf-8")
        (package / "__init__.py").write_text("")
        (self.root / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
        (self.root / "constraints.txt").write_text("sftkit==1.0\n", encoding="utf-8")
        build = backend("sftkit", "1.0", self.log, more="Provides-Extra: dev\\n")
        (self.root / "backend.py").write_text(build, encoding="utf-8")
        return self

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
        return subprocess.Popen(
            [sys.executable, str(self.root / "sftkit" / "bootstrap.py"), *arguments],
            cwd=self.root.parent,
            env=kept | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        child = self.start(*arguments)
        said, _ = child.communicate(timeout=120)
        return child.returncode, said

    def builds(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, int, str]:
    """A checkout after its first call, that call's exit code and what it printed."""
    checkout = Checkout(tmp_path_factory.mktemp("first") / "project").write()
    return (checkout, *checkout.run("run", "07", "--force"))


@pytest.fixture
def checkout(first: tuple[Checkout, int, str], tmp_path: Path) -> Checkout:
    """The set-up checkout again, moved to another place."""
    root = tmp_path / "moved"
    shutil.copytree(first[0].root, root, symlinks=True)
    moved = Checkout(root)
    text = (root / "backend.py").read_text(encoding="utf-8")
    text = text.replace(repr(str(first[0].log))[1:-1], repr(str(moved.log))[1:-1])
    (root / "backend.py").write_text(text, encoding="utf-8")
    return moved


def test_the_first_call_sets_up_and_hands_over(first: tuple[Checkout, int, str]) -> None:
    checkout, code, said = first
    venv = checkout.root / ".venv"
    assert code == 7
    assert "set-up: making" in said
    last = said.strip().splitlines()[-1]
    assert last == f"sftkit says ['run', '07', '--force'] {venv} {venv}"
    assert checkout.builds() >= 1


def test_the_second_call_costs_nothing(first: tuple[Checkout, int, str]) -> None:
    checkout, builds = first[0], first[0].builds()
    start = time.monotonic()
    code, said = checkout.run("doctor")
    seconds = time.monotonic() - start
    venv = checkout.root / ".venv"
    assert (code, said) == (7, f"sftkit says ['doctor'] {venv} {venv}\n")
    assert checkout.builds() == builds
    assert seconds < 2  # about 0.1 s; pip alone would take longer than 0.5 s


def test_a_moved_checkout_and_new_pins_are_installed_again(checkout: Checkout) -> None:
    assert checkout.run("doctor")[0] == 7
    assert checkout.builds() == 1  # it moved
    assert checkout.run("--dev", "test")[0] == 7
    assert checkout.builds() == 2  # an extra that was not there
    code, said = checkout.run("doctor")
    assert (code, checkout.builds()) == (7, 2) and said.startswith("sftkit says")
    (checkout.root / "constraints.txt").write_text("sftkit==1.0 # again\n", encoding="utf-8")
    assert checkout.run("--dev", "test")[0] == 7
    assert checkout.builds() == 3


def test_killed_in_the_middle_leaves_no_stamp(checkout: Checkout) -> None:
    wait = Path(f"{checkout.log}.wait")
    wait.touch()  # the build stops here
    child = checkout.start("doctor")
    end = time.monotonic() + 60
    while checkout.builds() == 0:
        assert time.monotonic() < end
        time.sleep(0.05)
    child.kill()
    child.communicate(timeout=60) if os.name == "nt" else child.wait()
    wait.unlink()
    assert not checkout.stamp.exists()
    code, said = checkout.run("doctor")
    assert code == 7 and checkout.stamp.exists()


def test_two_calls_at_once_install_once(checkout: Checkout) -> None:
    children = [checkout.start("doctor") for _ in range(2)]
    said = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [7, 7], said
    assert checkout.builds() == 1


def test_pip_failing_is_said_and_leaves_no_stamp(checkout: Checkout) -> None:
    (checkout.root / "constraints.txt").write_text("sftkit==2.0\n", encoding="utf-8")
    code, said = checkout.run("doctor")
    assert code == 1
    assert "set-up: pip could not install the packages" in said
    assert "run the same command again when there is one" in said
    assert not checkout.stamp.exists()


def test_a_broken_venv_is_made_again(checkout: Checkout) -> None:
    python = bootstrap.venv_python(checkout.root)
    python.unlink()
    python.write_text("this is not Python")
    code, said = checkout.run("doctor")
    assert code == 7 and "set-up: making" in said


def test_clean_keeps_results(checkout: Checkout) -> None:
    for name in ("runs/a", "data/cache/assets", "build/lib", "tests/__pycache__", "x.egg-info"):
        (checkout.root / name).mkdir(parents=True)
    code, said = checkout.run("--clean")
    assert code == 0
    left = {p.relative_to(checkout.root).as_posix() for p in checkout.root.rglob("*")}
    assert left == {
        *("sftkit", "sftkit/__init__.py", "sftkit/__main__.py", "sftkit/bootstrap.py"),
        *("pyproject.toml", "constraints.txt", "backend.py", "tests"),
        *("runs", "runs/a", "data", "data/cache", "data/cache/assets"),
    }
    assert "removed .venv\n" in said and "kept runs:" in said and "kept data/cache:" in said


def test_help() -> None:
    done = subprocess.run(
        [sys.executable, bootstrap.__file__, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "--clean   removes .venv" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="the stand-in Python is a shell script")
def test_a_python_without_ensurepip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"  # says what Debian's Python says without python3-venv
    fake.write_text("#!/bin/sh\nmkdir -p .venv\necho 'ensurepip is not available.'\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(bootstrap.SetupError, match=r"sudo apt install python3\.\d+-venv"):
        bootstrap.set_up(tmp_path, set())
    assert not (tmp_path / ".venv").exists()


def test_an_old_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(bootstrap.SetupError, match=r"Python 3\.9, and sftkit needs 3\.11 to"):
        bootstrap.suitable_python()
    if os.name != "nt":
        (tmp_path / "python3.12").write_text("#!/bin/sh\n")
        (tmp_path / "python3.12").chmod(0o755)
        assert bootstrap.suitable_python() == str(tmp_path / "python3.12")


def test_an_old_python_can_read_the_file() -> None:
    """So that it can say that it is too old. Checked with a real one where there is one."""
    compile(Path(bootstrap.__file__).read_text(encoding="utf-8"), "bootstrap.py", "exec")
    old = next(filter(None, map(shutil.which, ("python3.8", "python3.9", "python3.10"))), None)
    if old is None or subprocess.run([old, "-c", ""], capture_output=True).returncode:
        pytest.skip("no Python older than 3.11 here")
    done = subprocess.run([old, bootstrap.__file__, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--clean" in done.stdout
