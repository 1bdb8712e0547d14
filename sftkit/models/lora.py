"""Low-rank adapters (Hu et al. 2021, "LoRA"): train two thin matrices beside each frozen one.

A layer ``y = W x`` becomes ``y = W x + (alpha / rank) B A x`` with A of shape ``(rank, in)``
and B of shape ``(out, rank)``. B starts at zero, so the model computes at first what it did.
W keeps its name and is the same tensor, so heads, checkpoints and tied tables are as before.

`lora_files` saves and loads adapters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from sftkit.arguments import number, whole
from sftkit.errors import ModelError, ParameterError
from sftkit.models.lora_names import fits, kinds, trained_whole
from sftkit.models.parts import base_of, blocks

# These read the weights of layers within them and may never call the layers.
READ_DIRECTLY = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
MATRICES = ("lora_a", "lora_b")  # an adapter's parameters


class LoraLinear(nn.Linear):
    """A linear layer with an adapter; it shares weight and bias with ``layer``.

    Args:
        layer: The layer to adapt; its own parameters are no longer trained.
        rank: Rows of A and columns of B.
        alpha: The update is multiplied by ``alpha / rank``.
        dropout: Share of the adapter's inputs set to zero in training.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        # Small steps on weights in half precision would round to nothing (trained in float32).
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        new = torch.empty(0, device=self.weight.device, dtype=dtype)
        self.lora_a = nn.Parameter(new.new_empty(rank, self.in_features))
        self.lora_b = nn.Parameter(new.new_zeros(self.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as of a new linear layer
        self.dropout = nn.Dropout(dropout)
        self.rank, self.alpha = rank, alpha
        self.kept: list[nn.Parameter] = []  # in a list, so that it is none of the model's
        self.kept_trained: tuple[bool, ...] = (True, True)  # were A and B, before `merge`?
        self.train(layer.training)

    @property
    def unmerged(self) -> nn.Parameter | None:
        """The weight before `merge`; None when the adapter is apart."""
        return self.kept[0] if self.kept else None

    @property
    def scale(self) -> float:
        """What the product of B and A is multiplied by."""
        return self.alpha / self.rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., in)`` to ``(..., out)``."""
        output = super().forward(x)
        if self.unmerged is not None:
            return output
        thin = functional.linear(self.dropout(x).to(self.lora_a.dtype), self.lora_a)
        return output + (self.scale * functional.linear(thin, self.lora_b)).to(output.dtype)

    def update(self) -> torch.Tensor:
        """What is added to the weight: ``(out, in)``."""
        return self.scale * (self.lora_b @ self.lora_a)

    def extra_repr(self) -> str:
        state = ", merged" if self.unmerged is not None else ""
        return f"{super().extra_repr()}, rank={self.rank}, alpha={self.alpha:g}{state}"


def add(
    model: nn.Module,
    targets: Sequence[str] | None = None,
    *,
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    also: Sequence[str] = (),
    seed: int = 0,
) -> list[str]:
    """Put adapters on linear layers, and freeze everything else.

    Add new tokens before (see `added_tokens`); make the optimizer, or call `fit`, after.

    Args:
        model: Any torch module; it is changed in place.
        targets: Names of linear layers: whole, the end of one (``q_proj``), or a pattern with
            ``*`` (``*.layers.2?.mlp.*``). None: all linear layers of the blocks. Layers of
            other kinds, such as Conv1D of GPT-2, get no adapters.
        rank: Of the updates.
        alpha: The updates are multiplied by ``alpha / rank``; twice the rank unless given.
        dropout: Of the adapters' inputs.
        also: Names or patterns of modules or parameters that are trained whole, such as a
            new head (``classifier``) or biases (``*.bias``), those of adapted layers too.
        seed: Fixes A at the start.

    Returns:
        The names of the layers.

    Raises:
        ParameterError: Impossible numbers.
        ModelError: A name that fits nothing, no linear layer to adapt, a layer that has an
            adapter already, or one whose weight is read without calling the layer; in ``also``,
            the weight of an adapted layer, or a tied one by the second of its names.
    """
    rank = whole("rank", rank)
    alpha = number("alpha", 2 * rank if alpha is None else alpha, above=0)
    if not number("dropout", dropout, least=0) < 1:
        raise ParameterError(f"dropout={dropout}.", "It must be below 1.")
    names = _chosen(model, targets)
    trained = trained_whole(model, names, [also] if isinstance(also, str) else also)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        put_on(model, names, trained, rank, alpha, dropout)
    return names


def put_on(
    model: nn.Module,
    names: Sequence[str],
    trained: Sequence[str],
    rank: int,
    alpha: float,
    dropout: float,
) -> None:
    """What `add` does once names are settled: adapters on these layers, these parameters
    trained whole, and everything else frozen."""
    for name in names:
        layer = cast(nn.Linear, model.get_submodule(name))
        _swap(model, layer, LoraLinear(layer, rank, alpha, dropout))
    # Now, since a new LoraLinear freezes its bias, which may be one of those to train.
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    for adapted in layers(model).values():
        for matrix in MATRICES:
            getattr(adapted, matrix).requires_grad_(True)


def _swap(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put one module in another's place, in every place where it is."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            above, _, last = name.rpartition(".")
            setattr(model.get_submodule(above), last, new)


def _chosen(model: nn.Module, targets: Sequence[str] | None) -> list[str]:
    if isinstance(targets, str):
        targets = [targets]
    if adapted := layers(model):
        raise ModelError(
            f"{next(iter(adapted))} has an adapter already.",
            "Take the adapters off first (lora.remove), after lora.merge to keep their work.",
        )
    linear = {name: m for name, m in model.named_modules() if name and type(m) is nn.Linear}
    if targets is None:
        blocks(model)  # raises where there are none
        stacks = [m for m in base_of(model).modules() if isinstance(m, nn.ModuleList)]
        inside = {id(module) for stack in stacks for module in stack.modules()}
        names = [name for name, module in linear.items() if id(module) in inside]
    else:
        for target in targets:
            if not any(fits(name, target) for name in linear):
                raise ModelError(
                    f"targets={target!r} fits no linear layer of {type(model).__name__}.",
                    kinds(model),
                )
        names = [name for name in linear if any(fits(name, t) for t in targets)]
        if not targets:
            raise ModelError(f"targets={targets!r} names no layer.", kinds(model))
    if not names:
        raise ModelError(
            f"the blocks of {type(model).__name__} have no linear layer.", kinds(model)
        )
    for name, module in model.named_modules():
        direct = getattr(module, "reads_directly", ())
        inside_it = isinstance(module, READ_DIRECTLY)
        for chosen in names:
            below = chosen.startswith(f"{name}.") if name else True
            if below and (inside_it or chosen in (f"{name}.{d}".lstrip(".") for d in direct)):
                raise ModelError(
                    f"{type(module).__name__} reads the weight of {chosen} without calling the "
                    "layer, so an adapter would do nothing.",
                    "Choose other targets.",
                )
    return names


def layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The layers with adapters, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LoraLinear)}


def _adapted(model: nn.Module) -> dict[str, LoraLinear]:
    found = layers(model)
    if not found:
        raise ModelError(f"{type(model).__name__} has no adapters.", "Add some with lora.add.")
    return found


def settings(model: nn.Module) -> dict[str, float]:
    """Rank, alpha and dropout, for records and checkpoints; empty without adapters."""
    for layer in layers(model).values():
        return {"rank": layer.rank, "alpha": layer.alpha, "dropout": layer.dropout.p}
    return {}


def trained_share(model: nn.Module) -> float:
    """Trained parameters over all, 0 to 1; tied ones count once."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained) / sum(n for n, _ in sizes)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add each adapter's product to its weight: no more work in the forward pass.

    A weight that the layer shares with another, such as an output layer tied to the table of
    embeddings, is not touched: the layer gets a weight of its own, and a transformers config
    says so (``tie_word_embeddings=False``), so that both are saved.
    """
    for layer in _adapted(model).values():
        if layer.unmerged is not None:
            continue
        weight = cast(nn.Parameter, layer.weight)
        exact = (weight.to(layer.lora_a.dtype) + layer.update()).to(weight.dtype)
        layer.weight = nn.Parameter(exact, requires_grad=False)
        layer.kept.append(weight)
        layer.kept_trained = tuple(getattr(layer, m).requires_grad for m in MATRICES)
        for name in MATRICES:  # `fit` would change them without any effect
            getattr(layer, name).requires_grad_(False)
        if _used(model, weight):
            _say_tied(model, False)


@torch.no_grad()
def unmerge(model: nn.Module) -> None:
    """Undo `merge`, bit for bit: each layer has the weight that it had, tied if it was, and
    its adapter is frozen or trained as it was."""
    for layer in _adapted(model).values():
        if layer.unmerged is None:
            continue
        weight = layer.kept.pop()
        if _used(model, weight):
            _say_tied(model, True)
        weight.data = weight.data.to(layer.weight)  # the model may have moved since
        layer.weight = weight
        for name, trained in zip(MATRICES, layer.kept_trained, strict=True):
            getattr(layer, name).requires_grad_(trained)


def _used(model: nn.Module, weight: torch.Tensor) -> bool:
    return any(getattr(module, "weight", None) is weight for module in model.modules())


def _say_tied(model: nn.Module, tied: bool) -> None:
    config = getattr(model, "config", None)
    if hasattr(config, "tie_word_embeddings"):
        config.tie_word_embeddings = tied  # type: ignore[union-attr]


def remove(model: nn.Module) -> None:
    """Plain linear layers again, with the weights as they are now.

    After `merge` the model computes what it learned, and saves and loads as any other; without
    it, what it computed before `add`. Parameters stay frozen or trained as they are.
    """
    for layer in _adapted(model).values():
        bias = layer.bias is not None
        with torch.device("meta"):  # both of its tensors are replaced
            plain = nn.Linear(layer.in_features, layer.out_features, bias)
        plain.weight, plain.bias = layer.weight, layer.bias
        _swap(model, layer, plain.train(layer.training))
