"""Batches for masked language modelling: another mask in every epoch, and exact resume.

Whether a token is masked, and what takes its place, is a function of (seed, epoch, piece,
place) alone: a hash, no generator. So the masks do not depend on which pieces share a batch,
and a run that goes on from a checkpoint sees what the unbroken one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sftkit.arguments import number, whole
from sftkit.batches import IGNORE, Batches, Examples
from sftkit.corpora.duplicates import mix
from sftkit.errors import ParameterError

if TYPE_CHECKING:
    from sftkit.batches import Batch


def uniform(seed: int, epoch: int, rows: np.ndarray, length: int, draw: int) -> np.ndarray:
    """Numbers in [0, 1) that look random: ``(B, T)`` for ``B`` rows.

    Args:
        seed, epoch, draw: Each gives other numbers; ``draw`` tells apart what one place needs.
        rows: ``int (B,)``, the rows' numbers in the data set.
        length: ``T``; a longer one begins with the same numbers.
    """
    key = mix(mix(mix(np.uint64(seed), 11) ^ np.uint64(epoch), 12) ^ np.uint64(draw), 13)
    by_row = mix(np.asarray(rows, np.uint64) ^ key, 14)
    places = mix(np.arange(length, dtype=np.uint64), 15)
    return (mix(by_row[:, None] ^ places[None, :], 16) >> np.uint64(11)) * 2.0**-53


class MaskedBatches(Batches):
    """`Batches` of examples from `encode_lm.masked`, masked anew in every epoch.

    Of the tokens that have a label, a share ``rate`` is chosen, of every piece at least one. Of
    the chosen, 80 % become
    the mask token, 10 % a random token, and 10 % stay as they are (Devlin et al. 2019,
    "BERT"). Labels of tokens that were not chosen become -100.

    Args:
        examples: With ``input_ids`` and ``labels``.
        batch_size: Pieces per optimizer step.
        mask_id: The id of the mask token.
        tokens: ``(first, end)``: the ids that a random token is drawn from.
        rate: Share of the tokens that are chosen.
        fixed: The epoch whose masks are always used: for evaluation.
        options: Further arguments of `Batches`.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int = 32,
        *,
        mask_id: int,
        tokens: tuple[int, int],
        rate: float = 0.15,
        fixed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(examples, batch_size, **options)
        number("rate", rate)
        whole("mask_id", mask_id, least=0)
        if len(tokens) != 2 or not 0 <= tokens[0] < tokens[1]:
            raise ParameterError(
                f"tokens={tokens}.",
                "Give the first id of a random token, and the end.",
            )
        if not 0 < rate <= 1:
            raise ParameterError(f"rate={rate}.", "It must be above 0, and at most 1.")
        self.mask_id, self.tokens, self.rate, self.fixed = mask_id, tokens, rate, fixed

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """As in `Batches`, with the masks of this epoch."""
        drawn = epoch if self.fixed is None else self.fixed
        for step in self.order(epoch)[start:]:
            yield [self.masked(rows, drawn) for rows in self.passes(step)]

    def masked(self, rows: np.ndarray, epoch: int) -> Batch:
        """The batch of these rows with the masks that they have in an epoch."""
        import torch

        batch = self.examples.batch(rows)
        ids, labels = batch["input_ids"].numpy().copy(), batch["labels"].numpy().copy()
        chance, kind, which = (
            uniform(self.seed, epoch, rows, ids.shape[1], draw) for draw in range(3)
        )
        open_to = labels != IGNORE
        chosen = open_to & (chance < self.rate)
        # A short piece may have drawn no place at all; it then hides the likeliest one.
        least = np.where(open_to, chance, 2.0).min(axis=1, keepdims=True)
        chosen |= open_to & (chance == least) & ~chosen.any(axis=1, keepdims=True)
        first, end = self.tokens
        ids[chosen & (kind < 0.8)] = self.mask_id
        replaced = chosen & (kind >= 0.8) & (kind < 0.9)
        ids[replaced] = first + (which[replaced] * (end - first)).astype(ids.dtype)
        labels[~chosen] = IGNORE
        return batch | {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}

    def settings(self) -> dict[str, Any]:
        """As in `Batches`, with what fixes the masks."""
        more = {"mask_id": self.mask_id, "tokens": list(self.tokens), "rate": self.rate}
        return super().settings() | more | {"fixed_masks": self.fixed}
