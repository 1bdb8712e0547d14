"""Texts to token ids for language models: nothing is lost, nothing is predicted twice.

As in `encode`, each function gives a data set with ``input_ids``, ``labels``, ``row`` (the
text's number) and ``cut``. A text that is longer than ``max_length`` becomes several pieces;
``cut`` then says that a piece does not hold its text's end. Pieces of different texts never
share a row, so no text is predicted from its neighbour.

Labels are **not** shifted here. ``labels[t]`` is the token that stands at place ``t``, and
`losses_lm.causal_lm` is the one place that moves them against the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sftkit.errors import EncodeError

if TYPE_CHECKING:
    from datasets import Dataset

IGNORE = -100
PAD, UNKNOWN, BEGIN, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, BEGIN, END, MASK)  # ids 0 to 4


def char_tokenizer(characters: Sequence[str], max_length: int = 512) -> Any:
    """A transformers tokenizer with one token per character.

    Text is brought to Unicode normal form KC and to lower case first, as in
    `corpora.pretraining.characters`. ``[CLS]`` begins and ``[SEP]`` ends every text.

    Args:
        characters: The vocabulary without special tokens, in the order of the ids from 5 on.
        max_length: The most tokens that the model has positions for.

    Raises:
        EncodeError: A character occurs twice or is more than one character.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import NFKC, Lowercase
    from tokenizers.normalizers import Sequence as Steps
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    if wrong := [c for c in characters if len(c) != 1]:
        raise EncodeError(f"{wrong[0]!r} is not one character.", "Give single characters.")
    if len(set(characters)) != len(characters):
        raise EncodeError("A character occurs twice.", "Give each character once.")
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *characters])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = Steps([NFKC(), Lowercase()])
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = Fuse()  # characters are put together without spaces between them
    ends = [(token, vocabulary[token]) for token in (BEGIN, END)]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A {END}",
        pair=f"{BEGIN} $A {END} $B:1 {END}:1",
        special_tokens=ends,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=BEGIN,
        bos_token=BEGIN,
        sep_token=END,
        eos_token=END,
        mask_token=MASK,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def causal(texts: Sequence[str], tokenizer: Any, max_length: int = 128) -> Dataset:
    """Encode texts for causal language modelling: every token from those before it.

    A text becomes ``[CLS] c1 c2 ... [SEP]``. Pieces of a long text overlap by one token: the
    last token of a piece is the first of the next, where it is context only. So every token
    but ``[CLS]`` is predicted exactly once, and the first label of a piece is -100.

    Args:
        texts: Running text.
        tokenizer: A transformers tokenizer with a token for begin and one for end.
        max_length: Tokens per piece, at most.

    Raises:
        EncodeError: ``max_length`` below 2, or more than the tokenizer's model can take.
    """
    _check(tokenizer, max_length, 2)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "row": [], "cut": []}
    for row, ids in enumerate(_plain_ids(texts, tokenizer)):
        whole = [begin, *ids, end]
        for start in range(0, len(whole) - 1, max_length - 1):
            piece = whole[start : start + max_length]
            columns["input_ids"].append(piece)
            columns["labels"].append([IGNORE, *piece[1:]])
            columns["row"].append(row)
            columns["cut"].append(start + max_length < len(whole))
    return _dataset(columns)


def masked(texts: Sequence[str], tokenizer: Any, max_length: int = 128) -> Dataset:
    """Encode texts for masked language modelling; `batches_lm.MaskedBatches` draws the masks.

    Every piece is ``[CLS] ... [SEP]``, as a classifier will see its texts. ``labels`` holds
    each token itself, and -100 for special tokens, unknown characters among them, which are
    never masked nor predicted. Pieces of unknown characters alone are left out.

    Args, raises: as `causal`; ``max_length`` at least 3.
    """
    _check(tokenizer, max_length, 3)
    begin, end, room = tokenizer.cls_token_id, tokenizer.sep_token_id, max_length - 2
    unknown = tokenizer.unk_token_id
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "row": [], "cut": []}
    for row, ids in enumerate(_plain_ids(texts, tokenizer)):
        for start in range(0, len(ids), room):
            piece = ids[start : start + room]
            known = [IGNORE if token == unknown else token for token in piece]
            if all(label == IGNORE for label in known):
                continue  # unknown characters alone: nothing to learn
            columns["input_ids"].append([begin, *piece, end])
            columns["labels"].append([IGNORE, *known, IGNORE])
            columns["row"].append(row)
            columns["cut"].append(start + room < len(ids))
    return _dataset(columns)


def _plain_ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    if not texts:
        raise EncodeError("There are no texts.", "Give at least one.")
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


def _check(tokenizer: Any, max_length: int, least: int) -> None:
    if not least <= max_length <= tokenizer.model_max_length:
        raise EncodeError(
            f"max_length={max_length}.",
            f"Give from {least} to {tokenizer.model_max_length} tokens.",
        )


def _dataset(columns: dict[str, list[Any]]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict(columns)
