"""Facts about the machine and the versions, asked in the kernel that did the work."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from sftkit import exact

PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "numpy",
    "scikit-learn",
    "accelerate",
    "tokenizers",
    "pandas",
)
SIDE, REPEATS = 1024, 8  # of the matrix product that is measured: about 0.1 s in all


def gather() -> dict[str, Any]:
    """Versions, device, threads and the measured rate of float32 matrix products.

    Libraries that the notebook has not imported are not imported for this: their device,
    threads and rate are None.
    """
    from sftkit import __version__

    versions = {"python": platform.python_version(), "sftkit": __version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    device = threads = None
    if torch is not None:
        threads = torch.get_num_threads()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu" and torch.backends.mps.is_available():
            device = "mps"
    return {
        "versions": versions,
        "device": device,
        "threads": threads,
        "cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "gflops": matrix_rate(),
        "peak_memory_gb": peak_memory(),
        "conditions": exact.conditions(),
    }


def compare_results(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> exact.Case:
    """How closely two runs must agree, and why; see `exact` for the contract.

    Args:
        ours, theirs: The contents of two ``result.json``.

    Returns:
        ``identical bits`` or a tolerance where the runs differ in their conditions only.
        ``another run``, without a tolerance, where notebook, parameters, assets or package
        differ: then nothing is promised.
    """
    parts = [result.get("hashes") or {} for result in (ours, theirs)]
    names = sorted(parts[0].keys() | parts[1].keys())
    other = [name for name in names if parts[0].get(name) != parts[1].get(name)]
    if other:
        return exact.Case(exact.OTHER, None, tuple(f"another {name}" for name in other))
    return exact.compare(ours.get("conditions") or {}, theirs.get("conditions") or {})


def peak_memory() -> float:
    """The most memory that this process has held so far, in GB."""
    if sys.platform == "win32":
        import psutil

        peak = psutil.Process().memory_info().peak_wset
    else:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return round(peak / 1e9, 3)


def matrix_rate() -> dict[str, Any] | None:
    """GFLOP/s of float32 matrix products on the CPU, best of a few; None if unknown."""
    if torch := sys.modules.get("torch"):
        with torch.inference_mode():
            left = right = torch.ones(SIDE, SIDE)
            best = min(_seconds(lambda: left @ right) for _ in range(REPEATS))
        library = "torch"
    elif numpy := sys.modules.get("numpy"):
        left = right = numpy.ones((SIDE, SIDE), dtype=numpy.float32)
        best = min(_seconds(lambda: left @ right) for _ in range(REPEATS))
        library = "numpy"
    else:
        return None
    rate = 2 * SIDE**3 / best / 1e9
    return {"value": round(rate, 1), "side": SIDE, "library": library}


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def as_json() -> str:
    """`gather` for a kernel's reply; never raises, since the run has succeeded by then."""
    try:
        return json.dumps(gather())
    except Exception as error:
        return json.dumps({"facts_error": f"{type(error).__name__}: {error}"})
