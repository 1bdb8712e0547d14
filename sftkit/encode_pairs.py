"""Pairs of texts to token ids: a source to read, and a target to write.

The columns are those of `encode`. ``input_ids`` is the source, ``labels`` the target; both end
with the tokenizer's end token, so that the end of a target is learned. The decoder's inputs
are made from the labels later, in `losses_seq2seq.teacher_forced` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sftkit.errors import EncodeError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SIDES = ("source", "target")


def pairs(
    data: DatasetDict,
    tokenizer: Any,
    max_length: int = 128,
    max_target: int | None = None,
    target_tokenizer: Any = None,
) -> DatasetDict:
    """Encode all splits of pairs.

    A source that is too long is cut, and still ends with the end token. A target that is too
    long is cut, and then has none: a model must not learn to stop in the middle.

    Args:
        data: Columns ``source`` and ``target``, texts.
        tokenizer: A transformers tokenizer with an end token.
        max_length: The most tokens of a source, the end included.
        max_target: Of a target; as ``max_length`` unless given.
        target_tokenizer: Where targets are written in other tokens; the model must know both.

    Raises:
        EncodeError: With split and row: an empty side, or one that is no text. Or the
            tokenizer has no end token, or a limit leaves no room.
    """
    from datasets import DatasetDict

    limits = (max_length, max_target or max_length)
    tokenizers = (tokenizer, target_tokenizer or tokenizer)
    for side, words, limit in zip(SIDES, tokenizers, limits, strict=True):
        if words.eos_token_id is None:
            raise EncodeError(
                f"the tokenizer of the {side}s has no end token.",
                "Give it one: tokenizer.eos_token = tokenizer.sep_token, say.",
            )
        if not 2 <= limit <= words.model_max_length:
            raise EncodeError(
                f"{limit} tokens for a {side}.",
                f"Give from 2 to {words.model_max_length}: a token, and the end.",
            )
    return DatasetDict(
        {name: _split(name, split, tokenizers, limits) for name, split in data.items()}
    )


def _split(
    name: str, split: Dataset, tokenizers: tuple[Any, Any], limits: tuple[int, int]
) -> Dataset:
    from datasets import Dataset

    if missing := [side for side in SIDES if side not in split.column_names]:
        raise EncodeError(
            f"{name} has no column {missing[0]!r}; there are {', '.join(split.column_names)}.",
            "Rename the columns of the pairs to source and target.",
        )
    ids: list[list[list[int]]] = []
    for side, words in zip(SIDES, tokenizers, strict=True):
        texts = list(split[side])
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise EncodeError(
                    f"{name}, row {row}: the {side} is {text!r}.",
                    "Give both texts of every pair, or leave the row out.",
                )
        coded = words(texts, add_special_tokens=False, verbose=False)["input_ids"]
        ids.append(coded)
    sources, targets = ids
    ends = [words.eos_token_id for words in tokenizers]
    return Dataset.from_dict(
        {
            "input_ids": [[*source[: limits[0] - 1], ends[0]] for source in sources],
            "labels": [[*target, ends[1]][: limits[1]] for target in targets],
            "row": list(range(len(sources))),
            "cut": [
                len(source) >= limits[0] or len(target) >= limits[1]
                for source, target in zip(sources, targets, strict=True)
            ],
        }
    )
