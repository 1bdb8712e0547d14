"""Save and load adapters: what training changed, and a look at what it did not.

A folder holds ``adapter.safetensors`` (A and B of each layer, everything else that is trained,
and the rows of added tokens) and ``adapter.json``. The frozen weights stay where they came
from; some numbers of each are noted, so that an adapter is not put on another model.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from sftkit.errors import ModelError
from sftkit.files import folder_in_one_piece, write_json
from sftkit.models import lora
from sftkit.models.added_tokens import added_rows, grow, remember, vocabulary_tensors
from sftkit.models.folders import (
    CARD_FILE,
    README_FILE,
    TOKENIZER,
    read_object,
    refuse_foreign,
)
from sftkit.models.own import read_tensors

WEIGHTS, FACTS = "adapter.safetensors", "adapter.json"
PROBES = 9  # numbers noted of each frozen tensor
CLOSE = 0.01  # relative: the same weights in another type of number differ by less
ANEW = "Save or fetch it again, and load the pretrained model that it was trained on."


def _list(values: Any, right: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and all(map(right, values))


def _names(value: Any) -> bool:
    return _list(value, lambda name: isinstance(name, str)) and 0 < len(value) == len({*value})


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


def _probes(value: Any) -> bool:
    rows = value.values() if isinstance(value, dict) else [None]
    return all(row and _list(row, _finite) for row in rows)


# The facts that are read, and whether a value can be what `save` wrote.
RIGHT: dict[str, Callable[[Any], bool]] = {
    "layers": _names,
    "rank": lambda value: _whole(value) and value > 0,
    "alpha": lambda value: _finite(value) and value > 0,
    "dropout": lambda value: _finite(value) and 0 <= value < 1,
    "rows": lambda value: value is None or _whole(value),
    "added": lambda value: _list(value, _whole),
    "frozen": _probes,
}


def save(model: nn.Module, folder: str | Path, tokenizer: Any = None) -> Path:
    """Save the adapters in one piece: the folder is whole, or it is as it was before.

    Over adapters that were saved before, a model card and the facts for one stay.

    Args:
        tokenizer: Saved beside them when given; give it when tokens were added.

    Raises:
        ModelError: There are no adapters, or the folder holds something else.
    """
    folder = Path(folder)
    adapted = lora.layers(model)
    if not adapted:
        raise ModelError(f"{type(model).__name__} has no adapters.", "Add some with lora.add.")
    kept = (CARD_FILE, README_FILE)
    refuse_foreign(folder, [FACTS], (WEIGHTS, *TOKENIZER, *kept), "holds no adapter")
    tensors: dict[str, torch.Tensor] = {
        name: p for name, p in model.named_parameters() if p.requires_grad
    }
    tensors |= {  # not trained while they are merged
        f"{name}.{matrix}": getattr(layer, matrix)
        for name, layer in adapted.items()
        for matrix in lora.MATRICES
    }
    added, tables = added_rows(model), _tables(model)
    unmerged = {id(layer.weight): layer.unmerged for layer in adapted.values()}
    for kind, table in tables.items():
        if added:  # without the adapter's product, if that is in the output layer's weight
            before = unmerged.get(id(table))
            tensors[f"added.{kind}"] = (table if before is None else before)[added]
    facts = {
        "format": 1,
        "kind": "lora",
        "layers": list(adapted),
        **lora.settings(model),
        "rows": len(tables["input"]) if tables else None,
        "added": added,
        "frozen": _frozen(model, added),
    }
    with folder_in_one_piece(folder) as part:
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, part / WEIGHTS)
        write_json(part / FACTS, facts)
        for name in kept:
            if (folder / name).is_file():
                shutil.copy2(folder / name, part / name)
    return folder


@torch.no_grad()
def load(model: nn.Module, folder: str | Path) -> nn.Module:
    """Put saved adapters on the model that they were trained on, in place.

    A model without the tokens that were added then gets their rows here; its tokenizer is in
    the folder when it was saved there.

    Returns:
        The same model, frozen as it was when the adapters were saved.

    Raises:
        ModelError: The folder is damaged, or the adapters belong to another model, which is
            as it was then.
    """
    folder = Path(folder)
    if not (folder / FACTS).is_file():
        raise ModelError(
            f"{folder} has no {FACTS}.", "Give a folder that lora_files.save wrote."
        )
    facts = read_object(folder / FACTS)
    if facts.get("format") != 1 or facts.get("kind") != "lora":
        raise ModelError(
            f"{folder / FACTS} is of a kind that this version does not know.",
            "Load it with the version of sftkit that saved it.",
        )
    _refuse_damaged(facts, folder / FACTS)
    tensors = read_tensors(folder / WEIGHTS)
    _refuse_other(model, facts, folder)
    _refuse_unfit(model, facts, tensors, folder)
    if facts["rows"] is not None:
        grow(model, facts["rows"])
    trained = [name for name in tensors if not name.startswith("added.")]
    lora.put_on(
        model, facts["layers"], trained, facts["rank"], facts["alpha"], facts["dropout"]
    )
    named = dict(model.named_parameters())
    for name in trained:
        named[name].copy_(tensors[name])
    for kind, table in _tables(model).items():
        if facts["added"]:
            table[facts["added"]] = tensors[f"added.{kind}"].to(table)
    remember(model, facts["added"])
    return model


def _tables(model: nn.Module) -> dict[str, torch.Tensor]:
    try:
        return vocabulary_tensors(model)
    except ModelError:  # a model of the reader's own, without a vocabulary that we know
        return {}


def _numbers(model: nn.Module, added: list[int]) -> dict[str, list[float]]:
    """Some numbers of each tensor, as it was before `lora.merge` and added tokens."""
    tables = {id(table) for table in _tables(model).values()}
    before = _before_merge(model)
    found = {}
    for name, now in model.named_parameters(remove_duplicate=False):
        tensor = before.get(name, now).detach()
        if added and id(now) in tables:
            tensor = tensor[: added[0]]
        if tensor.numel():
            at = torch.linspace(0, tensor.numel() - 1, PROBES, dtype=torch.float64).long()
            found[name] = tensor.reshape(-1)[at.to(tensor.device)].float().tolist()
    return found


def _before_merge(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{name}.weight": layer.unmerged
        for name, layer in lora.layers(model).items()
        if layer.unmerged is not None
    }


def _frozen(model: nn.Module, added: list[int]) -> dict[str, list[float]]:
    """`_numbers` of what is not trained."""
    before = _before_merge(model)
    trained = {
        name
        for name, now in model.named_parameters(remove_duplicate=False)
        if before.get(name, now).requires_grad or name.endswith((".lora_a", ".lora_b"))
    }
    return {n: v for n, v in _numbers(model, added).items() if n not in trained}


def _refuse_damaged(facts: dict[str, Any], path: Path) -> None:
    for key, right in RIGHT.items():
        if key not in facts or not right(facts[key]):
            what = "is not what save writes" if key in facts else "is missing"
            raise ModelError(f"{path} is damaged: {key!r} {what}.", "Save or fetch it again.")
    if facts["added"] and (facts["rows"] is None or max(facts["added"]) >= facts["rows"]):
        raise ModelError(
            f"{path} is damaged: 'added' has more tokens than there are rows.",
            "Save or fetch it again.",
        )


def _refuse_unfit(
    model: nn.Module, facts: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path
) -> None:
    """Compare names and shapes with the model as it will be, before it is changed."""
    tables, rows, rank = _tables(model), facts["rows"], facts["rank"]
    grown = {id(table) for table in tables.values()} if rows is not None else set()

    def shape(tensor: torch.Tensor) -> tuple[int, ...]:
        return (rows, *tensor.shape[1:]) if id(tensor) in grown else tuple(tensor.shape)

    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    wanted: dict[str, tuple[int, ...]] = {}
    for name in facts["layers"]:
        layer = modules.get(name)
        if type(layer) is not nn.Linear:
            raise ModelError(f"{folder} has an adapter of {name}: no linear layer here.", ANEW)
        wanted[f"{name}.lora_a"] = (rank, layer.in_features)
        wanted[f"{name}.lora_b"] = (shape(layer.weight)[0], rank)
    wanted |= {n: shape(parameters[n]) for n in tensors if n in parameters}
    if added := facts["added"]:
        wanted |= {f"added.{kind}": (len(added), *t.shape[1:]) for kind, t in tables.items()}
    for name in [*wanted, *(n for n in tensors if not n.startswith("added."))]:
        have = tuple(tensors[name].shape) if name in tensors else "absent"
        want = wanted.get(name, "absent")
        if have != want:
            raise ModelError(
                f"{folder} does not fit: {name} is {have} there and {want} here.", ANEW
            )


def _refuse_other(model: nn.Module, facts: dict[str, Any], folder: Path) -> None:
    if lora.layers(model):
        raise ModelError("the model has adapters already.", "Load onto the model without them.")
    here = _numbers(model, facts["added"])
    for name, values in facts["frozen"].items():
        theirs = here.get(name, [])
        limit = CLOSE * max(map(abs, values))
        same = len(theirs) == len(values) and all(
            abs(a - b) <= limit for a, b in zip(theirs, values, strict=True)
        )
        if not same:
            raise ModelError(
                f"{folder} belongs to another model: {name} is not the same here.",
                "Load the pretrained model that these adapters were trained on.",
            )
