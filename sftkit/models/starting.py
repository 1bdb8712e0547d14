"""How a small encoder starts and is pretrained in little time."""

from __future__ import annotations

import torch
from torch import nn

from sftkit.models.blocks import INIT_STD
from sftkit.models.encoder import Encoder


def sine_positions(model: Encoder, scale: float = INIT_STD) -> Encoder:
    """Start the learned positions as sines and cosines (Vaswani et al. 2017).

    Random positions have nothing in common: that a token's left neighbour matters has to be
    learnt place by place. With sines, the step from a place to the next is the same rotation
    everywhere, and what is learnt in short texts carries over to places they do not have.

    Args:
        model: Changed in place, and returned.
        scale: Of the waves; as large as the other embeddings unless given.
    """
    table = model.body.embeddings.position.weight
    places = torch.arange(table.shape[0], device=table.device)[:, None]
    half = torch.arange(0, table.shape[1], 2, device=table.device)
    angles = places / 10_000 ** (half / table.shape[1])
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)[:, : table.shape[1]]
    with torch.no_grad():
        table.copy_(scale * waves)
    return model


def set_dropout(model: nn.Module, share: float) -> None:
    """Another share of dropout in all layers; the model's config keeps its own.

    A small model that reads a text a few times does not overfit, and learns faster without.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
