"""Our encoder with a tag for each token: softmax or a conditional random field on top."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sftkit.errors import ModelError
from sftkit.models.blocks import Output, check_length, init_weights
from sftkit.models.crf import LinearChainCrf
from sftkit.models.encoder import Encoder, EncoderBody, EncoderConfig
from sftkit.models.own import fill, read_own, save_own

# Neighbours that an n-gram feature looks at, relative to its token.
NGRAMS = ((-2,), (-1,), (0,), (1,), (2,), (-2, -1), (-1, 0), (0, 1), (1, 2), (-1, 1))
SCALE = 6.0  # of the n-gram scores: a rare feature has few steps in which to grow
_MIX = (1_000_003, 8_191, 131)  # odd numbers that spread n-grams over the buckets


@dataclass(frozen=True)
class TaggerConfig:
    """Sizes of a tagger.

    Attributes:
        encoder: Sizes of the encoder below.
        tags: All tags, in the order of the outputs.
        crf: Judge whole sequences; False: each token by itself.
        buckets: Rows of the table of hashed n-grams; 0 leaves them out.
        ngram_dropout: Share of the n-gram features left out in training.
    """

    encoder: EncoderConfig
    tags: tuple[str, ...]
    crf: bool = True
    buckets: int = 0
    ngram_dropout: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.encoder, dict):  # from JSON
            object.__setattr__(self, "encoder", EncoderConfig(**self.encoder))
        object.__setattr__(self, "tags", tuple(self.tags))
        if len(set(self.tags)) != len(self.tags) or len(self.tags) < 2:
            raise ModelError(f"tags={list(self.tags)}.", "Give at least two different ones.")
        if self.buckets < 0 or not 0 <= self.ngram_dropout < 1:
            raise ModelError(
                f"buckets={self.buckets}, ngram_dropout={self.ngram_dropout}.",
                "Give buckets from 0, and a share from 0 to below 1.",
            )


class NgramScores(nn.Module):
    """What single characters and pairs of them, near a token, say about its tag.

    This is the linear part of a classical tagger: a table with a row of tag scores per feature.
    Features share rows where their hashes agree (Weinberger et al. 2009, "Feature Hashing").
    It starts at zero, so that a pretrained encoder begins undisturbed.
    """

    def __init__(self, buckets: int, tags: int, dropout: float) -> None:
        super().__init__()
        self.buckets, self.dropout = buckets, dropout
        self.table = nn.EmbeddingBag(buckets, tags, mode="sum")
        nn.init.zeros_(self.table.weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids ``(B, T)`` to scores ``(B, T, K)``."""
        rows = self.rows(ids)
        weights = torch.ones(rows.shape[0], rows.shape[1], device=ids.device)
        weights = functional.dropout(weights, self.dropout, self.training)
        scores = self.table(rows, per_sample_weights=weights.to(self.table.weight.dtype))
        return SCALE * scores.view(*ids.shape, -1)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """The table rows of each token's features, ``(B * T, features)``."""
        reach = 2
        padded = functional.pad(ids, (reach, reach))
        columns = []
        for salt, offsets in enumerate(NGRAMS):
            mixed = torch.full_like(ids, salt + 1)
            for place, offset in enumerate(offsets):
                first = reach + offset
                mixed = (
                    mixed * _MIX[2]
                    + (1 + padded[:, first : first + ids.shape[1]]) * _MIX[place]
                )
            columns.append(((mixed * 2_654_435_761) % 2**32) * self.buckets // 2**32)
        return torch.stack(columns, dim=2).flatten(0, 1)


class Tagger(nn.Module):
    """An encoder, a linear layer, n-gram scores and a conditional random field (both optional).

    ``model(**inputs).logits`` are the emissions ``(B, T, K)``.
    """

    head_name = "tags"

    def __init__(self, config: TaggerConfig) -> None:
        super().__init__()
        self.config = config
        self.body = EncoderBody(config.encoder).apply(init_weights)
        self.dropout = nn.Dropout(config.encoder.dropout)
        self.head = nn.Linear(config.encoder.width, len(config.tags)).apply(init_weights)
        size = len(config.tags)
        self.ngrams = (
            NgramScores(config.buckets, size, config.ngram_dropout) if config.buckets else None
        )
        self.crf = LinearChainCrf(config.tags) if config.crf else None

    @property
    def base_model(self) -> nn.Module:
        """The part below the head, named as in transformers."""
        return self.body

    @property
    def tags(self) -> list[str]:
        """The names of the outputs."""
        return list(self.config.tags)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> Output:
        """Hidden states ``(B, T, D)`` and emissions ``(B, T, K)`` for ids ``(B, T)``."""
        check_length(input_ids.shape[1], self.config.encoder.max_length)
        hidden = self.body(input_ids, attention_mask, token_type_ids)
        logits = self.head(self.dropout(hidden))
        if self.ngrams is not None:
            logits = logits + self.ngrams(input_ids)
        return Output(hidden, logits)

    def save(self, folder: str | Path, tokenizer: Any = None) -> Path:
        """Write safetensors and JSON, in one piece; `load` reads them."""
        return save_own(self, "tagger", self.config, folder, tokenizer)

    @classmethod
    def load(cls, folder: str | Path) -> Tagger:
        """Read what `save` wrote; the model is in evaluation mode."""
        config, _, tensors = read_own(folder, "tagger", TaggerConfig)
        model = cls(config)
        fill(model, tensors, folder)
        return model.eval()


def tagger_from(encoder: Encoder, tags: list[str], *, seed: int = 0, **options: Any) -> Tagger:
    """A tagger on a copy of an encoder's body.

    Args:
        encoder: Pretrained, or not; training the tagger leaves it as it is.
        tags: Names of the outputs.
        seed: Of the new head's first weights.
        options: Further fields of `TaggerConfig`.
    """
    from dataclasses import replace

    sizes = replace(encoder.config, classes=None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Tagger(TaggerConfig(sizes, tuple(tags), **options))
    model.body = copy.deepcopy(encoder.body)
    return model
