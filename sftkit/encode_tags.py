"""Tagged sentences to token ids and labels, in one pass.

A tokenizer cuts words into pieces, and tags belong to words. So ids and labels are made
together, word by word: the first piece of a word has its tag, the others have -100
(``label="first"``), or all have it (``label="all"``, the later ones as the inside of a span).

A sentence that is longer than the model's limit becomes several windows that overlap. Each
word is labelled in one of them, where it has context on both sides; elsewhere it is read, and
has -100. The columns are those of `encode`; ``row`` is the sentence's number, and the windows
of a sentence follow one another, so that its labels, put in a row, are those of its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sftkit.corpora import spans
from sftkit.encode_lm import IGNORE
from sftkit.errors import CorpusError, EncodeError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SHARED = 4  # windows of a long sentence share one part in so many


def tags(
    data: DatasetDict,
    tokenizer: Any,
    names: Sequence[str],
    max_length: int = 128,
    *,
    label: str = "first",
) -> DatasetDict:
    """Encode all splits of tagged sentences.

    Args:
        data: Columns ``tokens`` and ``tags`` (BIO or BIOES), as `corpora.tagged.load` gives.
        tokenizer: A transformers tokenizer.
        names: All tags, in the order of the model's outputs (`corpora.spans.tag_names`). They
            also say the scheme: tags are converted to it.
        max_length: The most tokens of a window, special tokens included.
        label: ``first`` or ``all`` pieces of a word. What is evaluated needs ``first``.

    Raises:
        EncodeError: With split and row: another number of tags than of tokens, an unknown tag,
            a sequence that breaks the rules of its scheme, an empty token.
    """
    from datasets import DatasetDict

    if label not in ("first", "all"):
        raise EncodeError(f"label={label!r}.", "There are first and all.")
    scheme = spans.scheme_of([list(names)])
    number = {name: i for i, name in enumerate(names)}
    encoded = DatasetDict()
    for split, part in data.items():
        words, labels = list(part["tokens"]), []
        for row, (tokens, given) in enumerate(zip(words, part["tags"], strict=True)):
            labels.append(_numbers(tokens, given, number, scheme, f"{split}, row {row}"))
        # The number of what stands inside a span, for the later pieces of a word.
        inside = {number[n]: number.get(_inside(n), number[n]) for n in names}
        encoded[split] = _encode(words, labels, tokenizer, max_length, label == "all", inside)
    return encoded


def tokens(
    sentences: Sequence[Sequence[str]], tokenizer: Any, max_length: int = 128
) -> Dataset:
    """Encode sentences without tags; a label of 0 marks each word's first piece."""
    words = [list(sentence) for sentence in sentences]
    for row, sentence in enumerate(words):
        if not sentence or any(not word.strip() for word in sentence):
            raise EncodeError(f"row {row}: no tokens, or an empty one.", "Give words.")
    return _encode(words, [[0] * len(s) for s in words], tokenizer, max_length, False, {})


def windows(lengths: Sequence[int], room: int, shared: int) -> list[tuple[int, int, int, int]]:
    """Cut a sentence into windows of at most ``room`` pieces.

    Args:
        lengths: Pieces of each word, 1 to ``room``.
        room: Pieces that a window holds.
        shared: Pieces that neighbouring windows have in common, at most.

    Returns:
        ``(start, end, low, high)`` for each window: it reads the words ``start`` to ``end - 1``
        and labels ``low`` to ``high - 1``. Every word is labelled once.
    """
    bounds: list[tuple[int, int]] = []
    start = 0
    while True:
        end, used = start, 0
        while end < len(lengths) and used + lengths[end] <= room:
            used += lengths[end]
            end += 1
        bounds.append((start, end))
        if end == len(lengths):
            break
        start, both = end, 0
        while start - 1 > bounds[-1][0] and both + lengths[start - 1] <= shared:
            start -= 1
            both += lengths[start]
    # Where two windows overlap, each labels its half.
    cuts = [
        (after[0] + before[1]) // 2 for before, after in zip(bounds, bounds[1:], strict=False)
    ]
    lows, highs = [0, *cuts], [*cuts, len(lengths)]
    return [(*b, low, high) for b, low, high in zip(bounds, lows, highs, strict=True)]


