"""Models, optimizers and states of callbacks as tensors by name and JSON, and back again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from sftkit.errors import CheckpointError


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name; those that are tied are saved once."""
    seen: dict[int, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if seen.setdefault(tensor.data_ptr(), name) == name or tensor.numel() == 0:
            tensors[name] = tensor.detach().contiguous()
    return tensors


def check_fit(checkpoint: Path, saved: dict[str, torch.Tensor], model: torch.nn.Module) -> None:
    """CheckpointError unless every saved tensor has its place, and no place is left."""
    own = model.state_dict()
    wanted = model_tensors(model)
    for name in sorted(wanted.keys() | saved.keys()):
        if name not in saved or name not in own or saved[name].shape != own[name].shape:
            have = tuple(saved[name].shape) if name in saved else "absent"
            want = tuple(own[name].shape) if name in own else "absent"
            raise CheckpointError(
                f"{checkpoint} is of another model: {name} is {have} there and {want} here.",
                "Use the model that the run began with, or start without resume.",
            )
        if saved[name].dtype != own[name].dtype:
            raise CheckpointError(
                f"{checkpoint} is of another model: {name} is {saved[name].dtype} there and "
                f"{own[name].dtype} here.",
                "Bring the model to that type before fit, or start without resume.",
            )


def put(saved: dict[str, torch.Tensor], model: torch.nn.Module) -> None:
    """Copy saved tensors into the model."""
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in saved.items():
            own[name].copy_(tensor)


def optimizer_state(
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


def load_optimizer(
    checkpoint: Path,
    saved: dict[str, torch.Tensor],
    layout: dict[str, Any],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Bring an optimizer back to what `optimizer_state` gave."""
    state: dict[int, dict[str, Any]] = {
        int(index): dict(entry) for index, entry in layout["numbers"].items()
    }
    for name, tensor in saved.items():
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


def pack(value: Any, name: str, tensors: dict[str, torch.Tensor], owner: Any) -> Any:
    """A state as JSON; its tensors go into ``tensors``, and their names in their places.

    Raises:
        CheckpointError: It holds something that is neither a plain value nor a tensor.
    """
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {k: pack(v, f"{name}.{k}", tensors, owner) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [pack(v, f"{name}.{i}", tensors, owner) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(float(value))}
    if isinstance(value, int | float | str | None):
        return value
    raise CheckpointError(
        f"the state of {type(owner).__name__} holds a {type(value).__name__} at {name}.",
        "Use numbers, texts, lists, tensors, and dictionaries whose keys are texts.",
    )


def unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """What `pack` was given; tuples have become lists."""
    if isinstance(value, list):
        return [unpack(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$float" in value:
        return float(value["$float"])
    return {k: unpack(v, tensors) for k, v in value.items()}
