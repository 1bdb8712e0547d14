"""Load a model that tags tokens: ours or transformers', pretrained, saved, or from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sftkit import encode_lm
from sftkit.errors import ModelError
from sftkit.files import read_json
from sftkit.models.committed import committed_names, load_committed
from sftkit.models.encoder import Encoder, EncoderConfig
from sftkit.models.export import FORMAT_FILE
from sftkit.models.frozen import set_trainable
from sftkit.models.load import _locate, _readable_errors, quiet_transformers
from sftkit.models.starting import set_dropout, sine_positions
from sftkit.models.tagger import Tagger, tagger_from

SCRATCH = {"width": 128, "layers": 3, "heads": 4, "feed_forward": 512, "dropout": 0.1}
LENGTH = 128  # positions of an encoder from scratch


def load_tagger(
    name_or_path: str,
    names: Sequence[str] | None = None,
    *,
    crf: bool = True,
    buckets: int = 0,
    train: str = "all",
    dropout: float | None = None,
    seed: int = 0,
    pretrained: bool = True,
) -> tuple[torch.nn.Module, Any]:
    """A model for tags and its tokenizer.

    Args:
        name_or_path: Weights of ours that come with the repository (``zh-char-encoder``) or a
            folder of ours; else what transformers can load: a name of the catalogue
            (``minilm``), a folder, or ``hub:OWNER/NAME``.
        names: The tags in order. Leave out to load a tagger that was saved.
        crf, buckets: Of our own encoder only: see `tagger.TaggerConfig`.
        train: What is trained: see `frozen.set_trainable`.
        dropout: Another share in all layers.
        seed: Of the new head, and of everything when ``pretrained`` is False.
        pretrained: False gives the same architecture with random weights.

    Returns:
        ``(model, tokenizer)``. transformers' models save as an ordinary folder with label
        names, which ``pipeline("token-classification")`` loads; ours have ``save``.

    Raises:
        ModelError: There is no such model.
    """
    folder = Path(name_or_path).expanduser()
    if name_or_path in committed_names() or (folder / FORMAT_FILE).is_file():
        if names is None:
            return _saved(folder)
        encoder, tokenizer, _ = load_committed(name_or_path)
        if not isinstance(encoder, Encoder):
            raise ModelError(f"{name_or_path} is no encoder.", "Give one.")
        if not pretrained:
            encoder = new_encoder(encoder.config, seed)
        model: torch.nn.Module = tagger_from(
            encoder, list(names), seed=seed, crf=crf, buckets=buckets
        )
    else:
        model, tokenizer = _transformers(name_or_path, names, seed, pretrained)
        if names is None:
            return model.eval(), tokenizer
    if dropout is not None:
        set_dropout(model, dropout)
    set_trainable(model, train)
    return model, tokenizer


def new_encoder(config: EncoderConfig, seed: int = 0) -> Encoder:
    """Random weights, positions as sines; a tagger from nothing begins with it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return sine_positions(Encoder(config))


def character_model(texts: Sequence[str], seed: int = 0) -> tuple[Encoder, Any]:
    """An encoder of the committed sizes from nothing, and a tokenizer for its texts."""
    from sftkit.corpora.pretraining import characters

    tokenizer = encode_lm.char_tokenizer(characters(texts, at_least=2), LENGTH)
    config = EncoderConfig(vocab=len(tokenizer), max_length=LENGTH, **SCRATCH)  # type: ignore
    return new_encoder(config, seed), tokenizer


def _saved(folder: Path) -> tuple[torch.nn.Module, Any]:
    from transformers import AutoTokenizer

    kind = read_json(folder / FORMAT_FILE).get("kind")
    if kind != "tagger":
        raise ModelError(
            f"{folder} holds a {kind!r}, no tagger.", "Give names= for a new head."
        )
    return Tagger.load(folder), AutoTokenizer.from_pretrained(folder)


def _transformers(
    name: str, names: Sequence[str] | None, seed: int, pretrained: bool
) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

    source, known = _locate(name), {}
    if names is not None:
        if len(set(names)) != len(names) or len(names) < 2:
            raise ModelError(f"names={list(names)}.", "Give at least two different tags.")
        numbers = {tag: i for i, tag in enumerate(names)}
        known = {"id2label": {i: tag for tag, i in numbers.items()}, "label2id": numbers}
    with _readable_errors(name), quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = AutoTokenizer.from_pretrained(source)
        config = AutoConfig.from_pretrained(source, **known)
        if not pretrained:
            return AutoModelForTokenClassification.from_config(config).float(), tokenizer
        model = AutoModelForTokenClassification.from_pretrained(
            source, config=config, dtype=torch.float32
        )
    return model, tokenizer
