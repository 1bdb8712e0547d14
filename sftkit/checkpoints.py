"""Checkpoints that hold all that a bit-exact resume needs, and are whole or absent.

A checkpoint is a folder ``step-00000123`` with tensors in safetensors and the rest in JSON:
no pickle, so loading one runs no code. ``manifest.json`` has the hash of every file.
"""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sftkit.errors import CheckpointError
from sftkit.files import folder_in_one_piece, read_json, sha256, write_json

NAME = re.compile(r"step-(\d{8})")


def save(
    folder: Path,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Save a checkpoint and remove old ones.

    Args:
        folder: Where the checkpoints of one run live.
        step: Optimizer steps done.
        state: What else to save, as JSON: position, schedule, history, configuration.
        keep: How many checkpoints to keep, newest first. The one that ``state["best"]``
            names is kept besides.

    Raises:
        CheckpointError: When the disk is full or the folder cannot be written. Older
            checkpoints are still there.
    """
    final = Path(folder) / f"step-{step:08d}"
    try:
        with folder_in_one_piece(final) as part:
            save_file(_model_tensors(model), part / "model.safetensors")
            tensors, layout = _optimizer_state(optimizer)
            save_file(tensors, part / "optimizer.safetensors")
            save_file(_generator_tensors(), part / "generators.safetensors")
            version, internal, gauss = random.getstate()
            generators = {"python": [version, list(internal), gauss]}
            write_json(
                part / "state.json",
                {"step": step, "optimizer": layout, "generators": generators, "run": state},
            )
            hashes = {entry.name: sha256(entry) for entry in sorted(part.iterdir())}
            write_json(part / "manifest.json", hashes)
    except OSError as problem:
        raise CheckpointError(
            f"checkpoint {final} could not be saved: {problem.strerror or problem}.",
            "Make room or give another folder, then go on with resume=True.",
        ) from problem
    best = (state.get("best") or {}).get("step")
    for old in existing(folder)[:-keep]:
        if int(old.name[5:]) != best:
            shutil.rmtree(old, ignore_errors=True)
    return final


def existing(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    if not Path(folder).is_dir():
        return []
    return sorted(entry for entry in Path(folder).iterdir() if NAME.fullmatch(entry.name))


def check(checkpoint: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: Naming the first file that is missing or damaged.
    """
    manifest = checkpoint / "manifest.json"
    if not manifest.is_file():
        raise CheckpointError(f"{checkpoint} has no manifest.json.", _remedy(checkpoint))
    for name, expected in read_json(manifest).items():
        path = checkpoint / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing.", _remedy(checkpoint))
        if sha256(path) != expected:
            raise CheckpointError(f"{path} is damaged.", _remedy(checkpoint))


def _remedy(checkpoint: Path) -> str:
    return f"Delete {checkpoint} to go on from the one before it, or start without resume."


def restore(
    checkpoint: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Bring model, optimizer and random generators back to where they were.

    Returns:
        The ``state`` that was given to `save`.

    Raises:
        CheckpointError: When the checkpoint is damaged or is of another model.
    """
    check(checkpoint)
    _load_model(checkpoint, model)
    content = read_json(checkpoint / "state.json")
    _load_optimizer(checkpoint, content["optimizer"], optimizer)
    generators = load_file(checkpoint / "generators.safetensors")
    torch.set_rng_state(generators["torch"])
    if "cuda" in generators and torch.cuda.is_available():
        torch.cuda.set_rng_state(generators["cuda"])
    version, internal, gauss = content["generators"]["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = generators["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", numpy_state[:624], int(numpy_state[624]), 0, 0.0))
    return content["run"]


def load_model(checkpoint: Path, model: torch.nn.Module) -> None:
    """Only the model's parameters and buffers, for example of the best checkpoint."""
    check(checkpoint)
    _load_model(checkpoint, model)


def _model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name; those that are tied are saved once."""
    seen: dict[int, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if seen.setdefault(tensor.data_ptr(), name) == name or tensor.numel() == 0:
            tensors[name] = tensor.detach().contiguous()
    return tensors


def _load_model(checkpoint: Path, model: torch.nn.Module) -> None:
    saved = load_file(checkpoint / "model.safetensors")
    own = model.state_dict()
    wanted = _model_tensors(model)
    for name in sorted(wanted.keys() | saved.keys()):
        if name not in saved or name not in own or saved[name].shape != own[name].shape:
            have = tuple(saved[name].shape) if name in saved else "absent"
            want = tuple(own[name].shape) if name in own else "absent"
            raise CheckpointError(
                f"{checkpoint} is of another model: {name} is {have} there and {want} here.",
                "Use the model that the run began with, or start without resume.",
            )
    with torch.no_grad():
        for name, tensor in saved.items():
            own[name].copy_(tensor)


def _optimizer_state(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The optimizer's state as tensors by name, and the rest as JSON."""
    whole = optimizer.state_dict()
    tensors = {
        f"{index}.{key}": value.detach().contiguous()
        for index, entry in whole["state"].items()
        for key, value in entry.items()
        if isinstance(value, torch.Tensor)
    }
    numbers = {
        str(index): {k: v for k, v in entry.items() if not isinstance(v, torch.Tensor)}
        for index, entry in whole["state"].items()
    }
    return tensors, {"numbers": numbers, "groups": whole["param_groups"]}


def _load_optimizer(
    checkpoint: Path, layout: dict[str, Any], optimizer: torch.optim.Optimizer
) -> None:
    state: dict[int, dict[str, Any]] = {
        int(index): dict(entry) for index, entry in layout["numbers"].items()
    }
    for name, tensor in load_file(checkpoint / "optimizer.safetensors").items():
        number, key = name.split(".", 1)
        state[int(number)][key] = tensor
    groups: list[dict[str, Any]] = [dict(group) for group in layout["groups"]]
    for group in groups:
        if "betas" in group:
            group["betas"] = tuple(group["betas"])  # JSON made it a list
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as problem:
        raise CheckpointError(
            f"{checkpoint} has another optimizer or other trained parameters: {problem}.",
            "Use the settings that the run began with, or start without resume.",
        ) from problem


def _generator_tensors() -> dict[str, torch.Tensor]:
    numpy_state: Any = np.random.get_state(legacy=True)
    packed = np.concatenate([numpy_state[1], [numpy_state[2]]]).astype(np.int64)
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(packed)}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors
