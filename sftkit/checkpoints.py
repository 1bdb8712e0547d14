"""Checkpoints that hold all that a bit-exact resume needs, and are whole or absent.

A checkpoint is a folder ``step-00000123`` with tensors in safetensors and the rest in JSON:
no pickle, so loading one runs no code. ``manifest.json`` has the step, the run's own id and the
hash of every file, so that nothing damaged, renamed or put together from two checkpoints is
taken for whole.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sftkit import generators, states
from sftkit.errors import CheckpointError
from sftkit.files import folder_in_one_piece, read_json, sha256, write_json

NAME = re.compile(r"step-(\d{8,})")
ASIDE = "before"  # what an earlier run left, while a new one begins in the same folder
FORMAT = 2
NEEDED = ("model.safetensors", "optimizer.safetensors", "state.json")

Tensors = Mapping[str, torch.Tensor]


def save(
    folder: Path,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    *,
    keep: int = 2,
    more: Mapping[str, Tensors] | None = None,
) -> Path:
    """Save a checkpoint and remove old ones.

    Args:
        folder: Where the checkpoints of one run live.
        step: Optimizer steps done.
        state: What else to save, as JSON: position, schedule, history, configuration. Its
            ``"run"`` is the run's id.
        keep: How many checkpoints to keep, newest first. The one that ``state["best"]``
            names is kept besides.
        more: Further tensors, by the name of their file. The generators of this process
            unless they are given.

    Raises:
        CheckpointError: When the disk is full or the folder cannot be written. Older
            checkpoints are still there.
    """
    final = Path(folder) / f"step-{step:08d}"
    files = {"generators": generators.capture()} | dict(more or {})
    try:
        with folder_in_one_piece(final) as part:
            _write(part, step, model, optimizer, state, files)
    except (OSError, SafetensorError) as problem:
        said = getattr(problem, "strerror", None) or problem
        raise CheckpointError(
            f"checkpoint {final} could not be saved: {said}.",
            "Make room or give another folder, then go on with resume=True.",
        ) from problem
    best = (state.get("best") or {}).get("step")
    for old in existing(folder)[:-keep]:
        if _step(old) != best:
            shutil.rmtree(old, ignore_errors=True)
    return final


def _write(
    part: Path,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    files: Mapping[str, Tensors],
) -> None:
    save_file(states.model_tensors(model), part / "model.safetensors")
    tensors, layout = states.optimizer_state(optimizer)
    save_file(tensors, part / "optimizer.safetensors")
    for name, content in ((name, found) for name, found in files.items() if found):
        plain = {key: value.detach().cpu().contiguous() for key, value in content.items()}
        save_file(plain, part / f"{name}.safetensors")
    write_json(part / "state.json", {"step": step, "optimizer": layout, "run": state})
    hashes = {entry.name: sha256(entry) for entry in sorted(part.iterdir())}
    facts = {"format": FORMAT, "step": step, "run": state.get("run"), "files": hashes}
    write_json(part / "manifest.json", facts)


def existing(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    if not Path(folder).is_dir():
        return []
    found = [entry for entry in Path(folder).iterdir() if NAME.fullmatch(entry.name)]
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name[5:])


def tidy(folder: Path) -> None:
    """Remove what a process that was killed while it saved has left unfinished."""
    for entry in Path(folder).glob(".step-*"):
        shutil.rmtree(entry, ignore_errors=True)


def put_aside(folder: Path) -> Path | None:
    """Move an earlier run's checkpoints into ``before``, where a new run begins.

    Returns:
        Where they are now; None when there were none.
    """
    if not (found := existing(folder)):
        return None
    aside = Path(folder) / ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for checkpoint in found:
        checkpoint.rename(aside / checkpoint.name)
    return aside


def check(checkpoint: Path) -> dict[str, Any]:
    """Compare every file with the manifest.

    Returns:
        The manifest: step, run, and the hash of each file.

    Raises:
        CheckpointError: Naming the first file that is missing or damaged, and what to do.
    """
    checkpoint = Path(checkpoint)
    with _reading(checkpoint / "manifest.json", checkpoint):
        manifest = read_json(checkpoint / "manifest.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise CheckpointError(
                f"{checkpoint} is not a checkpoint of this version of sftkit.",
                "Go on with the version that saved it, or start without resume.",
            )
        files, step = dict(manifest["files"]), int(manifest["step"])
    for name in (*NEEDED, *files):
        path = checkpoint / name
        with _reading(path, checkpoint):
            if name not in files or sha256(path) != files[name]:
                raise CheckpointError(f"{path} is damaged.", _remedy(checkpoint))
    if NAME.fullmatch(checkpoint.name) and _step(checkpoint) != step:
        raise CheckpointError(
            f"{checkpoint} holds the checkpoint of step {step}.",
            "Give the folder its own name back, or start without resume.",
        )
    return manifest


@contextmanager
def _reading(path: Path, checkpoint: Path) -> Iterator[None]:
    """What can go wrong with a file, as an error that names it."""
    try:
        yield
    except FileNotFoundError as problem:
        raise CheckpointError(f"{path} is missing.", _remedy(checkpoint)) from problem
    except OSError as problem:
        raise CheckpointError(
            f"{path} cannot be read: {problem.strerror or problem}.",
            "Make it readable for this user, or start without resume.",
        ) from problem
    except (ValueError, KeyError, TypeError, SafetensorError) as problem:
        raise CheckpointError(f"{path} is damaged.", _remedy(checkpoint)) from problem


def _remedy(checkpoint: Path) -> str:
    """How to go on, if there is a checkpoint to go on from."""
    here = existing(checkpoint.parent)
    earlier = [other for other in here if other.name < checkpoint.name]
    if not earlier:
        return "There is none before it: start without resume."
    return (
        f"Delete {checkpoint} and give resume=True again, to go on from the one before it, "
        f"{earlier[-1].name}; or start without resume."
    )


def restore(
    checkpoint: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    accept: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Bring model and optimizer back to where they were.

    The generators come back with `generators.restore` of `tensors`, when all else is done.

    Args:
        accept: Sees the saved ``state`` before anything is changed; raises to refuse it.

    Returns:
        The ``state`` that was given to `save`.

    Raises:
        CheckpointError: When the checkpoint is damaged or is of another model. The model is
            then as it was.
    """
    manifest = check(checkpoint)
    saved = _tensors(checkpoint, "model")
    states.check_fit(checkpoint, saved, model)
    with _reading(checkpoint / "state.json", checkpoint):
        content = read_json(checkpoint / "state.json")
        layout, state, step = content["optimizer"], content["run"], content["step"]
    if (state.get("run"), step) != (manifest["run"], manifest["step"]):
        raise CheckpointError(f"{checkpoint} is put together from two.", _remedy(checkpoint))
    if accept is not None:
        accept(state)
    states.load_optimizer(checkpoint, _tensors(checkpoint, "optimizer"), layout, optimizer)
    states.put(saved, model)
    return state


def tensors(checkpoint: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors that `save` was given under a name; none if it was not given any."""
    return _tensors(checkpoint, name) if (checkpoint / f"{name}.safetensors").is_file() else {}


def _tensors(checkpoint: Path, name: str) -> dict[str, torch.Tensor]:
    path = checkpoint / f"{name}.safetensors"
    with _reading(path, checkpoint):
        return load_file(path)


def load_model(checkpoint: Path, model: torch.nn.Module) -> dict[str, Any]:
    """Only the model's parameters and buffers, for example of the best checkpoint.

    Returns:
        The manifest, as `check`.
    """
    manifest = check(checkpoint)
    saved = _tensors(checkpoint, "model")
    states.check_fit(checkpoint, saved, model)
    states.put(saved, model)
    return manifest


def run_of(checkpoint: Path) -> str | None:
    """The id of the run that saved a checkpoint; None when that cannot be read."""
    try:
        return read_json(checkpoint / "manifest.json")["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
