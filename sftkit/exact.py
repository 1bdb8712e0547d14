"""What is exact: when two runs give identical bits, and how close they are otherwise.

**The contract.** Two runs of the same code on the same data with the same settings and seed
give identical bits - losses, weights, the state of the optimizer - when they agree in:

* the machine: device, processor, and the instructions of it that torch uses;
* the number of threads and of processes;
* the versions of Python, torch, numpy, transformers, accelerate and sftkit;
* the flags: deterministic algorithms, precision of matrix products, and the variables of the
  environment that choose kernels.

An interrupted run that goes on from a checkpoint is then bit for bit the unbroken one.

Sums of floating-point numbers depend on their order. Another number of threads, other
instructions or another version may add in another order, and training carries the difference
from step to step. In all these cases the losses agree to the tolerance in `TOLERANCES`,
relative, over the first 20 optimizer steps in float32 at a usual learning rate:

========== ========== =========================================================================
case       tolerance  measured
========== ========== =========================================================================
threads    1e-5       1.1e-7 on a tiny encoder, 1.5e-7 on MiniLM, with one thread and with two
processes  1e-5       below 1e-9 in float64; without dropout, which draws other numbers
machine    1e-4       1.9e-7 on MiniLM, with AVX2 and without, on one processor
versions   1e-2       not measured: a new version may compute otherwise on purpose
========== ========== =========================================================================

Dropout draws the same numbers whatever the number of threads. Single weights may differ by a
part of the learning rate: Adam takes steps of full length also where a gradient is near zero.
``tests/engine/test_exact.py`` measures the first row anew.

A GPU adds in no fixed order: identical bits need ``torch.use_deterministic_algorithms(True)``
there, and otherwise the tolerance is that of threads.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

VERSIONS = ("torch", "numpy", "transformers", "accelerate")
VARIABLES = (  # that choose other kernels or another order of sums
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "OMP_DYNAMIC",
    "ONEDNN_MAX_CPU_ISA",
)
# What case a difference makes, the mildest first.
KINDS = {
    "threads": ("threads",),
    "processes": ("processes",),
    "machine": ("device", "processor", "instructions", "platform", "flags", "environment"),
    "versions": ("versions",),
}
IDENTICAL, UNKNOWN, OTHER = "identical bits", "unknown", "another run"
# Of the loss, relative; the table above says what has been measured.
TOLERANCES = {"threads": 1e-5, "processes": 1e-5, "machine": 1e-4, "versions": 1e-2}


@dataclass(frozen=True)
class Case:
    """How closely two runs agree that differ in their conditions only.

    Attributes:
        name: ``identical bits``; ``threads``, ``processes``, ``machine`` or ``versions``,
            after the largest difference; ``unknown`` when a record does not say enough; or
            ``another run`` when more than the conditions differ.
        tolerance: Largest relative difference of a step's loss; 0 for identical bits, None
            when nothing is promised.
        why: One sentence for each difference.
    """

    name: str
    tolerance: float | None
    why: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        return self.name == IDENTICAL

    def __str__(self) -> str:
        what = {0.0: self.name, None: f"{self.name}: nothing is promised"}.get(
            self.tolerance, f"losses agree within {self.tolerance}, relative"
        )
        return f"{what} ({'; '.join(self.why)})" if self.why else what


def conditions(processes: int = 1) -> dict[str, Any]:
    """What decides about identical bits, of this process; all of it JSON.

    Nothing is imported for this: where torch has not been used, ``device`` is None.
    """
    from sftkit import __version__
    from sftkit.device import processor

    versions = {"python": platform.python_version(), "sftkit": __version__}
    for name in VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    facts: dict[str, Any] = {
        "device": None,
        "processor": processor(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processes": processes,
        "versions": versions,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    torch = sys.modules.get("torch")
    if torch is None:
        return facts
    from sftkit.device import best_device

    device = best_device()
    facts["device"] = torch.cuda.get_device_name() if device == "cuda" else device
    facts["instructions"] = torch.backends.cpu.get_cpu_capability()
    facts["threads"] = torch.get_num_threads()
    facts["flags"] = {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }
    return facts


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Case:
    """Which case of the contract applies to two runs, and why.

    Args:
        ours, theirs: From `conditions`, also after a way through JSON.
    """
    if absent := sorted(
        name
        for name in (name for names in KINDS.values() for name in names)
        if ours.get(name) is None or theirs.get(name) is None
    ):
        return Case(UNKNOWN, None, (f"not recorded: {', '.join(absent)}",))
    worst = IDENTICAL
    why: list[str] = []
    for kind, names in KINDS.items():
        found = [text for name in names for text in _different(name, ours[name], theirs[name])]
        if found:
            worst, why = kind, why + found
    ordered = ours["device"] == "cpu" or ours["flags"].get("deterministic_algorithms")
    if worst == IDENTICAL and not ordered:
        return Case("threads", TOLERANCES["threads"], ("the device adds in no fixed order",))
    return Case(worst, TOLERANCES.get(worst, 0.0), tuple(why))


def _different(name: str, ours: Any, theirs: Any) -> list[str]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        keys = sorted(ours.keys() | theirs.keys())
        pairs = [(key, ours.get(key), theirs.get(key)) for key in keys]
    else:
        pairs = [(name, ours, theirs)]
    return [f"{key}: {a} and {b}" for key, a, b in pairs if a != b]
