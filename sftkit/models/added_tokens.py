"""New tokens for a pretrained model: their rows begin as the mean of the old ones.

A row at random scale is a spike in the loss: as an output it may be far more probable than
every word that the model knows. With the mean, its logit is the mean of the old ones, so it is
at most as probable as the average old token, whatever the text (Hewitt 2021, "Initializing New
Word Embeddings for Pretrained Language Models").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sftkit.arguments import whole
from sftkit.errors import ModelError
from sftkit.models.parts import base_of


@dataclass(frozen=True)
class Added:
    """What `add_tokens` did.

    Attributes:
        ids: Of the new tokens, in the order in which they were given.
        rows: Of the table before and after.
        reset: Ids whose rows are the mean now: new tokens, and rows added as padding.
    """

    ids: list[int]
    rows: tuple[int, int]
    reset: list[int]


def add_tokens(
    model: nn.Module,
    tokenizer: Any,
    tokens: Sequence[str],
    *,
    special: bool = True,
    multiple_of: int = 1,
) -> Added:
    """Add tokens to a tokenizer and its model, both in place.

    The mean is taken over the rows of tokens that the tokenizer knew: rows that pad the table
    to a round number were never trained. A new token that gets such a row gets the mean too.
    Embeddings, an output layer of their own, and an output bias are all treated so.

    Do this before adapters are added and before an optimizer is made.

    Args:
        model: Of transformers, a head of ours on one, or one of our own models.
        tokens: Those that the tokenizer knows already keep their rows.
        special: Never split, and left out when text is decoded without special tokens.
        multiple_of: Rows are added up to a multiple of this.

    Raises:
        ParameterError: ``multiple_of`` below 1.
        ModelError: Nothing to add, the tokenizer has more tokens than the table has rows, or
            the output layer has an adapter.
    """
    if isinstance(tokens, str) or not tokens or not all(tokens):
        raise ModelError(f"tokens={tokens!r}.", "Give a list of texts that are not empty.")
    multiple_of = whole("multiple_of", multiple_of)
    known = sorted(set(tokenizer.get_vocab().values()))
    before = _rows(model)
    if known[-1] >= before:
        raise ModelError(
            f"the tokenizer has the id {known[-1]}, and the model {before} rows.",
            "Give the model's own tokenizer.",
        )
    _refuse_adapter(model)
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    needed = max(*known, *ids) + 1
    after = max(before, -(-needed // multiple_of) * multiple_of) if needed > before else before
    grow(model, after)
    reset = sorted({*ids, *range(before, after)} - set(known))
    old = torch.tensor(known)
    with torch.no_grad():
        for tensor in vocabulary_tensors(model).values():
            # In float64: a mean over 50,000 rows in bfloat16 would stop growing.
            tensor[reset] = tensor[old.to(tensor.device)].double().mean(0).to(tensor.dtype)
    remember(model, reset)
    return Added(ids, (before, after), reset)


def vocabulary_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors with a row per token: ``input``, and ``output`` and ``bias`` if there are."""
    if own := _own_tables(model):
        return {name: getattr(owner, which) for name, (owner, which) in own.items()}
    inner = _with_tables(model)
    found = {"input": inner.get_input_embeddings().weight}
    output = inner.get_output_embeddings()
    if output is not None and output.weight is not found["input"]:
        found["output"] = output.weight
    if getattr(output, "bias", None) is not None:
        found["bias"] = output.bias
    return found


def grow(model: nn.Module, rows: int) -> None:
    """Give the tables ``rows`` rows; new ones are zero until somebody fills them.

    Raises:
        ModelError: There are more rows than that, or the output layer has an adapter.
    """
    before = _rows(model)
    if rows == before:
        return
    if rows < before:
        raise ModelError(
            f"{rows} rows, and the model has {before}.", "Rows are not taken away."
        )
    if own := _own_tables(model):
        for owner, name in own.values():
            setattr(owner, name, _longer(getattr(owner, name), rows))
            for size in ("num_embeddings", "out_features"):
                if hasattr(owner, size):
                    setattr(owner, size, rows)
        model.config = replace(model.config, vocab=rows)  # type: ignore[assignment, type-var]
        return
    _refuse_adapter(model)
    inner = _with_tables(model)
    with torch.random.fork_rng():  # rows are drawn at random, only to be replaced
        inner.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for tensor in vocabulary_tensors(model).values():
            tensor[before:] = 0


def _own_tables(model: Any) -> dict[str, tuple[nn.Module, str]]:
    """Where they are in our own models; empty for others."""
    return model.vocabulary() if hasattr(model, "vocabulary") else {}


def _refuse_adapter(model: nn.Module) -> None:
    """An output layer is replaced by a longer one, and its adapter would be lost."""
    find = getattr(model, "get_output_embeddings", None)
    if find is not None and hasattr(find(), "lora_a"):
        raise ModelError(
            "the output layer has an adapter.", "Add the tokens first, then the adapters."
        )


def _longer(tensor: torch.Tensor, rows: int) -> nn.Parameter:
    longer = torch.zeros(rows, *tensor.shape[1:], dtype=tensor.dtype, device=tensor.device)
    longer[: len(tensor)] = tensor.detach()
    return nn.Parameter(longer, requires_grad=tensor.requires_grad)


def _with_tables(model: nn.Module) -> Any:
    for module in (model, base_of(model)):
        if hasattr(module, "resize_token_embeddings"):
            return module
    raise ModelError(
        f"{type(model).__name__} does not say where its embeddings are.",
        "Give a model of transformers or of ours.",
    )


def _rows(model: nn.Module) -> int:
    return len(vocabulary_tensors(model)["input"])


def remember(model: nn.Module, ids: Sequence[int]) -> None:
    """Note that the rows of these ids are no pretrained ones: adapters are saved with them."""
    model.added_rows = sorted({*added_rows(model), *ids})  # type: ignore[assignment]


def added_rows(model: nn.Module) -> list[int]:
    """The ids whose rows `add_tokens` has made."""
    return list(getattr(model, "added_rows", []))
