"""From encoded examples to padded batches, grouped by length, in an order that can be saved.

The order of an epoch is a function of (seed, epoch) alone. To resume in the middle, it is
enough to know how many steps are done: no generator has to be replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sftkit.arguments import whole
from sftkit.errors import EncodeError, ParameterError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    Batch = dict[str, torch.Tensor]

IGNORE = -100  # the label that means "not supervised", as in torch
POOL = 50  # batches per pool: an epoch is shuffled, cut into pools, and sorted within each
BLOCK = 10_000  # rows read from Arrow at a time


class Ragged:
    """Rows of different length in one flat array: ``row i = values[starts[i]:starts[i+1]]``.

    Args:
        values: Shape ``(sum of lengths, ...)``.
        lengths: Shape ``(rows,)``.
    """

    def __init__(self, values: np.ndarray, lengths: np.ndarray) -> None:
        self.values = values
        self.lengths = np.asarray(lengths, dtype=np.int64)
        if (self.lengths < 0).any() or self.lengths.sum() != len(values):
            raise EncodeError(
                f"{len(values)} values for rows of {int(self.lengths.sum())} in all.",
                "Lengths are at least 0, and their sum is the number of values.",
            )
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, rows: Sequence[int] | np.ndarray, fill: float) -> np.ndarray:
        """The rows side by side, filled up at the end: ``(B, T, ...)``."""
        lengths = self.lengths[rows]
        shape = (len(lengths), int(lengths.max(initial=0)), *self.values.shape[1:])
        out = np.full(shape, fill, dtype=self.values.dtype)
        for i, row in enumerate(rows):
            out[i, : lengths[i]] = self.values[self.starts[row] : self.starts[row + 1]]
        return out


class Examples:
    """Encoded examples in memory, as flat arrays.

    Args:
        columns: Name to `Ragged` (one list per example) or to an array with one value each.
        pad_id: The token id that fills up ``input_ids``.
    """

    # Everything else is filled with 0; input_ids with pad_id.
    FILL = {"labels": IGNORE, "rejected_labels": IGNORE}

    def __init__(self, columns: Mapping[str, Ragged | np.ndarray], pad_id: int = 0) -> None:
        sizes = {name: len(column) for name, column in columns.items()}
        if len(set(sizes.values())) > 1:
            raise EncodeError(
                f"columns have different numbers of rows: {sizes}.",
                "Give one value, or one list, for every example in each column.",
            )
        self.columns = dict(columns)
        self.pad_id = pad_id
        self._sequence = self._find_sequence()

    @classmethod
    def of(cls, dataset: Dataset, pad_id: int = 0) -> Examples:
        """Read an encoded `datasets.Dataset` (see `encode`), some thousand rows at a time."""
        parts: dict[str, list[np.ndarray]] = {}
        lengths: dict[str, list[np.ndarray]] = {}
        table = dataset.with_format("arrow")
        for start in range(0, len(dataset), BLOCK):
            block = table[start : start + BLOCK]
            for name in block.column_names:
                column = block.column(name).combine_chunks()
                if hasattr(column, "value_lengths"):
                    lengths.setdefault(name, []).append(column.value_lengths().to_numpy())
                    flat = column.flatten().to_numpy(zero_copy_only=False)
                    whole = flat.dtype.kind in "iub"
                    parts.setdefault(name, []).append(
                        flat.astype(np.int32 if whole else np.float32)
                    )
                else:
                    flat = column.to_numpy(zero_copy_only=False)
                    parts.setdefault(name, []).append(flat)
        columns: dict[str, Ragged | np.ndarray] = {}
        for name, arrays in parts.items():
            flat = np.concatenate(arrays)
            sized = name in lengths
            columns[name] = Ragged(flat, np.concatenate(lengths[name])) if sized else flat
        return cls(columns, pad_id)

    @classmethod
    def of_tokens(
        cls,
        rows: Sequence[Sequence[int]],
        labels: Sequence[Sequence[int]] | None = None,
        pad_id: int = 0,
    ) -> Examples:
        """From lists of token ids, with one label per token.

        Args:
            rows: Token ids, at least one row.
            labels: Of the same lengths; every token is its own label unless given.
            pad_id: The token id that fills up ``input_ids``.
        """
        parts = {"input_ids": rows, "labels": rows if labels is None else labels}
        columns: dict[str, Ragged | np.ndarray] = {
            name: Ragged(
                np.concatenate([np.asarray(row, dtype=np.int32) for row in part]),
                np.array([len(row) for row in part]),
            )
            for name, part in parts.items()
        }
        return cls(columns | {"row": np.arange(len(rows))}, pad_id)

    def _find_sequence(self) -> Ragged | None:
        for name in ("hidden", "input_ids"):  # `hidden` stands in for ids when cached
            column = self.columns.get(name)
            if isinstance(column, Ragged):
                return column
        return None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, shape ``(rows,)``; ones where there is no sequence."""
        if self._sequence is None:
            return np.ones(len(self), dtype=np.int64)
        return self._sequence.lengths

    def take(self, rows: Sequence[int] | np.ndarray) -> Examples:
        """A selection of rows, in the given order."""
        columns: dict[str, Ragged | np.ndarray] = {}
        for name, column in self.columns.items():
            if isinstance(column, Ragged):
                chunks = [column.values[column.starts[r] : column.starts[r + 1]] for r in rows]
                empty = column.values[:0]
                columns[name] = Ragged(np.concatenate([empty, *chunks]), column.lengths[rows])
            else:
                columns[name] = column[rows]
        return Examples(columns, self.pad_id)

    def batch(self, rows: Sequence[int] | np.ndarray) -> Batch:
        """Collate rows into tensors, padded to the longest of them.

        Returns:
            ``input_ids`` (B, T), ``attention_mask`` (B, T) with 1 for real tokens,
            ``labels`` (B,) or (B, T), ``row`` (B,), and what else the examples carry.
        """
        import torch

        out: Batch = {}
        for name, column in self.columns.items():
            if isinstance(column, Ragged):
                fill = self.pad_id if name == "input_ids" else self.FILL.get(name, 0)
                values = column.padded(rows, fill)
            else:
                values = column[rows]
            tensor = torch.from_numpy(np.ascontiguousarray(values))
            out[name] = tensor if tensor.is_floating_point() else tensor.long()
        if self._sequence is not None:
            lengths = self._sequence.lengths[rows]
            positions = np.arange(int(lengths.max(initial=0)))
            out["attention_mask"] = torch.from_numpy(
                (positions[None, :] < lengths[:, None]).astype(np.int64)
            )
        return out


