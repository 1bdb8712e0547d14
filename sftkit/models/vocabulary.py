"""Train the word embeddings that occur; leave the others where they are.

Half of a small encoder is its table of word embeddings, and a few thousand texts touch a
fraction of the rows. The others get gradients of zero: an optimizer without weight decay never
moves them, but zeroes, measures, clips and updates them at every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sftkit.batches import Examples
from sftkit.errors import ModelError
from sftkit.models.parts import base_of


class OccurringRows(nn.Module):
    """A table of embeddings of which only some rows are parameters.

    Args:
        table: The whole table, ``(V, D)``; it is shared, not copied.
        ids: Token ids whose rows are trained, ``(K,)``, ascending.
    """

    def __init__(self, table: nn.Embedding, ids: torch.Tensor) -> None:
        super().__init__()
        self.whole = [table]  # in a list, so that it is no part of this module's parameters
        self.weight = nn.Parameter(table.weight.detach()[ids].clone())
        rows = torch.full((table.num_embeddings,), -1, dtype=torch.long, device=ids.device)
        rows[ids] = torch.arange(len(ids), device=ids.device)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("ids", ids)  # in checkpoints: what the rows stand for
        pad = table.padding_idx
        self.padding_row = None if pad is None or rows[pad] < 0 else int(rows[pad])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` to ``(B, T, D)``; ids that are not trained give the table's rows."""
        rows: torch.Tensor = self.rows[input_ids]  # type: ignore[index]
        found = functional.embedding(rows.clamp(min=0), self.weight, self.padding_row)
        others = rows < 0
        if others.any():
            whole = self.whole[0].weight.detach()
            found = torch.where(others.unsqueeze(-1), whole[input_ids], found)
        return found

    @torch.no_grad()
    def write_back(self) -> nn.Embedding:
        """The whole table, with the trained rows in it."""
        table = self.whole[0]
        table.weight[self.ids] = self.weight.to(table.weight.device)  # type: ignore[index]
        return table


@contextmanager
def occurring_tokens_only(model: nn.Module, examples: Examples) -> Iterator[nn.Module]:
    """Within the block, only word embeddings of tokens in ``examples`` are parameters.

    Other tokens (in evaluation, say) get their pretrained embeddings. At the end, also after
    an error, the trained rows are in the model's own table again. Checkpoints written inside
    belong to a model inside such a block, with the same examples.

    Without weight decay this follows the same trajectory as training the whole table. With
    it, rows that never occur stay where they are instead of shrinking.

    Args:
        model: With an input table of its own (not shared with an output layer).
        examples: The training examples, with ``input_ids``.

    Raises:
        ModelError: The table is shared, or the examples have no token ids.
    """
    base: Any = base_of(model)
    if "hidden" in examples.columns:  # the embeddings' work is done (see cache_frozen)
        yield model
        return
    table = base.get_input_embeddings()
    if not table.weight.requires_grad:  # nothing is trained there, so nothing is saved
        yield model
        return
    uses = [m for m in model.modules() if getattr(m, "weight", None) is table.weight]
    if len(uses) > 1:
        raise ModelError(
            "the word embeddings are shared with another layer, whose rows are all trained.",
            "Train the model without occurring_tokens_only.",
        )
    column = examples.columns.get("input_ids")
    if column is None or isinstance(column, np.ndarray):
        raise ModelError(
            "the examples have no input_ids.", "Give the encoded training examples."
        )
    ids = np.union1d(np.unique(column.values), [examples.pad_id])
    on_device = torch.from_numpy(ids.astype(np.int64)).to(table.weight.device)
    compact = OccurringRows(table, on_device)
    base.set_input_embeddings(compact)
    try:
        yield model
    finally:
        base.set_input_embeddings(compact.write_back())
