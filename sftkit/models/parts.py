"""The parts of a transformer by role, whatever the architecture calls them."""

from __future__ import annotations

from typing import Any

from torch import nn

from sftkit.errors import ModelError


def base_of(model: nn.Module) -> nn.Module:
    """The pretrained part below the head."""
    base: Any = getattr(model, "base_model", model)
    return base


def base_prefix(model: nn.Module) -> str:
    """The start of the names of the base's parameters, with its dot; empty if all is base."""
    base = base_of(model)
    for name, module in model.named_modules():
        if module is base:
            return f"{name}." if name else ""
    raise ModelError(f"{type(model).__name__} has a base model that is not a part of it.")


def blocks(model: nn.Module) -> nn.ModuleList:
    """The stack of transformer blocks: the longest list of modules in the base."""
    lists = [m for m in base_of(model).modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ModelError(
            f"{type(model).__name__} has no list of blocks, so its layers cannot be counted.",
            'Use train="all" or train="head".',
        )
    return max(lists, key=len)


def block_prefix(model: nn.Module) -> str:
    """The start of the names of the blocks' parameters, for example ``bert.encoder.layer.``."""
    stack = blocks(model)
    return next(f"{name}." for name, module in model.named_modules() if module is stack)


def role(model: nn.Module, name: str) -> str:
    """What a parameter belongs to: ``"embeddings"``, ``"block K"`` or ``"head"``.

    The pooler and a last norm count as head: they come after the blocks.
    """
    prefix = base_prefix(model)
    if not name.startswith(prefix):
        return "head"
    stack = block_prefix(model)
    if name.startswith(stack):
        return f"block {name[len(stack) :].split('.')[0]}"
    first = name[len(prefix) :].split(".")[0]
    return "embeddings" if first.startswith(("embed", "wte", "wpe", "word_emb")) else "head"


def is_head(model: nn.Module, name: str) -> bool:
    """Whether a parameter comes after the transformer blocks."""
    if not hasattr(model, "base_model"):
        return False  # a module of the reader's own: no parts to tell apart
    return role(model, name) == "head"


def parameter_counts(model: nn.Module) -> list[tuple[str, int, int]]:
    """Parameters by role, in the order of the forward pass.

    Returns:
        ``(role, parameters, trainable parameters)`` for embeddings, each block, and the head.
    """
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        row = counts.setdefault(role(model, name), [0, 0])
        row[0] += parameter.numel()
        row[1] += parameter.numel() if parameter.requires_grad else 0
    names = sorted(counts, key=lambda r: (r == "head", r.startswith("block"), _number(r)))
    return [(name, counts[name][0], counts[name][1]) for name in names]


def _number(name: str) -> int:
    return int(name.split()[1]) if name.startswith("block") else 0


def last_linear(model: nn.Module, classes: int) -> nn.Linear:
    """The layer that computes the logits: the last linear layer with one output per class."""
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.Linear) and module.out_features == classes:
            return module
    raise ModelError(f"{type(model).__name__} has no linear layer with {classes} outputs.")
