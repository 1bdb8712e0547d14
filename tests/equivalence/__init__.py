"""What must not matter: runs that do the same mathematics share one trajectory.

The models are tiny and in float64, so that what differs in the last digits stays there. Two
numbers are held against a tolerance: the largest difference of any step's loss, gradient norm
or final weight, and the mean difference of the losses with its sign. A drift that is small at
every step but always to one side is a mistake, where noise is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sftkit.fit import fit

LARGEST, DRIFT = 1e-10, 1e-12
OPTIONS = {"epochs": 2, "lr": 1e-2, "warmup": 0.2, "precision": "fp32"}


@dataclass(frozen=True)
class Trajectory:
    """What a run has gone through: losses and gradient norms by step, and its last weights."""

    losses: np.ndarray
    norms: np.ndarray
    weights: np.ndarray


def flat(model: torch.nn.Module) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()


def train(model: torch.nn.Module, batches: Any, loss: Any, **options: Any) -> Trajectory:
    state = fit(model, batches, loss, **OPTIONS | options)
    norms = np.array([row["gradient_norm"] for row in state.history])
    return Trajectory(np.array(state.losses), norms, flat(model))


def agree(
    what: str,
    found: Trajectory,
    expected: Trajectory,
    largest: float = LARGEST,
    drift: float = DRIFT,
) -> None:
    """Hold two trajectories against each other; the message has both numbers."""
    assert len(found.losses) == len(expected.losses) > 2, f"{what}: different numbers of steps"
    assert expected.losses[-1] < expected.losses[0], f"{what}: the run learns nothing"
    errors = {
        name: float(np.abs(ours - getattr(expected, name)).max(initial=0))
        for name, ours in vars(found).items()
        if len(getattr(expected, name))
    }
    mean = float((found.losses - expected.losses).mean())
    facts = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
    facts = f"{what}: largest errors of {facts} (tolerance {largest:g}); "
    facts += f"mean drift {mean:+.2g} (tolerance {drift:g})"
    print(facts)
    assert max(errors.values()) <= largest and abs(mean) <= drift, facts
