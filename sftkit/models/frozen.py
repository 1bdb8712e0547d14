"""What is trained, and how to compute only once what is not."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import torch
from torch import nn

from sftkit.batches import Batches, Examples, Ragged
from sftkit.errors import ModelError
from sftkit.losses import model_inputs
from sftkit.models.parts import base_of, blocks, role


def set_trainable(model: nn.Module, what: str) -> None:
    """Choose what is trained; everything else is frozen.

    Args:
        what: ``all``; ``head``; ``top-K`` (the last K blocks and the head);
            ``no-embeddings`` (all but the table of word embeddings, which is about half of
            a small encoder and is hardly moved by fine-tuning).

    Raises:
        ModelError: Unknown choice, or more blocks than there are.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if what == "all":
        return
    if what == "no-embeddings":
        base: Any = base_of(model)
        base.get_input_embeddings().weight.requires_grad_(False)
        return
    match = re.fullmatch(r"head|top-(\d+)", what)
    if not match:
        raise ModelError(
            f"train={what!r}.",
            "There are all, head, no-embeddings, and top-1, top-2 and so on.",
        )
    depth = len(blocks(model))
    top = int(match[1]) if match[1] else 0
    if top > depth:
        raise ModelError(f"train={what!r}: the model has {depth} blocks.", "Choose fewer.")
    trained = {f"block {depth - 1 - i}" for i in range(top)} | {"head"}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(role(model, name) in trained)


def train_mode(model: nn.Module) -> None:
    """Training mode, except for modules that are wholly frozen.

    Dropout in a part that cannot learn is noise in its output, and its output could not be
    computed once and kept.
    """
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def frozen_blocks(model: nn.Module) -> int:
    """How many blocks, counted from the bottom, always give the same output.

    None do unless all embeddings are frozen too.
    """
    frozen = 0
    for name, parameter in model.named_parameters():
        if role(model, name) == "embeddings" and parameter.requires_grad:
            return 0
    for block in blocks(model):
        if any(p.requires_grad for p in block.parameters()):
            break
        frozen += 1
    return frozen


class _Passthrough(nn.Module):
    """Stands in for the embeddings when their output, or a later one, is already known."""

    def forward(self, inputs_embeds: torch.Tensor, **ignored: Any) -> torch.Tensor:
        return inputs_embeds


class _AboveTheCut(nn.Module):
    """The model from block K on. Shares its parameters with the whole model."""

    def __init__(self, model: nn.Module, first: int) -> None:
        super().__init__()
        self.top = _swap(model, nn.ModuleList(list(blocks(model))[first:]), _Passthrough())

    @property
    def base_model(self) -> nn.Module:
        return base_of(self.top)

    def forward(self, hidden: torch.Tensor, **inputs: torch.Tensor) -> Any:
        return self.top(inputs_embeds=hidden, **inputs)


def _swap(model: nn.Module, stack: nn.ModuleList, embeddings: nn.Module | None) -> nn.Module:
    """A shallow copy that shares all parameters, with another stack of blocks."""
    old_stack = blocks(model)
    base = base_of(model)
    old_embeddings = getattr(base, "embeddings", None)
    if embeddings is not None and old_embeddings is None:
        raise ModelError(
            f"{type(base).__name__} has no module named embeddings, so its frozen part cannot "
            "be cached.",
            "Train it without cache_frozen.",
        )

    def clone(module: nn.Module) -> nn.Module:
        if module is old_stack:
            return stack
        if embeddings is not None and module is old_embeddings:
            return embeddings
        twin = copy.copy(module)
        twin._modules = {
            name: None if child is None else clone(child)
            for name, child in module._modules.items()
        }
        return twin

    return clone(model)


def cache_frozen(
    model: nn.Module, examples: Examples, batch_size: int = 64
) -> tuple[nn.Module, Examples]:
    """Run the frozen bottom of a model once, and keep what it gives.

    Args:
        model: With embeddings and at least one block frozen (`set_trainable`).
        examples: With ``input_ids``.

    Returns:
        ``(top, cached)``: the rest of the model, sharing its parameters, and the examples
        with ``hidden`` (one row of D numbers per token) in place of ``input_ids``. Training
        ``top`` on ``cached`` gives what training ``model`` on ``examples`` would.

    Raises:
        ModelError: When nothing below the trained part is frozen.
    """
    cut = frozen_blocks(model)
    if cut == 0:
        raise ModelError(
            "no block always gives the same output, so there is nothing to cache.",
            "Freeze with set_trainable(model, 'head') or 'top-K'.",
        )
    bottom = base_of(_swap(model, nn.ModuleList(list(blocks(model))[:cut]), None))
    hidden = _hidden_states(bottom, examples, batch_size)
    columns = dict(examples.columns)
    ids = columns.pop("input_ids")
    assert isinstance(ids, Ragged)
    columns["hidden"] = Ragged(hidden, ids.lengths)
    return _AboveTheCut(model, cut), Examples(columns, examples.pad_id)


def _hidden_states(bottom: nn.Module, examples: Examples, batch_size: int) -> np.ndarray:
    """The last hidden states of all tokens of all examples, ``(sum of lengths, D)``."""
    ids = examples.columns["input_ids"]
    assert isinstance(ids, Ragged)
    config: Any = bottom.config
    out = np.empty((len(ids.values), config.hidden_size), dtype=np.float32)
    device = next(bottom.parameters()).device
    bottom.eval()
    batches = Batches(examples, batch_size, shuffle=False)
    with torch.inference_mode():
        for rows in batches.order(0):
            batch = {k: v.to(device) for k, v in model_inputs(examples.batch(rows)).items()}
            states = bottom(**batch).last_hidden_state.float().cpu().numpy()
            for row, state in zip(rows, states, strict=True):
                start, length = ids.starts[row], ids.lengths[row]
                out[start : start + length] = state[:length]
    return out
