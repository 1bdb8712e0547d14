"""Tiny real models and data for tests of the engine: made in milliseconds, no download."""

from __future__ import annotations

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from sftkit.batches import Examples, Ragged
from sftkit.models import MeanPoolClassifier

CLASSES = 3


def config(dropout: float = 0.0, layers: int = 2) -> BertConfig:
    return BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=CLASSES,
    )


def model(head: str = "mean", dropout: float = 0.0, layers: int = 2, seed: int = 0):
    torch.manual_seed(seed)
    if head == "first":
        return BertForSequenceClassification(config(dropout, layers))
    encoder = BertModel(config(dropout, layers), add_pooling_layer=False)
    return MeanPoolClassifier(encoder, dropout)


def examples(rows: int = 24, seed: int = 0, per_token: bool = False) -> Examples:
    """Random ids whose class can be learnt: it is the first id modulo the classes."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, 13, rows)
    ids = generator.integers(5, 50, lengths.sum()).astype(np.int32)
    ragged = Ragged(ids, lengths)
    first = ids[ragged.starts[:-1]]
    labels = Ragged(ids % CLASSES, lengths) if per_token else (first % CLASSES).astype(np.int64)
    return Examples({"input_ids": ragged, "labels": labels, "row": np.arange(rows)})
