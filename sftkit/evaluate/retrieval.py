"""Find the right document first: by the encoder's embeddings, or by words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sftkit.batches import Batches, Examples
from sftkit.losses import model_inputs
from sftkit.models.heads import mean_pool


def embed(
    encoder: torch.nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int = 128,
    batch_size: int = 32,
) -> np.ndarray:
    """Mean of the last hidden states, of length 1: ``(N, D)`` (Reimers and Gurevych 2019).

    Args:
        encoder: A transformers encoder without head.
        max_length: Tokens read of each text; the rest is cut.
    """
    ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    examples = Examples.of_tokens(ids, pad_id=tokenizer.pad_token_id)
    out = np.empty((len(ids), encoder.config.hidden_size), dtype=np.float32)  # type: ignore
    encoder.eval()
    with torch.inference_mode():
        for rows in Batches(examples, batch_size, shuffle=False).order(0):
            batch = model_inputs(examples.batch(rows))
            hidden = encoder(**batch).last_hidden_state
            pooled = mean_pool(hidden, batch["attention_mask"])
            out[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
    return out


def word_similarity(queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
    """Cosine of TF-IDF vectors (words and pairs of words), ``(queries, documents)``."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(
        token_pattern=r"[A-Za-z0-9]+", sublinear_tf=True, ngram_range=(1, 2)
    )
    held = vectors.fit_transform(documents)
    return np.asarray((vectors.transform(queries) @ held.T).todense())


def ranks(similarity: np.ndarray, right: Sequence[int]) -> np.ndarray:
    """The place of each query's right document, from 1; ties count against it."""
    own = similarity[np.arange(len(right)), list(right)]
    return (similarity >= own[:, None]).sum(axis=1)


def reciprocal_ranks(first: np.ndarray, second: np.ndarray, k: int = 60) -> np.ndarray:
    """Two rankings as one: the sum of ``1 / (k + rank)`` (Cormack et al. 2009)."""
    places = [(-s).argsort(axis=1).argsort(axis=1) + 1 for s in (first, second)]
    return 1.0 / (k + places[0]) + 1.0 / (k + places[1])
