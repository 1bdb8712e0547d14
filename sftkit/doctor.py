"""What is wrong with this environment, and how to mend it: one sentence per failure."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sftkit import assets, files
from sftkit.device import usable_cores

if TYPE_CHECKING:
    from sftkit.teach.show import Table

OLDEST, NEWEST = (3, 11), (3, 13)
ROOM_GB = 2.0  # for the assets of the first notebooks and a few checkpoints
REINSTALL = "Install again: python3 sftkit/bootstrap.py --dev doctor"
CHINESE = "中文"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        ok: Whether it is as it should be.
        detail: What was found.
        fix: What to do about it; empty when ``ok``.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""


def diagnose() -> list[Finding]:
    """Look at everything. A look that fails is itself a finding, never an exception."""
    findings = []
    for name, look in LOOKS.items():
        try:
            ok, detail, fix = look()
        except Exception as error:  # whatever a broken installation raises
            ok, detail, fix = False, f"{type(error).__name__}: {error}", REINSTALL
        findings.append(Finding(name, ok, detail, "" if ok else fix))
    return findings


def table(findings: list[Finding] | None = None) -> Table:
    """The findings as a table, for a notebook or a terminal."""
    from sftkit.teach.show import Table

    found = diagnose() if findings is None else findings
    rows = [(f.name, "ok" if f.ok else "MEND", f.detail) for f in found]
    return Table(rows, ["what", "state", "found"])


def report() -> int:
    """Print the findings and a fix for each failure.

    Returns:
        0 when all is well, otherwise 1.
    """
    findings = diagnose()
    print(table(findings))
    failed = [f for f in findings if not f.ok]
    for finding in failed:
        print(f"\n{finding.name}: {finding.detail}\n  {finding.fix}")
    print("" if failed else "\nAll is well.")
    return 1 if failed else 0


Look = tuple[bool, str, str]  # ok, detail, fix


def _python() -> Look:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = OLDEST <= sys.version_info[:2] <= NEWEST
    return ok, f"{version}, {sys.executable}", "Use Python 3.11, 3.12 or 3.13."


def _versions() -> Look:
    root = files.project_folder()
    if root is None or not (root / "constraints.txt").is_file():
        return True, "no constraints.txt here (installed as a package), so not compared", ""
    pins = pinned_versions((root / "constraints.txt").read_text(encoding="utf-8"))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {canonical(name) for name in project["dependencies"]}
    other, missing = compare_versions(pins, needed)
    if not other and not missing:
        return True, "every installed package has the version of constraints.txt", ""
    said = [f"{name} is missing" for name in missing] + other
    more = f" and {len(said) - 4} more" if len(said) > 4 else ""
    return False, "; ".join(said[:4]) + more, REINSTALL


def canonical(name: str) -> str:
    """A package's name in the one form that all spellings share."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[]", name)[0]).lower()


def pinned_versions(constraints: str) -> dict[str, str]:
    """``name -> version`` from the lines ``name==version`` of a constraints file."""
    lines = [line.split("#")[0].split(";")[0].strip() for line in constraints.splitlines()]
    pairs = [line.split("==") for line in lines if "==" in line]
    return {canonical(name): version.strip() for name, version in pairs}


def compare_versions(pins: dict[str, str], needed: set[str]) -> tuple[list[str], list[str]]:
    """Installed versions against pinned ones.

    Returns:
        ``(differences in words, names in needed that are not installed)``. A local part,
        such as the ``+cpu`` of torch, does not count as a difference.
    """
    from importlib.metadata import PackageNotFoundError, version

    other, missing = [], []
    for name, pin in pins.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            if name in needed:
                missing.append(name)
            continue
        if found.split("+")[0] != pin:
            other.append(f"{name} is {found}, pinned {pin}")
    return other, missing


def _device() -> Look:
    import torch

    from sftkit import device

    name = device.best_device()
    threads, cores = torch.get_num_threads(), usable_cores()
    speed = device.matrix_gflops(1024, 1024, 1024, device=name, seconds=0.3)
    precision, reason = device.probe_precision(name)
    paying = 'bfloat16 pays here: fit(..., precision="bf16")'
    words = paying if precision == "bf16" else "float32 is the right choice"
    detail = (
        f"{name}, {threads} of {cores} cores, {speed:.0f} GFLOP/s in float32 matrix products; "
        f"{words} ({reason})"
    )
    ok = name != "cpu" or threads > 1 or cores == 1
    return ok, detail, "Unset OMP_NUM_THREADS, or set it to the number of cores, for speed."


def _disk() -> Look:
    cache = files.cache_folder()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    fix = "Free some room, or set SFTKIT_CACHE to a folder on another disk."
    return free >= ROOM_GB, f"{free:.1f} GB free for {cache}", fix


def _cache() -> Look:
    cache = files.cache_folder()
    fix = "Set SFTKIT_CACHE to a folder that you can write to."
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache) as stream:
            stream.write(b"sftkit")
    except OSError as error:
        return False, f"{cache} cannot be written ({error.strerror})", fix
    return True, f"{cache} can be written", ""


def _assets() -> Look:
    here, damaged = [], []
    for name in assets.catalogue():
        if assets.is_here(name):
            here.append(name)
        elif (files.cache_folder() / "assets" / name).exists():
            damaged.append(name)
    if damaged:
        fix = f"Fetch them again: sftkit assets fetch {' '.join(damaged)}"
        return False, f"incomplete or out of date: {', '.join(damaged)}", fix
    rest = len(assets.catalogue()) - len(here)
    detail = f"{len(here)} fetched and complete"
    return True, detail + (f"; the other {rest} come when first needed" if rest else ""), ""


def _fonts() -> Look:
    import matplotlib
    from matplotlib import pyplot

    from sftkit.teach.show import new_figure

    with matplotlib.rc_context(), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        fig, _ = new_figure()
        fig.text(0.5, 0.5, CHINESE)
        fig.canvas.draw()
        pyplot.close(fig)
    lacking = [w for w in heard if "missing from font" in str(w.message)]
    fix = "Fetch the font, then restart the kernel: sftkit assets fetch noto-sans-sc"
    if lacking:
        return False, f"figures show boxes for Chinese ({CHINESE})", fix
    return True, f"figures can show Chinese ({CHINESE})", ""


def _kernel() -> Look:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return False, "there is no kernel named python3", REINSTALL
    starts = spec.argv[0]
    # A bare name means, by Jupyter's own rule, the Python that Jupyter runs in.
    same = Path(starts).name == starts or _same_path(starts, sys.executable)
    fix = (
        f"Another installation's kernel is in the way: remove {spec.resource_dir}, or run "
        f"{sys.executable} -m ipykernel install --sys-prefix"
    )
    return same, f"python3 starts {sys.executable if same else starts}", fix


def _same_path(one: str, other: str) -> bool:
    """Compared as written: in a virtual environment, links to one Python are not the same."""
    return os.path.normcase(os.path.abspath(one)) == os.path.normcase(os.path.abspath(other))


LOOKS: dict[str, Callable[[], Look]] = {
    "Python": _python,
    "packages": _versions,
    "torch": _device,
    "disk": _disk,
    "cache": _cache,
    "assets": _assets,
    "fonts": _fonts,
    "kernel": _kernel,
}
