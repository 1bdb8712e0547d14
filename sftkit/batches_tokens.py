"""Optimizer steps of so many tokens, instead of so many examples.

Where lengths differ, a step of 8 examples is sometimes of 80 tokens and sometimes of 2,000. The
longest decides how much memory is needed, the others leave it empty. A step by tokens holds
many short examples or a few long ones, and costs about the same each time. Its loss is a sum
over tokens divided by their number, as everywhere: no example counts less for it.

Examples of similar length come together, so that little is padded. Which of equal length do is
drawn anew each epoch, and so is the order of the steps; their number is always the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sftkit.arguments import whole
from sftkit.batches import Batches, Examples
from sftkit.errors import EncodeError


class TokenBatches(Batches):
    """`Batches` whose steps hold at most ``tokens`` places: examples times the longest.

    Args:
        examples: With ``input_ids``.
        tokens: Places of a step, padding included.
        micro_tokens: Places of a forward pass, at most; smaller needs less memory and gives
            the same gradients. As many as a step's unless given.
        seed, shuffle: As in `Batches`; without shuffling, the shortest come first.

    Raises:
        EncodeError: An example alone is longer.
    """

    def __init__(
        self,
        examples: Examples,
        tokens: int = 2048,
        *,
        micro_tokens: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        super().__init__(examples, seed=seed, shuffle=shuffle)
        self.tokens = whole("tokens", tokens)
        self.micro_tokens = whole("micro_tokens", micro_tokens or tokens)
        longest, room = int(examples.lengths.max(initial=0)), min(tokens, self.micro_tokens)
        if longest > room:
            raise EncodeError(
                f"example {int(examples.lengths.argmax())} has {longest} tokens, and there is "
                f"room for {room}.",
                f"Give {longest} or more, or encode with a smaller max_length.",
            )
        self._count = len(self._groups(np.sort(examples.lengths), self.tokens))

    def __len__(self) -> int:
        """Optimizer steps per epoch."""
        return self._count

    def order(self, epoch: int) -> list[np.ndarray]:
        """Which rows make up which step of an epoch. Every row occurs exactly once."""
        rows, lengths = np.arange(len(self.examples)), self.examples.lengths
        generator = np.random.default_rng([self.seed, epoch])
        if self.shuffle:
            rows = generator.permutation(rows)
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        steps = [rows[group] for group in self._groups(lengths[rows], self.tokens)]
        if not self.shuffle:
            return steps
        return [steps[i] for i in generator.permutation(len(steps))]

    def passes(self, step: np.ndarray) -> list[np.ndarray]:
        """The rows of a step, by forward pass."""
        groups = self._groups(self.examples.lengths[step], self.micro_tokens)
        return [step[group] for group in groups]

    def settings(self) -> dict[str, Any]:
        """What fixes the order of the data, for checkpoints and records."""
        by_count = ("batch_size", "micro_batch_size", "by_length")
        kept = {k: v for k, v in super().settings().items() if k not in by_count}
        return kept | {"batch_tokens": self.tokens, "micro_tokens": self.micro_tokens}

    @staticmethod
    def _groups(lengths: np.ndarray, room: int) -> list[slice]:
        """Neighbours that fit together; ``lengths`` must ascend, so the last is the longest."""
        groups, begin = [], 0
        for at, length in enumerate(lengths.tolist()):
            if (at + 1 - begin) * length > room:
                groups.append(slice(begin, at))
                begin = at
        return [*groups, slice(begin, len(lengths))] if len(lengths) else []
