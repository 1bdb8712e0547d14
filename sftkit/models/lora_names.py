"""Names in adapters: which parameters `lora.add` trains whole, and which layers a model has."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from sftkit.errors import ModelError


def fits(name: str, pattern: str) -> bool:
    """Whether a pattern is a name, the end of one after a dot, or matches it with its ``*``."""
    return name == pattern or name.endswith(f".{pattern}") or fnmatchcase(name, pattern)


def _part_fits(name: str, pattern: str) -> bool:
    """Whether a pattern fits a parameter or a module around it."""
    parts = name.split(".")
    return any(fits(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


def trained_whole(model: nn.Module, adapted: Sequence[str], also: Sequence[str]) -> list[str]:
    """The names of the parameters that are trained beside adapters.

    Args:
        adapted: The names of layers that get adapters.
        also: Names or patterns of modules and parameters, as for `lora.add`.

    Raises:
        ModelError: A pattern fits nothing, the weight of an adapted layer, or a tensor that
            has its place, and its name, elsewhere in the model.
    """
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = {id(model.get_submodule(name).weight): name for name in adapted}
    biases = {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    trained = {n for n in known.values() if any(_part_fits(n, p) for p in also)}
    for pattern in also:
        found = [
            (name, id(parameter))
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if _part_fits(name, pattern)
        ]
        if not found:
            last = [*known.values()][-1]
            raise ModelError(f"also={pattern!r} names no part.", f"There is {last}, say.")
        for name, key in found:
            if known[key] not in trained:
                raise ModelError(
                    f"also={pattern!r} names {name}, which is tied to {known[key]}: they are "
                    "one tensor.",
                    f"Name {known[key]} too, which trains it in both places, or name only "
                    "what is not tied.",
                )
            if key in weights:
                layer = weights[key]
                bias = f", such as {layer}.bias" if f"{layer}.bias" in biases else ""
                raise ModelError(
                    f"also={pattern!r} names {name}, the weight of {layer}, which gets an "
                    "adapter and stays frozen itself.",
                    f"Take {layer} out of targets, or name only other parts in also{bias}.",
                )
    return [name for name in known.values() if name in trained]


def kinds(model: nn.Module) -> str:
    """A hint: what gets adapters, and which layers a model has, by the ends of their names."""
    ends: dict[type[nn.Module], set[str]] = {}
    for name, module in model.named_modules():
        matrices = any(p.ndim > 1 for p in module.parameters(recurse=False))
        if name and matrices and not isinstance(module, nn.Embedding):
            ends.setdefault(type(module), set()).add(name.rpartition(".")[2])
    linear = ends.pop(nn.Linear, None)
    here = f"Their names end in {_listed(linear)}" if linear else "There is none here"
    others = "; ".join(f"{kind.__name__} ({_listed(ends[kind])})" for kind in ends)
    no_adapters = f" Layers of other kinds get no adapters: {others}." if others else ""
    return f"Adapters go on torch.nn.Linear. {here}.{no_adapters}"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
