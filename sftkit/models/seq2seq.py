"""Our own encoder-decoder, shaped as BART (Lewis et al. 2020) on the blocks of notebook 04.

The encoder reads the whole source. The decoder writes the target, one token after another: it
looks back at what it has written and, by cross-attention, at the encoder's output (Vaswani et
al. 2017). One table of embeddings serves both, and the output too (Press and Wolf 2017).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sftkit.errors import ModelError
from sftkit.models.blocks import EncoderBlock, Output, check_sizes, init_weights
from sftkit.models.own import fill, read_config, read_own, read_tensors, save_own
from sftkit.models.seq2seq_blocks import CrossBlock, Kept, Part


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Sizes of an encoder-decoder.

    Attributes:
        vocab: Token ids, V, of sources and targets.
        width: Numbers per token, D; a multiple of ``heads``.
        encoder_layers, decoder_layers: Blocks.
        heads: Attention heads per block.
        feed_forward: Inner width of the feed-forward layers.
        max_length: Positions: the longest source, and the longest target.
        begin: The decoder's first input, before any token of the target.
        stop: The token that ends a target.
        dropout: Share set to zero in training: of embeddings, attention and updates.
    """

    vocab: int
    width: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    feed_forward: int
    max_length: int
    begin: int
    stop: int
    dropout: float = 0.1

    def __post_init__(self) -> None:
        sizes = {f.name: getattr(self, f.name) for f in fields(self)[:7]}
        check_sizes(dropout=self.dropout, **sizes)
        for name, token in (("begin", self.begin), ("stop", self.stop)):
            if not 0 <= token < self.vocab:
                raise ModelError(f"{name}={token} is no id of {self.vocab}.", "Give a token's.")


