"""Texts in, texts out: an encoder-decoder with its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sftkit.errors import ModelError
from sftkit.models.sampling import GREEDY, Sampling
from sftkit.models.seq2seq import Seq2Seq, Seq2SeqConfig
from sftkit.models.seq2seq_generate import Written, beam_search, generate

AT_ONCE = 64  # texts


def build(
    tokenizer: Any,
    *,
    width: int = 128,
    layers: int = 2,
    heads: int = 4,
    max_length: int = 96,
    dropout: float = 0.1,
    seed: int = 0,
) -> Seq2Seq:
    """An encoder-decoder with random weights for a tokenizer of `vocabularies`.

    The weights are drawn wider than `Seq2Seq` does by itself (as BERT does, for large models):
    matrices as in Glorot and Bengio (2010), embeddings with variance 1 / width. With a few
    hundred steps there is no time for narrow ones to grow.

    Args:
        width, heads, max_length, dropout: As in `Seq2SeqConfig`.
        layers: Blocks of the encoder, and of the decoder.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    sizes = {"encoder_layers": layers, "decoder_layers": layers, "feed_forward": 4 * width}
    config = Seq2SeqConfig(
        vocab=len(tokenizer),
        width=width,
        heads=heads,
        max_length=max_length,
        begin=tokenizer.bos_token_id,
        stop=tokenizer.eos_token_id,
        dropout=dropout,
        **sizes,
    )
    model = Seq2Seq(config)
    for name, parameter in model.named_parameters():
        if name == "embeddings.weight" or name.endswith("position.weight"):
            torch.nn.init.normal_(parameter, std=width**-0.5)
        elif parameter.dim() == 2:
            torch.nn.init.xavier_uniform_(parameter)
    return model


def load(folder: str | Path) -> tuple[Seq2Seq, Any]:
    """Model and tokenizer as ``model.save(folder, tokenizer)`` wrote them."""
    from transformers import AutoTokenizer

    return Seq2Seq.load(folder), AutoTokenizer.from_pretrained(str(folder))


def source_batch(
    model: Seq2Seq, tokenizer: Any, texts: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of sources, ``(B, S)`` each: as in `encode_pairs`, padded on the right.

    A source that is too long is cut, and still ends with the end token.

    Raises:
        ModelError: A text is empty.
    """
    _refuse_empty(texts)
    most, end = model.config.max_length, tokenizer.eos_token_id
    coded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    rows = [[*ids[: most - 1], end] for ids in coded]
    longest = max(map(len, rows), default=0)
    device = next(model.parameters()).device
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id, device=device)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, device=device)
        mask[i, : len(row)] = 1
    return ids, mask


def translate(
    model: Seq2Seq,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    beams: int = 1,
    length_penalty: float = 1.0,
    sampling: Sampling = GREEDY,
    generator: torch.Generator | None = None,
    most: int | None = None,
) -> tuple[list[str], list[Written]]:
    """The target of each text, and what was written in tokens.

    Args:
        beams: 1 writes token by token as ``sampling`` says; more search a beam.
        length_penalty: Of the beam.
        sampling, generator: As in `seq2seq_generate.generate`.
        most: Tokens of a target, at most; twice those of the batch's longest source and 10
            unless given, so that a text that never ends costs no more than it must.
    """
    _refuse_empty(texts)
    lengths = [len(text) for text in texts]
    order = sorted(range(len(texts)), key=lengths.__getitem__)  # little padding
    found: list[Written | None] = [None] * len(texts)
    for start in range(0, len(order), AT_ONCE):
        rows = order[start : start + AT_ONCE]
        ids, mask = source_batch(model, tokenizer, [texts[row] for row in rows])
        limit = most or min(2 * ids.shape[1] + 10, model.config.max_length)
        if beams == 1:
            options = {"sampling": sampling, "generator": generator}
            part = generate(model, ids, mask, most=limit, **options)  # type: ignore[arg-type]
        else:
            beam = {"beams": beams, "length_penalty": length_penalty}
            searched = beam_search(model, ids, mask, most=limit, **beam)  # type: ignore[arg-type]
            part = [best[0] for best in searched]
        for row, written in zip(rows, part, strict=True):
            found[row] = written
    whole = [written for written in found if written is not None]
    return [text_of(tokenizer, written.ids) for written in whole], whole


def _refuse_empty(texts: Sequence[str]) -> None:
    if wrong := [i for i, text in enumerate(texts) if not text.strip()]:
        raise ModelError(f"text {wrong[0]} is empty.", "Give texts with words in them.")


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """Tokens as text, without special ones."""
    return tokenizer.decode(list(ids), skip_special_tokens=True).strip()
