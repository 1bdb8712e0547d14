"""From an example's text to token ids and loss mask, in one pass.

Every encoder gives a data set with the same columns, so that `batches` and `fit` need not
know the task:

========== ======================================================================
column     content
========== ======================================================================
input_ids  token ids, a list of whole numbers
token_type_ids  0 for the first text, 1 for the second (only when the tokenizer has them)
labels     what to predict: one class; one label per token, with -100 for "not supervised"; a
           target's tokens; or the places of an answer's first and last token
row        the example's position in its split, so that errors and mistakes name their row
cut        whether the limit on length cut something off
========== ======================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sftkit.errors import EncodeError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

IN_MEMORY_ROWS = 200_000  # above this, encoded columns go to disk instead of to memory


def classification(data: DatasetDict, tokenizer: Any, max_length: int = 128) -> DatasetDict:
    """Encode texts, or pairs of texts, with one class each.

    Args:
        data: Columns ``text`` (and ``text_pair``) and ``label``, as `corpora.load` gives.
        tokenizer: A transformers tokenizer.
        max_length: The most tokens an example may have, special tokens included. Longer
            texts are cut at the end (of the longer text, for pairs).

    Returns:
        The same splits with the columns of this module's table.

    Raises:
        EncodeError: When ``max_length`` leaves no room for text, or is more than the
            tokenizer's model can take.
    """
    from datasets import DatasetDict

    _check_length(tokenizer, max_length, pair=_has_pairs(data))
    return DatasetDict(
        {name: _encode_split(split, tokenizer, max_length) for name, split in data.items()}
    )


def texts(values: list[str], tokenizer: Any, max_length: int = 128) -> Dataset:
    """Encode texts that have no label, for prediction."""
    from datasets import Dataset

    data = Dataset.from_dict({"text": list(values)})
    _check_length(tokenizer, max_length, pair=False)
    return _encode_split(data, tokenizer, max_length)


def _has_pairs(data: Any) -> bool:
    return any("text_pair" in names for names in data.column_names.values())


def _check_length(tokenizer: Any, max_length: int, pair: bool) -> None:
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length <= special:
        raise EncodeError(
            f"max_length={max_length} leaves no room for text: {special} special tokens.",
            f"Give at least {special + 1}; 64 to 128 is usual for short texts.",
        )
    if max_length > tokenizer.model_max_length:
        raise EncodeError(
            f"max_length={max_length} is more than the {tokenizer.model_max_length} tokens "
            "that this model has positions for.",
            f"Give at most {tokenizer.model_max_length}.",
        )


def _encode_split(split: Dataset, tokenizer: Any, max_length: int) -> Dataset:
    def encode(columns: dict[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        pairs = columns.get("text_pair")
        whole = tokenizer(columns["text"], pairs, truncation=False, verbose=False)
        kept = tokenizer(columns["text"], pairs, truncation=True, max_length=max_length)
        encoded = {
            "input_ids": kept["input_ids"],
            "row": rows,
            "cut": [
                len(a) > len(b)
                for a, b in zip(whole["input_ids"], kept["input_ids"], strict=True)
            ],
        }
        if "token_type_ids" in kept and pairs is not None:
            encoded["token_type_ids"] = kept["token_type_ids"]
        if "label" in columns:
            encoded["labels"] = columns["label"]
        return encoded

    small = len(split) <= IN_MEMORY_ROWS
    with _without_bar(small):
        return split.map(
            encode,
            with_indices=True,
            batched=True,
            remove_columns=split.column_names,
            keep_in_memory=small,
        )


@contextmanager
def _without_bar(quiet: bool) -> Iterator[None]:
    """No bar of datasets' for work that takes a moment."""
    import datasets

    was_on = datasets.is_progress_bar_enabled()
    if quiet:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if was_on:
            datasets.enable_progress_bars()
