"""Look at an optimizer before it steps: what does it decay?"""

from __future__ import annotations

import torch


def decayed_vectors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the parameters of one dimension (biases, norms) that weight decay pulls to 0.

    A norm's scale is at home at 1 and a bias where the data put it, so the list should be
    empty. ``sftkit.optim.parameter_groups`` makes groups for which it is.
    """
    decayed = {
        id(parameter)
        for group in optimizer.param_groups
        if group.get("weight_decay", 0) > 0
        for parameter in group["params"]
    }
    return [name for name, p in model.named_parameters() if p.ndim < 2 and id(p) in decayed]
