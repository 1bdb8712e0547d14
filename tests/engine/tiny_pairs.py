"""A tiny encoder-decoder and pairs that it can learn, made in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sftkit.batches import Examples, Ragged
from sftkit.models.seq2seq import Seq2Seq, Seq2SeqConfig

BEGIN, STOP, VOCAB = 1, 2, 50


def model(seed: int = 0, dropout: float = 0.0, **sizes: Any) -> Seq2Seq:
    torch.manual_seed(seed)
    defaults = dict(
        vocab=VOCAB, width=16, encoder_layers=2, decoder_layers=2, heads=4, feed_forward=32,
        max_length=40, begin=BEGIN, stop=STOP,
    )  # fmt: skip
    made = Seq2Seq(Seq2SeqConfig(**defaults | sizes, dropout=dropout)).double()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)  # large, so that every part matters
    return made


def examples(rows: int = 22, seed: int = 0, low: int = 5, high: int = VOCAB) -> Examples:
    """Sources of random ids; the target is the source backwards, and the stop token."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, 11, rows)
    sources = [generator.integers(low, high, n).tolist() for n in lengths]
    columns = {
        "input_ids": [[*source, STOP] for source in sources],
        "labels": [[*source[::-1][: 2 + i % 9], STOP] for i, source in enumerate(sources)],
    }
    ragged = {
        name: Ragged(np.concatenate(part).astype(np.int32), np.array([len(p) for p in part]))
        for name, part in columns.items()
    }
    return Examples(ragged | {"row": np.arange(rows)})