class Batches:
    """The optimizer steps of an epoch, each a list of micro-batches.

    Args:
        examples: What to draw from.
        batch_size: Examples per optimizer step.
        micro_batch_size: Examples per forward pass; smaller needs less memory and gives the
            same gradients. The whole batch unless given.
        seed: Fixes the order.
        by_length: Batch examples of similar length, so that little is padded. Which batches
            come when stays random.
        shuffle: False gives the examples in order, or by length when ``by_length``.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int = 32,
        *,
        micro_batch_size: int | None = None,
        seed: int = 0,
        by_length: bool = True,
        shuffle: bool = True,
    ) -> None:
        if not isinstance(examples, Examples):
            raise ParameterError(
                f"examples is a {type(examples).__name__}.",
                "Give sftkit.batches.Examples: Examples.of(dataset) reads an encoded data set.",
            )
        batch_size = whole("batch_size", batch_size)
        seed = whole("seed", seed, least=0)
        if micro_batch_size is not None and whole("micro_batch_size", micro_batch_size) > (
            batch_size
        ):
            raise ParameterError(
                f"micro_batch_size={micro_batch_size} with batch_size={batch_size}.",
                "It must be between 1 and batch_size.",
            )
        self.examples = examples
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size or batch_size
        self.seed = seed
        self.by_length = by_length
        self.shuffle = shuffle

    def __len__(self) -> int:
        """Optimizer steps per epoch."""
        return -(-len(self.examples) // self.batch_size)

    def order(self, epoch: int) -> list[np.ndarray]:
        """Which rows make up which step of an epoch. Every row occurs exactly once."""
        rows = np.arange(len(self.examples))
        lengths = self.examples.lengths
        if not self.shuffle:
            rows = np.argsort(lengths, kind="stable") if self.by_length else rows
            return self._cut(rows)
        generator = np.random.default_rng([self.seed, epoch])
        rows = generator.permutation(rows)
        if not self.by_length:
            return self._cut(rows)
        steps: list[np.ndarray] = []
        for start in range(0, len(rows), POOL * self.batch_size):
            pool = rows[start : start + POOL * self.batch_size]
            steps += self._cut(pool[np.argsort(lengths[pool], kind="stable")])
        return [steps[i] for i in generator.permutation(len(steps))]

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]

    def passes(self, step: np.ndarray) -> list[np.ndarray]:
        """The rows of a step, by forward pass."""
        size = self.micro_batch_size
        return [step[i : i + size] for i in range(0, len(step), size)]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """The steps of an epoch from number ``start`` on, each a list of micro-batches."""
        for step in self.order(epoch)[start:]:
            yield [self.examples.batch(rows) for rows in self.passes(step)]

    def layout(self, epoch: int) -> Iterator[list[int]]:
        """Tokens in each row, one list per forward pass of an epoch."""
        for step in self.order(epoch):
            for rows in self.passes(step):
                yield self.examples.lengths[rows].tolist()

    def settings(self) -> dict[str, Any]:
        """What fixes the order of the data, for checkpoints and records."""
        return {
            "rows": len(self.examples),
            "tokens": int(self.examples.lengths.sum()),
            "batch_size": self.batch_size,
            "micro_batch_size": self.micro_batch_size,
            "seed": self.seed,
            "by_length": self.by_length,
            "shuffle": self.shuffle,
        }


def padding_share(batches: Batches, epoch: int = 0) -> float:
    """The share of places in an epoch's forward passes that are padding, 0 to 1."""
    real = places = 0
    for tokens in batches.layout(epoch):
        real, places = real + sum(tokens), places + max(tokens) * len(tokens)
    return 1 - real / max(places, 1)
