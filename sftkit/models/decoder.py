"""Our own decoder, shaped as Llama (Touvron et al. 2023); notebook 04 derives it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sftkit.errors import ModelError
from sftkit.models.blocks import (
    INIT_STD,
    DecoderBlock,
    Output,
    Pair,
    RMSNorm,
    check_length,
    check_sizes,
    init_weights,
    restarting_positions,
    rotary_tables,
)
from sftkit.models.own import fill, read_config, read_own, read_tensors, save_own
from sftkit.packed_attention import document_lengths


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder.

    Attributes:
        vocab: Token ids, V.
        width: Numbers per token, D; ``heads`` times an even number.
        layers: Blocks.
        heads: Query heads per block.
        kv_heads: Heads of keys and values; divides ``heads`` (Ainslie et al. 2023, GQA).
        feed_forward: Inner width of the feed-forward layers.
        max_length: The longest T.
        rope_base: Base of the rotary angles.
        eps: Inside the square root of the norms.
        tied: Whether the output matrix is the table of embeddings.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    max_length: int
    rope_base: float = 10_000.0
    eps: float = 1e-5
    tied: bool = True

    def __post_init__(self) -> None:
        names = ("vocab", "width", "layers", "heads", "kv_heads", "feed_forward", "max_length")
        check_sizes(**{name: getattr(self, name) for name in names})
        if self.width // self.heads % 2:
            raise ModelError(
                f"width={self.width} and heads={self.heads}: a head must have an even width.",
                "Give a width that is a multiple of twice the heads.",
            )
        if self.heads % self.kv_heads:
            raise ModelError(
                f"heads={self.heads} cannot share kv_heads={self.kv_heads} evenly.",
                "Give a number of kv_heads that divides the heads.",
            )


class Decoder(nn.Module):
    """A Llama-shaped decoder: norms before each part, rotary positions, gated layers."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab, config.width)
        sizes = (config.width, config.heads, config.kv_heads, config.feed_forward, config.eps)
        self.blocks = nn.ModuleList(DecoderBlock(*sizes) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.eps)
        self.output = None if config.tied else nn.Linear(config.width, config.vocab, bias=False)
        self.apply(init_weights)
        # Two sums per block: smaller updates keep the sum's variance (Radford et al. 2019).
        for block in self.blocks:
            for layer in (block.attention_output, block.down):  # type: ignore[union-attr]
                nn.init.normal_(layer.weight, std=INIT_STD / (2 * config.layers) ** 0.5)  # type: ignore

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of embeddings, named as in transformers."""
        return self.embeddings

    def vocabulary(self) -> dict[str, tuple[nn.Module, str]]:
        """Where the tensors with a row per token are."""
        output = {} if self.output is None else {"output": (self.output, "weight")}
        return {"input": (self.embeddings, "weight"), **output}

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: list[Pair] | None = None,
        keep: bool = False,
        *,
        document: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        head: bool = True,
    ) -> Output:
        """Hidden states and the logits of each next token, ``(B, T, V)``.

        Args:
            input_ids: ``(B, T)``, padded on the right.
            attention_mask: ``(B, T)``. Only checked: a token never looks ahead, so padding
                on the right cannot reach it. What is computed for padding means nothing.
            cache: What an earlier call kept, for the tokens before these.
            keep: Return keys and values as ``cache``.
            document: ``(B, T)``: a run of equal ids is a document, and sees nothing outside
                itself (see `packing`). Padding is a run too, so it may stand anywhere.
            position_ids: ``(B, T)``; from 0 in each row, or in each document, unless given.
            head: False computes no logits.

        Raises:
            ModelError: When there are more tokens than positions, or padding on the left
                without ``document``.
        """
        past = cache[0][0].shape[2] if cache else 0
        if document is not None and past:
            raise ModelError("packed documents cannot go on from a cache.")
        lengths = None if document is None else document_lengths(document)
        positions = self._positions(past, input_ids, document, position_ids)
        left = attention_mask is not None and (attention_mask.diff(dim=1) > 0).any()
        if left and document is None:
            raise ModelError(
                "attention_mask has padding before tokens.",
                "Pad on the right: tokenizer.padding_side = 'right'.",
            )
        width = self.config.width // self.config.heads
        tables = rotary_tables(positions, width, self.config.rope_base)
        x, kept = self.embeddings(input_ids), []
        for i, block in enumerate(self.blocks):
            x, pair = block(x, tables, cache[i] if cache else None, lengths)
            if keep:
                kept.append(pair)
        hidden = self.norm(x)
        return Output(hidden, self.logits(hidden) if head else None, kept if keep else None)

    takes_documents = True  # see `forward`; `losses_lm.causal_inputs` asks
    reads_directly = ("output",)  # layers whose weight is read; `lora.add` refuses them

    def _positions(
        self,
        past: int,
        input_ids: torch.Tensor,
        document: torch.Tensor | None,
        position_ids: torch.Tensor | None,
    ) -> torch.Tensor:
        """``(T,)``, or ``(B, 1, T)`` for all heads where rows differ."""
        tokens, most = input_ids.shape[1], self.config.max_length
        if position_ids is None and document is None:
            check_length(past + tokens, most)
            return torch.arange(past, past + tokens, device=input_ids.device)
        if position_ids is None:
            position_ids = restarting_positions(document)  # type: ignore[arg-type]
        check_length(int(position_ids.max()) + 1 if position_ids.numel() else 0, most)
        return position_ids.unsqueeze(1)

    @property
    def output_weight(self) -> torch.Tensor:
        """The matrix that makes logits of hidden states, ``(V, D)``."""
        return self.embeddings.weight if self.output is None else self.output.weight

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """``(..., D)`` to ``(..., V)``."""
        return functional.linear(hidden, self.output_weight)

    def save(self, folder: str | Path, tokenizer: Any = None) -> Path:
        """Write safetensors and JSON, in one piece; `load` reads them."""
        return save_own(self, "decoder", self.config, folder, tokenizer)

    @classmethod
    def load(cls, folder: str | Path) -> Decoder:
        """Read what `save` wrote; the model is in evaluation mode."""
        config, _, tensors = read_own(folder, "decoder", DecoderConfig)
        return cls._filled(config, tensors, folder)

    @classmethod
    def from_llama(cls, folder: str | Path) -> Decoder:
        """Read the weights of a Hugging Face Llama folder; evaluation mode.

        Args:
            folder: With ``config.json`` and ``model.safetensors``.

        Raises:
            ModelError: When the folder holds something else, such as scaled positions.
        """
        folder = Path(folder)
        wanted = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
        theirs = read_config(folder, "llama", wanted)
        rope = theirs.get("rope_parameters") or {}
        if rope.get("rope_type", "default") != "default" or theirs.get("rope_scaling"):
            raise ModelError(f"{folder} scales its rotary positions; ours does not.")
        heads = theirs["num_attention_heads"]
        head = theirs.get("head_dim") or theirs["hidden_size"] // heads
        if head * heads != theirs["hidden_size"]:
            raise ModelError(f"{folder} has heads of width {head}; ours have width / heads.")
        config = DecoderConfig(
            vocab=theirs["vocab_size"],
            width=theirs["hidden_size"],
            layers=theirs["num_hidden_layers"],
            heads=heads,
            kv_heads=theirs.get("num_key_value_heads") or heads,
            feed_forward=theirs["intermediate_size"],
            max_length=theirs["max_position_embeddings"],
            rope_base=float(rope.get("rope_theta") or theirs.get("rope_theta", 10_000.0)),
            eps=theirs["rms_norm_eps"],
            tied=theirs["tie_word_embeddings"],
        )
        tensors = read_tensors(folder / "model.safetensors")
        renamed = {_from_llama_name(name): t for name, t in tensors.items()}
        if config.tied:
            renamed.pop("output.weight", None)  # the same table once more
        return cls._filled(config, renamed, folder)

    @classmethod
    def _filled(
        cls, config: DecoderConfig, tensors: dict[str, torch.Tensor], source: str | Path
    ) -> Decoder:
        with torch.device("meta"):  # no time for random weights that are replaced at once
            model = cls(config)
        fill(model, tensors, source)
        return model.eval()


_NAMES = [
    (r"^model\.embed_tokens\.", "embeddings."),
    (r"^model\.layers\.", "blocks."),
    (r"^model\.norm\.", "norm."),
    (r"^lm_head\.", "output."),
    (r"\.input_layernorm\.", ".attention_norm."),
    (r"\.post_attention_layernorm\.", ".feed_forward_norm."),
    (r"\.self_attn\.q_proj\.", ".query."),
    (r"\.self_attn\.k_proj\.", ".key."),
    (r"\.self_attn\.v_proj\.", ".value."),
    (r"\.self_attn\.o_proj\.", ".attention_output."),
    (r"\.mlp\.(gate|up|down)_proj\.", r".\1."),
]


def _from_llama_name(name: str) -> str:
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    return name