class Seq2Seq(nn.Module):
    """An encoder-decoder: norms after each sum, learned positions, GELU, tied embeddings."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab, config.width)
        sizes = (config.max_length, config.width, config.heads, config.feed_forward)
        self.encoder = Part(EncoderBlock, config.encoder_layers, *sizes, config.dropout)
        self.decoder = Part(CrossBlock, config.decoder_layers, *sizes, config.dropout)
        self.apply(init_weights)
        self.recompute = False  # see `activation_checkpointing_enable`

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of embeddings, named as in transformers."""
        return self.embeddings

    def vocabulary(self) -> dict[str, tuple[nn.Module, str]]:
        """Where the tensors with a row per token are."""
        return {"input": (self.embeddings, "weight")}

    def activation_checkpointing_enable(self) -> None:
        """Keep only what goes into each block; compute the rest again in the backward pass."""
        self.recompute = True

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        *,
        head: bool = True,
        weights: bool = False,
    ) -> Output:
        """Hidden states and logits of each next token of the target.

        Args:
            input_ids: The source, ``(B, S)``, padded on the right.
            attention_mask: ``(B, S)``, 1 for tokens and 0 for padding; None: all are tokens.
            decoder_input_ids: ``(B, T)``: ``begin`` and the target without its last token
                (see `losses_seq2seq.teacher_forced`), padded on the right.
            head: False computes no logits.
            weights: Give the attention to the source of each block, ``(B, H, T, S)``.

        Raises:
            ModelError: No ``decoder_input_ids``, padding on the left, or more tokens than
                positions.
        """
        if decoder_input_ids is None:
            raise ModelError(
                "an encoder-decoder needs decoder_input_ids.",
                "losses_seq2seq.teacher_forced makes them from labels.",
            )
        kept = self.read(input_ids, attention_mask)
        return self.write(decoder_input_ids, kept, head=head, weights=weights)[0]

    def read(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Kept:
        """Encode the source: what `write` needs of it."""
        if attention_mask is not None and (attention_mask.diff(dim=1) > 0).any():
            raise ModelError(
                "attention_mask has padding before tokens, which moves their positions.",
                "Pad on the right: tokenizer.padding_side = 'right'.",
            )
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        x = self.encoder.start(self.embeddings(input_ids))
        for block in self.encoder.blocks:
            x = self._run(block, x, mask)
        sources: Any = [block.source(x) for block in self.decoder.blocks]  # type: ignore
        return Kept(sources, mask, [])

    def write(
        self,
        decoder_input_ids: torch.Tensor,
        kept: Kept,
        *,
        head: bool = True,
        weights: bool = False,
    ) -> tuple[Output, Kept]:
        """Decode the next T tokens of the target, after those that ``kept`` holds.

        Returns:
            The output for these tokens, and what to give for the tokens after them.
        """
        x = self.decoder.start(self.embeddings(decoder_input_ids), kept.length)
        past, seen = [], []
        for i, block in enumerate(self.decoder.blocks):
            before = kept.past[i] if kept.past else None
            x, pair, looked = self._run(block, x, kept.source[i], kept.mask, before, weights)
            past.append(pair)
            seen.append(looked)
        logits = self.logits(x) if head else None
        output = Output(x, logits, attention=seen if weights else None)
        return output, Kept(kept.source, kept.mask, past)

    def _run(self, part: Any, *inputs: Any) -> Any:
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)

    @property
    def output_weight(self) -> torch.Tensor:
        """The matrix that makes logits of hidden states, ``(V, D)``."""
        return self.embeddings.weight

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """``(..., D)`` to ``(..., V)``."""
        return functional.linear(hidden, self.output_weight)

    def save(self, folder: str | Path, tokenizer: Any = None) -> Path:
        """Write safetensors and JSON, in one piece; `load` reads them."""
        return save_own(self, "seq2seq", self.config, folder, tokenizer)

    @classmethod
    def load(cls, folder: str | Path) -> Seq2Seq:
        """Read what `save` wrote; the model is in evaluation mode."""
        config, _, tensors = read_own(folder, "seq2seq", Seq2SeqConfig)
        return cls._filled(config, tensors, folder)

    @classmethod
    def from_bart(cls, folder: str | Path) -> Seq2Seq:
        """Read the weights of a Hugging Face BART folder; evaluation mode.

        Raises:
            ModelError: When the folder holds something else, such as scaled embeddings.
        """
        folder = Path(folder)
        wanted = {"activation_function": "gelu", "scale_embedding": False}
        theirs = read_config(folder, "bart", wanted)
        inner = {theirs[f"{part}_ffn_dim"] for part in ("encoder", "decoder")}
        heads = {theirs[f"{part}_attention_heads"] for part in ("encoder", "decoder")}
        tensors = read_tensors(folder / "model.safetensors")
        bias = tensors.pop("final_logits_bias", torch.zeros(1))
        if len(inner) > 1 or len(heads) > 1 or bias.any():
            raise ModelError(f"{folder}: unequal halves, or an output bias; ours has neither.")
        config = Seq2SeqConfig(
            vocab=theirs["vocab_size"],
            width=theirs["d_model"],
            encoder_layers=theirs["encoder_layers"],
            decoder_layers=theirs["decoder_layers"],
            heads=heads.pop(),
            feed_forward=inner.pop(),
            max_length=theirs["max_position_embeddings"],
            begin=theirs["decoder_start_token_id"],
            stop=theirs["eos_token_id"],
            dropout=theirs["dropout"],
        )
        return cls._filled(config, _from_bart_names(tensors), folder)

    @classmethod
    def _filled(
        cls, config: Seq2SeqConfig, tensors: dict[str, torch.Tensor], source: str | Path
    ) -> Seq2Seq:
        with torch.device("meta"):  # no time for random weights that are replaced at once
            model = cls(config)
        fill(model, tensors, source)
        return model.eval()


_LONG = {"q": "query", "k": "key", "v": "value"}
_NAMES: list[tuple[str, Any]] = [
    (r"^model\.shared\.", "embeddings."),
    (r"^model\.(encoder|decoder)\.", r"\1."),
    (r"\.embed_positions\.", ".position."),
    (r"\.layernorm_embedding\.", ".norm."),
    (r"\.layers\.", ".blocks."),
    (r"\.self_attn_layer_norm\.", ".attention_norm."),
    (r"\.encoder_attn_layer_norm\.", ".cross_norm."),
    (r"\.final_layer_norm\.", ".feed_forward_norm."),
    (r"\.self_attn\.out_proj\.", ".attention_output."),
    (r"\.encoder_attn\.out_proj\.", ".cross_output."),
    (r"\.self_attn\.([qkv])_proj\.", lambda m: f".{_LONG[m[1]]}."),
    (r"\.encoder_attn\.([qkv])_proj\.", lambda m: f".cross_{_LONG[m[1]]}."),
    (r"\.fc1\.", ".up."),
    (r"\.fc2\.", ".down."),
]


def _from_bart_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        if name == "lm_head.weight" or name.endswith("embed_tokens.weight"):
            continue  # the shared table once more
        for pattern, ours in _NAMES:
            name = re.sub(pattern, ours, name)
        # Their tables of positions begin with two rows that are not used.
        renamed[name] = tensor[2:].clone() if name.endswith("position.weight") else tensor
    return renamed
