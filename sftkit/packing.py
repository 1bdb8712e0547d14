"""Several examples in one row, each by itself: batches without padding.

An optimizer step has the same examples as in `batches.Batches` with the same settings; only
where they lie differs. So packed training follows the trajectory of padded training, and what
is measured between the two is time. The order is a function of (seed, epoch), so a resumed run
needs the number of steps alone.

A packed batch has these columns, for B rows of T places:

================ ====================================================================
column           content
================ ====================================================================
input_ids        ``(B, T)``, filled up with the padding id at the end of a row
labels           ``(B, T)``, -100 at the first place of every document and in padding
document         ``(B, T)``: 0, 1, 2, ... in each row, and -1 in padding
position_ids     ``(B, T)``: 0, 1, 2, ... from the start of each document
attention_mask   ``(B, T)``: 1 where there is a document
row              ``(examples,)``: which examples these are
================ ====================================================================

Neither `attention_mask` nor `position_ids` keeps documents apart: a model must use `document`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sftkit.arguments import whole
from sftkit.batches import IGNORE, Batches, Examples, Ragged
from sftkit.errors import EncodeError

if TYPE_CHECKING:
    from sftkit.batches import Batch


def first_fit_decreasing(lengths: Sequence[int] | np.ndarray, room: int) -> list[list[int]]:
    """Put items into as few bins as a simple rule finds: the longest first, each into the
    first bin that has room (Johnson 1973). It needs at most 11/9 of the fewest, plus one.

    Args:
        lengths: ``(n,)``, none above ``room``.
        room: What a bin holds.

    Returns:
        The items of each bin. Equal lengths keep their order.
    """
    bins: list[list[int]] = []
    left: list[int] = []
    for item in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        length = int(lengths[item])
        at = next((i for i, space in enumerate(left) if space >= length), len(bins))
        if at == len(bins):
            bins.append([])
            left.append(room)
        bins[at].append(item)
        left[at] -= length
    return bins


class PackedBatches(Batches):
    """`Batches` whose steps are laid out in rows of at most ``row_tokens`` tokens.

    Args:
        examples: With ``input_ids`` and one label per token.
        batch_size: Examples per optimizer step.
        row_tokens: Tokens that a row holds. With one row per forward pass, which is the
            default, this bounds the memory, and nothing is padded.
        rows: Rows per forward pass.
        seed, shuffle: As in `Batches`.
        by_length: As in `Batches`; packing does not need it.

    Raises:
        EncodeError: An example does not fit in a row, or labels are not one per token.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int = 32,
        *,
        row_tokens: int = 1024,
        rows: int = 1,
        seed: int = 0,
        by_length: bool = False,
        shuffle: bool = True,
    ) -> None:
        super().__init__(examples, batch_size, seed=seed, by_length=by_length, shuffle=shuffle)
        self.row_tokens, self.rows = whole("row_tokens", row_tokens), whole("rows", rows)
        for name in ("input_ids", "labels"):
            column = examples.columns.get(name)
            if not isinstance(column, Ragged):
                raise EncodeError(
                    f"the examples have no {name} per token.",
                    "Packing is for language models and conversations.",
                )
            if not np.array_equal(column.lengths, examples.lengths):
                raise EncodeError(
                    "input_ids and labels have different lengths.", "Give one label per token."
                )
        longest = int(examples.lengths.max(initial=0))
        if longest > row_tokens:
            which = int(examples.lengths.argmax())
            raise EncodeError(
                f"example {which} has {longest} tokens, and a row holds {row_tokens}.",
                f"Give row_tokens={longest} or more, or encode with a smaller max_length.",
            )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """The steps of an epoch from number ``start`` on, each a list of packed batches."""
        for step in self.order(epoch)[start:]:
            bins = self.bins(step)
            yield [self.packed(bins[i : i + self.rows]) for i in range(0, len(bins), self.rows)]

    def layout(self, epoch: int) -> Iterator[list[int]]:
        """Tokens in each packed row, one list per forward pass of an epoch."""
        for step in self.order(epoch):
            fills = [int(self.examples.lengths[items].sum()) for items in self.bins(step)]
            for i in range(0, len(fills), self.rows):
                yield fills[i : i + self.rows]

    def bins(self, step: np.ndarray) -> list[np.ndarray]:
        """The examples of a step, by row."""
        lengths = self.examples.lengths[step]
        return [step[items] for items in first_fit_decreasing(lengths, self.row_tokens)]

    def packed(self, bins: Sequence[np.ndarray]) -> Batch:
        """One batch from the examples of each of its rows (see the module's table)."""
        import torch

        examples = self.examples
        ids, labels = examples.columns["input_ids"], examples.columns["labels"]
        assert isinstance(ids, Ragged) and isinstance(labels, Ragged)
        tokens = max(int(examples.lengths[items].sum()) for items in bins)
        out = {
            "input_ids": np.full((len(bins), tokens), examples.pad_id, dtype=np.int64),
            "labels": np.full((len(bins), tokens), IGNORE, dtype=np.int64),
            "document": np.full((len(bins), tokens), -1, dtype=np.int64),
            "position_ids": np.zeros((len(bins), tokens), dtype=np.int64),
        }
        for i, items in enumerate(bins):
            at = 0
            for number, item in enumerate(items):
                begin, end = ids.starts[item], ids.starts[item + 1]
                here = slice(at, at + int(end - begin))
                out["input_ids"][i, here] = ids.values[begin:end]
                out["labels"][i, here] = labels.values[begin:end]
                # What stands before it in the row belongs to another document.
                out["labels"][i, here.start : here.start + 1] = IGNORE
                out["document"][i, here] = number
                out["position_ids"][i, here] = np.arange(end - begin)
                at = here.stop
        out["attention_mask"] = (out["document"] >= 0).astype(np.int64)
        members = np.concatenate(list(bins))
        known: Any = examples.columns.get("row")
        out["row"] = np.asarray(members if known is None else known[members], dtype=np.int64)
        return {name: torch.from_numpy(values) for name, values in out.items()}

    def settings(self) -> dict[str, Any]:
        """What fixes the order and the layout of the data, for checkpoints and records."""
        ours = {"packed": True, "row_tokens": self.row_tokens, "rows_per_pass": self.rows}
        return super().settings() | ours
