"""Tokenizers of sources and targets together, made from training texts.

An encoder-decoder with one table of embeddings needs one vocabulary for both languages, and
one that can write whatever it can read. `shared_bpe` does so for text: pieces of words where
they are frequent, characters else, and bytes for characters that training never had. `symbols`
is for small alphabets such as letters and phonemes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sftkit.errors import EncodeError

# As nobody writes them: "<s>" and "[MASK]" may stand in a text.
PAD, UNKNOWN, BEGIN, END, MASK = "<|pad|>", "<|unknown|>", "<|begin|>", "<|end|>", "<|mask|>"
SPECIAL = (PAD, UNKNOWN, BEGIN, END, MASK)  # ids 0 to 4
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
BLANK = "\u2581"  # stands for a blank, and begins every word
# Placeholders stay whole; digits and punctuation marks stand alone.
_APART = r"%\d+|\$?\{\w*\}|\d|[^\w\s\u2581]"
LEAST = 2  # a character that occurs less often is written in bytes


def shared_bpe(texts: Iterable[str], size: int = 2_000, max_length: int = 128) -> Any:
    """A transformers tokenizer by byte-pair encoding (Sennrich et al. 2016) on texts.

    Decoding gives back the text to the letter, but for blanks at its ends and runs of blanks.

    Args:
        texts: Of training rows only, of both languages.
        size: Tokens in all, the 261 special ones and bytes included; fewer if the texts do
            not give so many.
        max_length: The most tokens that the model has positions for.

    Raises:
        EncodeError: There are no texts, or the size leaves no room for their characters.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import ByteFallback, Fuse, Replace, Strip
    from tokenizers.decoders import Sequence as Decoders
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import Metaspace, Split
    from tokenizers.pre_tokenizers import Sequence as Steps
    from tokenizers.trainers import BpeTrainer

    rows = sorted(texts)  # equal pairs of tokens merge in an order that the rows do not change
    if not rows:
        raise EncodeError("There are no texts to make a vocabulary of.", "Give some.")
    counts: dict[str, int] = {}
    for row in rows:
        for character in row:
            counts[character] = counts.get(character, 0) + 1
    alphabet = sorted(c for c, n in counts.items() if n >= LEAST and not c.isspace())
    fixed = len(SPECIAL) + len(BYTES)
    if size < fixed + len(alphabet) + 1:
        raise EncodeError(
            f"size={size} for {len(alphabet)} characters.",
            f"Give at least {fixed + len(alphabet) + 1}: the characters, and {fixed} tokens.",
        )
    tokenizer = Tokenizer(BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = words = Steps([Metaspace(), Split(Regex(_APART), "isolated")])
    trainer = BpeTrainer(
        vocab_size=size - fixed,
        show_progress=False,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet) + 1,  # and the mark of a blank
    )
    tokenizer.train_from_iterator(rows, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(learned["vocab"], key=learned["vocab"].get)
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *BYTES, *tokens])}
    merges = [tuple(pair) for pair in learned["merges"]]
    model = BPE(vocabulary, merges, byte_fallback=True, unk_token=UNKNOWN)
    whole = Tokenizer(model)
    whole.pre_tokenizer = words
    steps = [Replace(BLANK, " "), ByteFallback(), Fuse(), Strip(" ", 1, 0)]
    whole.decoder = Decoders(steps)
    return _wrapped(whole, max_length)


def symbols(every: Sequence[str], max_length: int = 64) -> Any:
    """A transformers tokenizer of letters and phonemes: ``cat``, and ``K AE T``.

    A run of capitals is one token, every other character is one. Decoding puts blanks between
    all tokens.

    Args:
        every: The symbols, each once, in the order of the ids from 5 on.
        max_length: The most tokens that the model has positions for.

    Raises:
        EncodeError: A symbol would be read as several, or occurs twice.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Sequence as Steps
    from tokenizers.pre_tokenizers import Split

    if wrong := [s for s in every if len(s) != 1 and not (s.isalpha() and s.isupper())]:
        raise EncodeError(f"{wrong[0]!r} is no symbol.", "Give characters, or capitals.")
    if len(set(every)) != len(every):
        raise EncodeError("A symbol occurs twice.", "Give each once.")
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *every])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Steps(
        [Split(Regex(r"\s+"), "removed"), Split(Regex(r"[^A-Z]"), "isolated")]
    )
    return _wrapped(tokenizer, max_length)


def symbols_in(texts: Iterable[str]) -> list[str]:
    """The symbols of texts as `symbols` reads them, sorted."""
    import re

    return sorted({s for text in texts for s in re.findall(r"[A-Z]+|[^A-Z\s]", text)})


def _wrapped(tokenizer: Any, max_length: int) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        mask_token=MASK,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
