"""Batches for denoising: damaged texts to read, whole ones to write (BART, Lewis et al. 2020).

Text infilling: spans of tokens are taken out, and one mask token stands for each, however long
it was. Some spans have no token: then a mask stands where nothing is missing. So the model must
find out what is missing and how much of it.

What is damaged is a function of (seed, epoch, row) alone, as in `batches_lm`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sftkit.arguments import number, whole
from sftkit.batches import Batches, Examples
from sftkit.errors import ParameterError

if TYPE_CHECKING:
    from sftkit.batches import Batch


def infill(
    ids: Sequence[int],
    mask_id: int,
    generator: np.random.Generator,
    rate: float = 0.3,
    span: float = 3.0,
) -> list[int]:
    """Take spans out of a text; one mask stands for each.

    Args:
        ids: The text's tokens, without its end token.
        mask_id: The id of the mask token.
        generator: Of the random numbers.
        rate: Share of the tokens that are taken out, rounded; of a text with tokens at least
            one.
        span: Mean length of a span: lengths are drawn from Poisson's distribution, and cut
            where the next span or the end begins.

    Returns:
        The damaged text.
    """
    n = len(ids)
    left = max(1, round(rate * n)) if n else 0
    hidden = np.zeros(n, dtype=bool)
    begins = np.zeros(n + 1, dtype=bool)  # a mask stands before this place
    while left > 0:
        length = min(int(generator.poisson(span)), left)
        if length == 0:
            begins[int(generator.integers(0, n + 1))] = True
            left -= 1  # or a text might get masks without end
            continue
        free = np.flatnonzero(~hidden)
        start = int(generator.choice(free))
        end = start
        while end < n and end - start < length and not hidden[end]:
            end += 1
        hidden[start:end], begins[start] = True, True
        left -= end - start
    damaged: list[int] = []
    for place in range(n + 1):
        # Spans side by side share a mask.
        if begins[place] and damaged[-1:] != [mask_id]:
            damaged.append(mask_id)
        if place < n and not hidden[place]:
            damaged.append(int(ids[place]))
    return damaged


class DenoisingBatches(Batches):
    """`Batches` of whole texts, damaged anew in every epoch.

    Args:
        texts: Token ids of each text, without an end token. Give training texts only.
        batch_size: Texts per optimizer step.
        mask_id, end_id, pad_id: Of the tokenizer.
        rate, span: As in `infill`.
        options: Further arguments of `Batches`.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        batch_size: int = 32,
        *,
        mask_id: int,
        end_id: int,
        pad_id: int,
        rate: float = 0.3,
        span: float = 3.0,
        **options: Any,
    ) -> None:
        if not texts or not all(len(text) for text in texts):
            raise ParameterError("there is an empty text, or none.", "Give texts with tokens.")
        if not 0 < number("rate", rate) < 1:
            raise ParameterError(f"rate={rate}.", "It must be between 0 and 1.")
        number("span", span, above=0)
        ends = [[*text, end_id] for text in texts]
        super().__init__(Examples.of_tokens(ends, pad_id=pad_id), batch_size, **options)
        self.texts = [list(text) for text in texts]
        self.end_id, self.rate, self.span = end_id, rate, span
        self.mask_id = whole("mask_id", mask_id, least=0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """As in `Batches`, with what is damaged in this epoch."""
        for step in self.order(epoch)[start:]:
            yield [self.damaged(rows, epoch) for rows in self.passes(step)]

    def damaged(self, rows: np.ndarray, epoch: int) -> Batch:
        """The batch of these rows as it is in an epoch: ``labels`` are the whole texts."""
        import torch

        inputs = []
        for row in rows.tolist():
            generator = np.random.default_rng([self.seed, epoch, row])
            text = self.texts[row]
            found = infill(text, self.mask_id, generator, self.rate, self.span)
            inputs.append([*found, self.end_id])
        labels = [[*self.texts[row], self.end_id] for row in rows.tolist()]
        pairs = Examples.of_tokens(inputs, labels, pad_id=self.examples.pad_id)
        return pairs.batch(np.arange(len(rows))) | {"row": torch.from_numpy(rows).long()}

    def settings(self) -> dict[str, Any]:
        """As in `Batches`, with what fixes the damage."""
        more = {"mask_id": self.mask_id, "rate": self.rate, "span": self.span}
        return super().settings() | more
