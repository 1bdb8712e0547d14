"""What this machine gives: device, threads, measured speed, precision, memory settings."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PROBE_SIZE = 768  # rows and columns of the probe's matrices: large enough for full speed


def best_device() -> str:
    """``"cuda"``, ``"mps"`` or ``"cpu"``, the fastest that torch reports as usable."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def matrix_gflops(
    rows: int = PROBE_SIZE,
    inner: int = PROBE_SIZE,
    columns: int = PROBE_SIZE,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    seconds: float = 0.2,
) -> float:
    """Measured speed of a matrix product ``(rows, inner) @ (inner, columns)``.

    Args:
        dtype: float32 unless given.
        seconds: How long to measure, after one warm-up product.

    Returns:
        GFLOP/s of the fastest repetition, which is the machine's limit rather than its mood.
    """
    import torch

    a = torch.randn(rows, inner, dtype=torch.float32, device=device).to(dtype or torch.float32)
    b = torch.randn(inner, columns, dtype=torch.float32, device=device).to(a.dtype)

    def product() -> float:
        start = time.perf_counter()
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    product()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, product())
    return 2 * rows * inner * columns / best / 1e9


@functools.cache
def probe_precision(device: str) -> tuple[str, str]:
    """Choose float32 or bfloat16 by measuring, never by what is reported as supported.

    Returns:
        ``(precision, reason)``: ``"fp32"`` or ``"bf16"``, and a sentence that says why.
        bfloat16 is chosen when it is at least 1.5 times as fast, and when a product in it
        agrees with float32 to its own precision of about three digits.
    """
    import torch

    full = matrix_gflops(device=device, seconds=0.05)
    try:
        half = matrix_gflops(256, 256, 256, torch.bfloat16, device, seconds=0.05)
        generator = torch.Generator().manual_seed(0)
        a = torch.rand(64, 64, generator=generator).to(device)
        error = (a.bfloat16() @ a.bfloat16()).float().sub(a @ a).abs().max() / (a @ a).max()
    except RuntimeError as problem:
        return "fp32", f"bfloat16 does not work here ({str(problem).splitlines()[0]})"
    facts = f"bfloat16 gives {half:.0f} GFLOP/s, float32 {full:.0f}"
    if float(error) > 0.02:
        return "fp32", f"bfloat16 is wrong by {float(error):.1%} here"
    return ("bf16", facts) if half > 1.5 * full else ("fp32", facts)


def auto_precision(device: str) -> str:
    """What ``precision="auto"`` of `fit` means: ``"fp32"`` on CPU, elsewhere as measured.

    Some processors are faster in bfloat16. But whether they are is a matter of the moment: the
    same machine measured 754 GFLOP/s when idle and 4 beside other work. A choice by the clock
    would break the promise of identical bits, so on CPU bfloat16 has to be asked for; `doctor`
    says whether it pays.
    """
    return "fp32" if device == "cpu" else probe_precision(device)[0]


@functools.cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory instead of giving it back at once.

    Every training step frees and asks again for the same large blocks. By default glibc
    returns blocks above 32 MB at once, and the kernel then has to hand them out again page
    by page, filled with zeros. Keeping them saves about a tenth of a step on CPU (measured
    in ``benchmarks/``). It changes no result.

    Returns:
        True if the setting was accepted (Linux with glibc), False elsewhere.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mmap_threshold, trim_threshold = -3, -1  # the numbers of M_MMAP_THRESHOLD, M_TRIM_...
    libc = ctypes.CDLL(None)
    return bool(
        libc.mallopt(mmap_threshold, 1 << 30) and libc.mallopt(trim_threshold, (1 << 31) - 1)
    )


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MB (10^6 bytes); NaN on Windows.

    On Linux it is read from ``/proc``: what ``getrusage`` gives there also counts the
    process that started this one, up to the moment when it did.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if platform.system() == "Darwin" else peak * 1024 / 1e6


def facts() -> dict[str, Any]:
    """Device, threads and processor of this machine, for a run's record."""
    import torch

    device = best_device()
    return {
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    """The name of this machine's processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
