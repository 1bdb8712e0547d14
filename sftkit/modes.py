"""A model in evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluated(model: torch.nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode; then each part is as it was before.

    Each part for itself: under adapters, say, frozen parts stay in evaluation mode in training.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
