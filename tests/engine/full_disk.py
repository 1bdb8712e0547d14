"""Jobs of test_kill: train on a disk that is too small, or in a folder that is held."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sftkit import checkpoints, losses
from sftkit.batches import Batches
from sftkit.errors import CheckpointError
from sftkit.fit import fit, seed_everything
from tests.engine import tiny
from tests.engine.killed import say

CLONE_NEWNS = 0x00020000
SIZE = 600_000  # bytes: a few checkpoints


def training(folder: Path, resume: bool, **options: Any) -> torch.nn.Module:
    seed_everything(1)
    model = tiny.model(dropout=0.2)
    batches = Batches(tiny.examples(24), 8)
    settings = dict(epochs=2, lr=1e-2, save_every=1, precision="fp32")
    settings |= dict(folder=folder, resume=resume)
    fit(model, batches, losses.classification(), **settings, **options)
    return model


def small_disk(where: Path) -> bool:
    """A file system of SIZE bytes that only this process sees; False where not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare") or libc.unshare(CLONE_NEWNS) != 0:
        return False
    calm = ["mount", "--make-rprivate", "/"]
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(where)]
    return all(subprocess.run(c, capture_output=True).returncode == 0 for c in (calm, mount))


def disk_full(folder: str, tmpfs: bool) -> None:
    """Train until the disk is full; make room; go on; write the weights beside the disk.

    Args:
        tmpfs: A real small file system. Otherwise files that may not become as large as the
            second part of a checkpoint is, which every Unix permits.
    """
    torch.set_num_threads(1)
    disk = Path(folder) / "disk"
    disk.mkdir()
    ballast = disk / "ballast"
    saves = Path(disk) / "checkpoints"
    if tmpfs and not small_disk(disk):
        say("not permitted")
        return
    whole = training(Path(folder) / "whole", False)
    save_file(whole.state_dict(), Path(folder) / "whole.safetensors")

    class Fill:
        def on_step(self, model: Any, state: Any) -> None:
            if state.step != 3:
                return
            if tmpfs:
                free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
                ballast.write_bytes(b"x" * max(free - 30_000, 0))
            else:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, -1))

        def on_evaluate(self, model: Any, state: Any) -> None: ...

    try:
        training(saves, False, callbacks=[Fill()], keep=1)
        say("no error")
    except CheckpointError as problem:
        say("error", str(problem).replace("\n", " "))
    say("left", *sorted(entry.name for entry in saves.iterdir()))
    checkpoints.check(checkpoints.existing(saves)[-1])
    ballast.unlink(missing_ok=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    resumed = training(saves, True, keep=1)
    save_file(resumed.state_dict(), Path(folder) / "resumed.safetensors")
    say("done")


def slowly(folder: str) -> None:
    """Hold a folder until somebody ends this."""

    class Wait:
        def on_step(self, model: Any, state: Any) -> None:
            say("holds", os.getpid())
            time.sleep(300)

        def on_evaluate(self, model: Any, state: Any) -> None: ...

    training(Path(folder) / "checkpoints", True, callbacks=[Wait()])


def beside(folder: str) -> None:
    """Train in a folder that somebody may hold."""
    training(Path(folder) / "checkpoints", True)
    say("done")


def command(folder: str) -> None:
    """`sftkit student` where files may not grow."""
    from sftkit.cli import main

    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, -1))
    code = main(["student", "00", "--to", str(Path(folder) / "copies")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    say("code", code, *sorted(entry.name for entry in Path(folder).rglob("*.ipynb")))
