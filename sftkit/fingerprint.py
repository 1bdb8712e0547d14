"""What a run is: its model, data, settings and loss, so that two runs can be compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sftkit.batches import Batches, Examples, Ragged
from sftkit.errors import CheckpointError
from sftkit.models import lora

SAME_SETTINGS = "Use the settings that the run began with, or start without resume."


def fingerprint(model: torch.nn.Module, batches: Batches, loss: Any) -> dict[str, Any]:
    """What a checkpoint must share with the run that goes on from it, settings apart."""
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    return {
        "model": type(model).__name__,
        "trained parameters": _digest("\n".join(trained).encode()),
        "dropout": sorted(rates),
        "loss": _loss_settings(loss),
        **({"adapters": adapters} if (adapters := lora.settings(model)) else {}),
        "batches": type(batches).__name__,
        **batches.settings(),
        "data": data_digest(batches.examples),
    }


def data_digest(examples: Examples) -> str:
    """A hash of every column's values and of what fills them up."""
    digest = hashlib.sha256(f"{examples.pad_id}".encode())
    for name, column in sorted(examples.columns.items()):
        if isinstance(column, Ragged):
            digest.update(column.lengths.tobytes())
        values = column.values if isinstance(column, Ragged) else np.asarray(column)
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        if values.dtype.hasobject:  # texts: the array holds where they are, not what
            digest.update(json.dumps(values.tolist(), default=repr).encode())
        else:
            digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def _loss_settings(loss: Any) -> dict[str, Any] | str:
    """Name and settings of a loss of sftkit's; what counts in another one is not known."""
    module, code = getattr(loss, "__module__", "") or "", getattr(loss, "__code__", None)
    if not module.startswith("sftkit.") or code is None:
        return "own"
    cells = zip(code.co_freevars, loss.__closure__ or (), strict=True)
    values = {name: cell.cell_contents for name, cell in cells}
    values = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
    plain = {k: v for k, v in values.items() if isinstance(v, int | float | str | list | None)}
    return {"name": f"{module}.{loss.__qualname__.split('.')[0]}"} | plain


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def refuse_other(checkpoint: Path, saved: dict[str, Any], ours: dict[str, Any]) -> None:
    """CheckpointError naming every setting in which the two runs differ."""
    ours = json.loads(json.dumps(ours))  # as the saved ones: tuples have become lists
    facts = []
    for name in sorted(saved.keys() | ours.keys()):
        was, now = saved.get(name), ours.get(name)
        if was == now:
            continue
        if name == "data":
            facts.append(f"the examples are others (hash {was}, now {now})")
        elif name == "trained parameters":
            facts.append("other parameters are trained")
        else:
            facts.append(f"{name} was {was} and is {now}")
    if facts:
        raise CheckpointError(
            f"{checkpoint} belongs to another run: {', '.join(facts)}.", SAME_SETTINGS
        )
