"""Our own encoder, shaped as BERT (Devlin et al. 2019); notebook 04 derives it."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sftkit.errors import ModelError
from sftkit.models.blocks import (
    EncoderBlock,
    Output,
    check_length,
    check_sizes,
    init_weights,
)
from sftkit.models.heads import mean_pool
from sftkit.models.own import fill, read_config, read_own, read_tensors, save_own

EPS = 1e-12  # inside the square root of the norms, as in BERT
HEADS = ("mlm", "classes")


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder.

    Attributes:
        vocab: Token ids, V.
        width: Numbers per token, D; a multiple of ``heads``.
        layers: Blocks.
        heads: Attention heads per block.
        feed_forward: Inner width of the feed-forward layers.
        max_length: Positions, the longest T.
        dropout: Share set to zero in training: of embeddings, attention and updates.
        types: Kinds of segment (first and second text of a pair).
        classes: Outputs of the head "classes".
    """

    vocab: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    max_length: int
    dropout: float = 0.1
    types: int = 2
    classes: int | None = None

    def __post_init__(self) -> None:
        check_sizes(**{name: value for name, value in vars(self).items() if value is not None})


class Embeddings(nn.Module):
    """Word, position and segment, added and normed."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab, config.width)
        self.position = nn.Embedding(config.max_length, config.width)
        self.segment = nn.Embedding(config.types, config.width)
        self.norm = nn.LayerNorm(config.width, EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
        kind = self.segment.weight[0] if types is None else self.segment(types)
        x = self.word(ids) + self.position.weight[: ids.shape[1]] + kind
        return self.dropout(self.norm(x))


class EncoderBody(nn.Module):
    """Embeddings and blocks: ids ``(B, T)`` to hidden states ``(B, T, D)``."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        sizes = (config.width, config.heads, config.feed_forward, config.dropout, EPS)
        self.blocks = nn.ModuleList(EncoderBlock(*sizes) for _ in range(config.layers))

    def forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None = None,
        types: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x = self.embeddings(ids, types)
        # Every token may look at every real token: (B, 1, 1, T) for all heads and queries.
        allowed = None if mask is None else mask.bool()[:, None, None, :]
        for block in self.blocks:
            x = block(x, allowed)
        return x

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of word embeddings, named as in transformers."""
        return self.embeddings.word


class MlmHead(nn.Module):
    """Which token is hidden here? The output matrix is the table of word embeddings."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, EPS)
        self.bias = nn.Parameter(torch.zeros(config.vocab))

    def forward(self, hidden: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """``(B, T, D)`` and the table ``(V, D)`` give ``(B, T, V)``."""
        hidden = self.norm(functional.gelu(self.dense(hidden)))
        return functional.linear(hidden, table, self.bias)


class Encoder(nn.Module):
    """A BERT-shaped encoder: norms after each sum, learned positions, GELU.

    Args:
        config: The sizes.
        head: ``None``; ``"mlm"`` (logits of all tokens, ``(B, T, V)``); or ``"classes"``
            (logits ``(B, C)`` from the mean over real tokens).
    """

    def __init__(self, config: EncoderConfig, head: str | None = None) -> None:
        super().__init__()
        self.config, self.head_name = config, head
        self.body = EncoderBody(config).apply(init_weights)
        self.head = _new_head(config, head)
        self.dropout = nn.Dropout(config.dropout)

    takes_places = True  # see `forward`; `losses_lm.masked_lm` asks

    @property
    def base_model(self) -> nn.Module:
        """The part below the head, named as in transformers."""
        return self.body

    def vocabulary(self) -> dict[str, tuple[nn.Module, str]]:
        """Where the tensors with a row per token are."""
        bias = {"bias": (self.head, "bias")} if self.head_name == "mlm" else {}
        return {"input": (self.body.embeddings.word, "weight"), **bias}

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> Output:
        """Hidden states, and logits when there is a head.

        Args:
            input_ids: ``(B, T)``.
            attention_mask: ``(B, T)``, 1 for tokens and 0 for padding; None: all are tokens.
            token_type_ids: ``(B, T)``; None: all 0.
            places: ``(B, T)``, bool: the head "mlm" gives logits for these tokens only,
                ``(n, V)``; None: for all.

        Raises:
            ModelError: When T is larger than ``max_length``.
        """
        check_length(input_ids.shape[1], self.config.max_length)
        hidden = self.body(input_ids, attention_mask, token_type_ids)
        if self.head_name == "mlm":
            chosen = hidden if places is None else hidden[places]
            return Output(hidden, self.head(chosen, self.body.embeddings.word.weight))
        if self.head_name == "classes":
            pooled = mean_pool(hidden, attention_mask)
            return Output(hidden, self.head(self.dropout(pooled)))
        return Output(hidden)

    def save(self, folder: str | Path, tokenizer: Any = None) -> Path:
        """Write safetensors and JSON, in one piece; `load` reads them."""
        return save_own(self, "encoder", self.config, folder, tokenizer)

    @classmethod
    def load(cls, folder: str | Path) -> Encoder:
        """Read what `save` wrote; the model is in evaluation mode."""
        config, head, tensors = read_own(folder, "encoder", EncoderConfig)
        model = cls(config, head)
        fill(model, tensors, folder)
        return model.eval()

    @classmethod
    def from_bert(cls, folder: str | Path, head: str | None = None) -> Encoder:
        """Read the weights of a Hugging Face BERT folder; evaluation mode.

        Args:
            folder: With ``config.json`` and ``model.safetensors``.
            head: ``None``, or ``"mlm"`` where the file has a masked-language-model head. For
                classes use `with_head` on the result.

        Raises:
            ModelError: When the folder holds something else.
        """
        folder = Path(folder)
        if head not in (None, "mlm"):
            raise ModelError(f"head={head!r}.", "Use with_head(model, 'classes', classes=...).")
        wanted = {"hidden_act": "gelu", "position_embedding_type": "absolute"}
        theirs = read_config(folder, "bert", wanted | {"layer_norm_eps": EPS})
        config = EncoderConfig(
            vocab=theirs["vocab_size"],
            width=theirs["hidden_size"],
            layers=theirs["num_hidden_layers"],
            heads=theirs["num_attention_heads"],
            feed_forward=theirs["intermediate_size"],
            max_length=theirs["max_position_embeddings"],
            dropout=theirs["hidden_dropout_prob"],
            types=theirs["type_vocab_size"],
        )
        tensors = _from_bert_names(read_tensors(folder / "model.safetensors"))
        if head is None:
            tensors = {n: t for n, t in tensors.items() if not n.startswith("head.")}
        with torch.device("meta"):  # no time for random weights that are replaced at once
            model = cls(config, head)
        fill(model, tensors, folder)
        return model.eval()


def with_head(
    model: Encoder, head: str | None, classes: int | None = None, seed: int = 0
) -> Encoder:
    """The same body under another head.

    The body is a copy: training the new model leaves ``model`` as it is. The new head is
    random, drawn from ``seed``.

    Args:
        head: ``None``, ``"mlm"`` or ``"classes"``.
        classes: How many, for the head "classes".
    """
    config = replace(model.config, classes=classes)
    with torch.device("meta"):  # all of it is replaced below
        new = Encoder(config)
    new.body, new.head_name = copy.deepcopy(model.body), head
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        new.head = _new_head(config, head)
    if head is not None:
        new.head.to(model.body.embeddings.word.weight)
    return new.train(model.training)


def _new_head(config: EncoderConfig, head: str | None) -> Any:
    if head is None:
        return None
    if head == "mlm":
        return MlmHead(config).apply(init_weights)
    if head != "classes":
        raise ModelError(f"head={head!r}.", f"There are None, {' and '.join(HEADS)}.")
    if config.classes is None:
        raise ModelError('head="classes" without a number of classes.', "Give classes=2, say.")
    return nn.Linear(config.width, config.classes).apply(init_weights)


# Our names for BERT's, in the order in which they are tried.
_NAMES = [
    (r"^bert\.", ""),
    (r"\.gamma$", ".weight"),  # very old files
    (r"\.beta$", ".bias"),
    (r"^embeddings\.(word|position)_embeddings\.", r"body.embeddings.\1."),
    (r"^embeddings\.token_type_embeddings\.", "body.embeddings.segment."),
    (r"^embeddings\.LayerNorm\.", "body.embeddings.norm."),
    (r"^encoder\.layer\.", "body.blocks."),
    (r"\.attention\.self\.(query|key|value)\.", r".\1."),
    (r"\.attention\.output\.dense\.", ".attention_output."),
    (r"\.attention\.output\.LayerNorm\.", ".attention_norm."),
    (r"\.intermediate\.dense\.", ".up."),
    (r"\.output\.dense\.", ".down."),
    (r"\.output\.LayerNorm\.", ".feed_forward_norm."),
    (r"^cls\.predictions\.transform\.dense\.", "head.dense."),
    (r"^cls\.predictions\.transform\.LayerNorm\.", "head.norm."),
    (r"^cls\.predictions\.bias$", "head.bias"),
]
_UNUSED = re.compile(
    r"^(bert\.)?(embeddings\.position_ids$|pooler\.)|^cls\.(seq_relationship|predictions\.decoder)"
)


def _from_bert_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        if _UNUSED.match(name):
            continue
        for pattern, ours in _NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = tensor
    return renamed
