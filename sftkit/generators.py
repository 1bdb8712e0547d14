"""The random generators of this process: seeded, copied, and brought back.

Dropout draws from torch's generator, and what a user writes may draw from Python's or numpy's.
A run that is to go on bit for bit needs all of them, those of every process.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

APART = 1_000_003  # between the seeds of processes


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def of_process(seed: int, index: int) -> int:
    """The seed of one of several processes; the first has the seed itself.

    With one seed for all, rows in the same place of two processes would be dropped alike.
    """
    return (seed + APART * index) % 2**63 if index else seed


def capture() -> dict[str, torch.Tensor]:
    """The state of all generators, as tensors by name."""
    version, internal, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *internal], dtype=torch.int64),
        "python_gauss": _optional(gauss),
    }
    legacy: Any = np.random.get_state(legacy=True)
    if isinstance(legacy, tuple):  # a dict when somebody has put in another generator
        _, keys, position, has_gauss, cached = legacy
        packed = np.concatenate([keys, [position]]).astype(np.int64)
        state["numpy"] = torch.from_numpy(packed)
        state["numpy_gauss"] = _optional(cached if has_gauss else None)
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    elif torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore(state: dict[str, torch.Tensor]) -> None:
    """Bring all generators back to what `capture` gave, those of a device if it is there."""
    torch.set_rng_state(state["torch"])
    version, *internal = state["python"].tolist()
    random.setstate((version, tuple(internal), _value(state["python_gauss"])))
    if "numpy" in state:
        packed = state["numpy"].numpy().astype(np.uint32)
        gauss = _value(state["numpy_gauss"])
        left = (int(gauss is not None), gauss or 0.0)
        np.random.set_state(("MT19937", packed[:-1], int(packed[-1]), *left))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


def _optional(number: float | None) -> torch.Tensor:
    """Normal numbers come in pairs; the second waits here. Empty when there is none."""
    return torch.tensor([] if number is None else [number], dtype=torch.float64)


def _value(tensor: torch.Tensor) -> float | None:
    return float(tensor[0]) if len(tensor) else None