def _inside(name: str) -> str:
    prefix, kind = spans.split_tag(name)
    return f"I-{kind}" if prefix in ("B", "I") else name


def _numbers(
    words: list[str], given: list[str], number: dict[str, int], scheme: str, where: str
) -> list[int]:
    if len(words) != len(given):
        raise EncodeError(
            f"{where}: {len(words)} tokens, but {len(given)} tags.",
            "Every token needs one tag.",
        )
    if not words or any(not word.strip() for word in words):
        raise EncodeError(f"{where}: no tokens, or an empty one.", "Leave the sentence out.")
    if wrong := spans.problem(given, spans.scheme_of([given])):
        raise EncodeError(
            f"{where}, token {wrong[0]}: {wrong[1]}",
            "Mend the tags, or load the file with repair=True.",
        )
    try:
        converted = spans.convert(given, scheme)
    except CorpusError as error:
        raise EncodeError(f"{where}: {error.what}", error.fix) from error
    unknown = next((tag for tag in converted if tag not in number), None)
    if unknown is not None:
        raise EncodeError(
            f"{where}: the tag {unknown!r} is unknown.", f"Known are {', '.join(number)}."
        )
    return [number[tag] for tag in converted]


def _encode(
    sentences: list[list[str]],
    labels: list[list[int]],
    tokenizer: Any,
    max_length: int,
    label_all: bool,
    inside: dict[int, int],
) -> Dataset:
    from datasets import Dataset

    before, after = _ends(tokenizer)
    room = max_length - len(before) - len(after)
    if room < 2 or max_length > tokenizer.model_max_length:
        raise EncodeError(
            f"max_length={max_length}.",
            f"Give from {max_length - room + 2} to {tokenizer.model_max_length} tokens.",
        )
    pieces = _pieces(sentences, tokenizer)
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "row": [], "cut": []}
    for row, (words, numbers) in enumerate(zip(sentences, labels, strict=True)):
        ids = [pieces[word][:room] for word in words]  # a word longer than a window is cut
        whole = all(len(pieces[word]) <= room for word in words)
        cut = windows([len(p) for p in ids], room, room // SHARED)
        for start, end, low, high in cut:
            row_ids, row_labels = list(before), [IGNORE] * len(before)
            for at in range(start, end):
                row_ids += ids[at]
                named = low <= at < high
                first = numbers[at] if named else IGNORE
                rest = inside[first] if named and label_all else IGNORE
                row_labels += [first] + [rest] * (len(ids[at]) - 1)
            columns["input_ids"].append(row_ids + after)
            columns["labels"].append(row_labels + [IGNORE] * len(after))
            columns["row"].append(row)
            columns["cut"].append(len(cut) > 1 or not whole)
    return Dataset.from_dict(columns)


def _pieces(sentences: list[list[str]], tokenizer: Any) -> dict[str, list[int]]:
    """The pieces of each different word. One that the tokenizer makes nothing of is unknown."""
    words = list(dict.fromkeys(word for sentence in sentences for word in sentence))
    encoded = tokenizer(
        [[word] for word in words],
        is_split_into_words=True,
        add_special_tokens=False,
        verbose=False,
    )["input_ids"]
    nothing = [tokenizer.unk_token_id]
    if nothing[0] is None:
        nothing = [tokenizer.eos_token_id]
    return {word: ids or nothing for word, ids in zip(words, encoded, strict=True)}


def _ends(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    plain = tokenizer(["a"], is_split_into_words=True, add_special_tokens=False)["input_ids"]
    whole = tokenizer(["a"], is_split_into_words=True)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    return whole[:start], whole[start + len(plain) :]
