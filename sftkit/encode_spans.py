"""Questions with contexts to token ids and places of answers, in one pass.

Each example is ``[CLS] question [SEP] context [SEP]``. A context that does not fit becomes
several windows that share ``overlap`` tokens. An answer is labelled in every window that holds
all of it; in the others, and for questions without an answer, the label is the first token's
place ([CLS], "nothing here"). Where an answer's ends fall inside a token, the token counts: the
tokenizer's offsets say which characters each one stands for.

Line breaks are what gives a documentation text its structure, and many tokenizers drop them
with all other blanks. So the model reads marks in their place (`visible_breaks`).

The columns are those of `encode`, and ``offsets`` (start and end of each token in the context,
-1 for all others), flat, for turning places back into text. ``row`` is the question's number.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sftkit.errors import EncodeError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NOWHERE = -1
LEAST = 16  # context tokens that a window must have room for
_BEFORE_INDENTED = re.compile(r"\n(?=[ \t])")


def visible_breaks(text: str) -> str:
    """Line breaks as marks that a tokenizer keeps: ``¶`` before an indented line, else ``§``.

    One character stands for one, so places in the text stay what they are.
    """
    return _BEFORE_INDENTED.sub("¶", text).replace("\n", "§")


def questions(
    data: DatasetDict,
    tokenizer: Any,
    max_length: int = 256,
    overlap: int = 64,
    *,
    others: float = 1.0,
    seed: int = 0,
) -> DatasetDict:
    """Encode all splits.

    Args:
        data: Columns ``question``, ``context``, ``texts`` and ``starts``, as
            `corpora.questions.load` gives. The first answer is the label.
        tokenizer: A fast transformers tokenizer.
        max_length: The most tokens of a window, question and special tokens included.
        overlap: Tokens of the context that neighbouring windows share.
        others: Of training windows without an answer keep this share: they are many, and all
            teach the same. A question that has no answer keeps at least one window. Other
            splits keep all.
        seed: Which of them are kept.

    Raises:
        EncodeError: With split and row: an answer that is not at its place, a question so long
            that no room for the context is left.
    """
    from datasets import DatasetDict

    if not 0 <= others <= 1:
        raise EncodeError(f"others={others}.", "It is a share, from 0 to 1.")
    return DatasetDict(
        {
            split: encode(
                part, tokenizer, max_length, overlap, others if split == "train" else 1.0,
                seed, split,
            )
            for split, part in data.items()
        }
    )  # fmt: skip


def encode(
    part: Any,
    tokenizer: Any,
    max_length: int = 256,
    overlap: int = 64,
    others: float = 1.0,
    seed: int = 0,
    name: str = "rows",
) -> Dataset:
    """Encode one split; ``part`` may also be a dictionary of columns without answers."""
    import numpy as np
    from datasets import Dataset

    asked, contexts = list(part["question"]), list(part["context"])
    blank: list[list[Any]] = [[] for _ in asked]
    known = part.column_names if hasattr(part, "column_names") else part
    texts = list(part["texts"]) if "texts" in known else blank
    starts = list(part["starts"]) if "starts" in known else blank
    _check(asked, contexts, texts, starts, tokenizer, max_length, overlap, name)
    found = tokenizer(
        asked,
        [visible_breaks(context) for context in contexts],
        truncation="only_second",
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    dice = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {k: [] for k in ("input_ids", "labels", "row", "cut")}
    typed = "token_type_ids" in tokenizer.model_input_names
    columns |= {"token_type_ids": [], "offsets": []} if typed else {"offsets": []}
    owners = found["overflow_to_sample_mapping"]
    counts = np.bincount(owners, minlength=len(asked))
    spared = [int(dice.integers(n)) for n in counts]  # kept of a question without an answer
    number: dict[int, int] = {}
    for at, row in enumerate(owners):
        here = number[row] = number.get(row, -1) + 1
        of_context = np.array(found.sequence_ids(at)) == 1
        offsets = np.where(of_context[:, None], found["offset_mapping"][at], NOWHERE)
        span = None
        if starts[row]:
            begin = starts[row][0]
            span = token_span(offsets, begin, begin + len(texts[row][0]))
        kept = span is not None or (not starts[row] and here == spared[row])
        if not kept and dice.random() >= others:
            continue
        columns["input_ids"].append(found["input_ids"][at])
        columns["labels"].append(list(span or (0, 0)))
        columns["row"].append(row)
        columns["cut"].append(bool(counts[row] > 1))
        if typed:
            columns["token_type_ids"].append(found["token_type_ids"][at])
        columns["offsets"].append(offsets.ravel().tolist())
    return Dataset.from_dict(columns)


def token_span(offsets: Any, start: int, end: int) -> tuple[int, int] | None:
    """First and last token of the characters ``start`` to ``end - 1``; None if not all are in.

    Args:
        offsets: ``int (T, 2)``: characters of each token; -1 for tokens not of the context.
    """
    import numpy as np

    inside = np.flatnonzero((offsets[:, 0] >= 0) & (offsets[:, 1] > offsets[:, 0]))
    if not len(inside):
        return None
    begins, ends = offsets[inside, 0], offsets[inside, 1]
    first = int(np.searchsorted(ends, start, side="right"))  # the first that ends after start
    last = int(np.searchsorted(begins, end, side="left")) - 1  # the last that begins before end
    # At a window's border the answer may go on outside. Blanks belong to no token, so an
    # answer that begins or ends within the window has a token at its very edge.
    if first >= len(inside) or last < first:
        return None
    if begins[first] > start or ends[last] < end:
        return None
    return int(inside[first]), int(inside[last])


def _check(
    asked: list[str],
    contexts: list[str],
    texts: list[list[str]],
    starts: list[list[int]],
    tokenizer: Any,
    max_length: int,
    overlap: int,
    name: str,
) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise EncodeError(
            f"{type(tokenizer).__name__} gives no offsets.",
            "Use a model with a fast tokenizer (tokenizer.json).",
        )
    if max_length > tokenizer.model_max_length:
        raise EncodeError(
            f"max_length={max_length}.", f"The model reads {tokenizer.model_max_length} tokens."
        )
    lengths = tokenizer(asked, add_special_tokens=False, verbose=False)["input_ids"]
    special = tokenizer.num_special_tokens_to_add(pair=True)
    for row, ids in enumerate(lengths):
        room = max_length - len(ids) - special
        if room < max(LEAST, overlap + 1):
            raise EncodeError(
                f"{name}, row {row}: its question has {len(ids)} tokens, which leaves {room} "
                f"of {max_length} for the context.",
                f"Shorten it, or give a larger max_length (overlap is {overlap}).",
            )
        for text, start in zip(texts[row], starts[row], strict=True):
            if not text or contexts[row][start : start + len(text)] != text:
                raise EncodeError(
                    f"{name}, row {row}: the answer {text[:60]!r} is not at {start}.",
                    "Read the file with corpora.squad, which says where it is.",
                )
