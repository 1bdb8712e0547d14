"""The files of the set-up agree with each other and with the code."""

from __future__ import annotations

import ast
import os
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from sftkit import __version__
from sftkit.doctor import canonical, pinned_versions
from sftkit.files import PACKAGE

ROOT = PACKAGE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = {canonical(name) for name in PROJECT["dependencies"]}
ALL = NEEDED | {canonical(name) for extra in EXTRAS.values() for name in extra}
PINS = pinned_versions((ROOT / "constraints.txt").read_text(encoding="utf-8"))


def test_every_dependency_is_pinned() -> None:
    assert ALL - set(PINS) == set()


def test_so_is_everything_that_they_need_here() -> None:
    todo, seen = [Requirement(name) for name in ALL], set()
    while todo:
        requirement = todo.pop()
        key = (canonical(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            needs = [Requirement(text) for text in requires(requirement.name) or []]
        except PackageNotFoundError:
            continue  # of another system, or an extra that is not installed here
        for extra in requirement.extras or {""}:
            todo += [
                n for n in needs if n.marker is None or n.marker.evaluate({"extra": extra})
            ]
    names = {name for name, _ in seen}
    cuda = {n for n in names if n.startswith(("nvidia-", "cuda-")) or n == "triton"}
    assert names - cuda - set(PINS) == set()


def test_constraints_are_exact_sorted_and_without_repeats() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    assert lines == sorted(set(lines), key=lambda line: line.split("==")[0])
    assert len(PINS) == len(lines)


def test_conda_takes_the_same_two_files() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == "sftkit"
    python, pip, inside = environment["dependencies"]
    version = tuple(map(int, python.removeprefix("python=").split(".")))
    assert (3, 11) <= version <= (3, 13) and pip == "pip"
    assert inside == {"pip": ["-c constraints.txt", "-e .[dev]"]}


def third_party_imports() -> set[str]:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"sftkit"}


def test_what_the_package_imports_is_declared() -> None:
    owners = packages_distributions()
    undeclared = {
        module
        for module in third_party_imports()
        if not {canonical(name) for name in owners.get(module, [module])} & ALL
    }
    assert undeclared == set(), "name their packages in pyproject.toml"


def test_make_has_one_line_per_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = dict(re.findall(r"^([a-z-]+): ; (.*)$", text, flags=re.MULTILINE))
    assert targets == {
        "run": "$(SFTKIT) run 07",
        "test": "$(SFTKIT) --dev test",
        "test-slow": "$(SFTKIT) --dev test --slow",
        "lab": "$(SFTKIT) lab",
        "build": "$(SFTKIT) build --all",
        "clean": "$(SFTKIT) --clean",
    }
    assert "SFTKIT = @$(PYTHON) sftkit/bootstrap.py\n" in text
    assert "\t" not in text


def test_ci_runs_both_kinds_of_tests() -> None:
    path = ROOT / ".ci" / "run"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make ")] == [
        "make test",
        "make test-slow",
    ]
    if os.name != "nt":
        assert os.access(path, os.X_OK)


def test_the_workflow_covers_systems_and_pythons() -> None:
    path = ROOT / ".github" / "workflows" / "test.yml"
    job = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    assert matrix["system"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert job["steps"][-1] == {"run": "python sftkit/bootstrap.py --dev test"}


def test_the_citation_has_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (__version__, PROJECT["license"])
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [PROJECT["readme"], *PROJECT["license-files"]])
def test_files_that_the_build_needs_are_there(name: str) -> None:
    assert Path(ROOT, name).is_file()
