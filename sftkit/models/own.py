"""Save and load our own models: safetensors and JSON, whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sftkit.errors import ModelError
from sftkit.files import folder_in_one_piece, write_json
from sftkit.models.export import FORMAT_FILE, OWN, WEIGHTS_FILE
from sftkit.models.folders import read_object, refuse_foreign

Config = TypeVar("Config")


def save_own(
    model: torch.nn.Module, kind: str, config: Any, folder: str | Path, tokenizer: Any = None
) -> Path:
    """Save a model in one piece: the folder is whole, or it is as it was before.

    Args:
        kind: ``encoder`` or ``decoder``.
        config: The model's dataclass of sizes.
        tokenizer: Saved beside the weights when given; needs ``save_pretrained``.

    Returns:
        The folder.

    Raises:
        ModelError: The folder holds anything but a model of ours.
    """
    folder = Path(folder)
    refuse_foreign(folder, [FORMAT_FILE], OWN, "does not hold a model of ours")
    with folder_in_one_piece(folder) as part:
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
        tensors = {name: t.detach().contiguous() for name, t in model.state_dict().items()}
        save_file(tensors, part / WEIGHTS_FILE)
        description = {"format": 1, "kind": kind, "head": getattr(model, "head_name", None)}
        write_json(part / FORMAT_FILE, description | {"config": asdict(config)})
    return folder


def read_own(
    folder: str | Path, kind: str, config: type[Config]
) -> tuple[Config, str | None, dict[str, torch.Tensor]]:
    """What `save_own` wrote: sizes, the head's name, and the tensors.

    Raises:
        ModelError: When the folder holds something else or is damaged.
    """
    folder = Path(folder)
    if not (folder / FORMAT_FILE).is_file():
        raise ModelError(
            f"{folder} has no {FORMAT_FILE}.", "Give a folder that the model's save wrote."
        )
    description = read_object(folder / FORMAT_FILE)
    if description.get("format") != 1 or description.get("kind") != kind:
        raise ModelError(
            f"{folder} holds a model of kind {description.get('kind')!r}, not {kind!r}.",
            "Load it with the class that saved it.",
        )
    known = {field.name for field in fields(config)}  # type: ignore[arg-type]
    sizes = description.get("config")
    if not isinstance(sizes, dict) or set(sizes) != known:
        raise ModelError(
            f"{folder / FORMAT_FILE} has other sizes than this version knows.",
            "Load it with the version of sftkit that saved it.",
        )
    tensors = read_tensors(folder / WEIGHTS_FILE)
    return config(**sizes), description.get("head"), tensors


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; ModelError when it is absent or damaged."""
    if not path.is_file():
        raise ModelError(f"{path} is missing.", "Give a folder with a whole model.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as problem:
        raise ModelError(f"{path} cannot be read: {problem}.", "Save or fetch it again.") from (
            problem
        )


def read_config(folder: Path, kind: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A Hugging Face ``config.json`` whose values our architecture can take over.

    Args:
        kind: Its ``model_type``.
        wanted: Values that must be there, or absent: ours has no others.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json.", f"Give the folder of a {kind} model.")
    content = read_object(path)
    for name, value in {"model_type": kind, **wanted}.items():
        if content.get(name, value) != value:
            raise ModelError(
                f"{path}: {name} is {content[name]!r}; ours has {value!r} only.",
                "Load this model with transformers.",
            )
    return content


def fill(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], source: Any) -> None:
    """Put tensors in place by name, as float32; all must fit, and none may be missing."""
    own = model.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        have = tuple(tensors[name].shape) if name in tensors else "absent"
        want = tuple(own[name].shape) if name in own else "absent"
        if have != want:
            raise ModelError(
                f"{source} does not fit: {name} is {have} there and {want} here.",
                "Check that the folder holds one model with its own config.",
            )
    whole = {name: tensor.float() for name, tensor in tensors.items()}
    model.load_state_dict(whole, assign=True)
