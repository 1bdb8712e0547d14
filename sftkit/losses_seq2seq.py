"""Loss of encoder-decoders, as (sum, count) like all others.

The step from a target to what the decoder is given happens in `teacher_forced`, and nowhere
else: encoders label every place with its own token, models know nothing of labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from sftkit.batches import IGNORE
from sftkit.errors import ParameterError
from sftkit.losses import Loss, cross_entropy, model_inputs
from sftkit.losses_lm import supervised, unwrapped

if TYPE_CHECKING:
    from sftkit.batches import Batch


def teacher_forced(labels: torch.Tensor, begin: int) -> torch.Tensor:
    """What the decoder is given so that place ``t`` predicts ``labels[:, t]``.

    Args:
        labels: ``(B, T)``: the target and its stop token; -100 at the end, where it is padded.
        begin: The decoder's first input.

    Returns:
        ``(B, T)``: ``begin``, then the right tokens ("teacher forcing", Williams and Zipser
        1989) up to the one before the last. In padding it stands for nothing.

    Raises:
        ParameterError: A -100 before a label: nobody knows the token there.
    """
    if (supervised(labels).int().diff(dim=1) > 0).any():
        row = int((supervised(labels).int().diff(dim=1) > 0).any(dim=1).nonzero()[0])
        raise ParameterError(
            f"row {row} of the batch: -100 stands before a label of the target.",
            "Pad targets on the right, and supervise all their tokens.",
        )
    given = torch.full_like(labels, begin)
    given[:, 1:] = labels[:, :-1]
    return given.masked_fill(given == IGNORE, begin)


def begin_of(model: torch.nn.Module) -> int | None:
    """The decoder's first input of an encoder-decoder, ours or transformers'; None: no such
    model."""
    config = getattr(unwrapped(model), "config", None)
    if getattr(config, "is_encoder_decoder", False):
        return config.decoder_start_token_id  # type: ignore[union-attr]
    return getattr(config, "begin", None)


def seq2seq_inputs(model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    """What an encoder-decoder takes from a batch.

    Raises:
        ParameterError: The model is none, or its config has no first input.
    """
    begin = begin_of(model)
    if begin is None:
        raise ParameterError(
            f"{type(unwrapped(model)).__name__} says nothing of a decoder's first token.",
            "Use models.seq2seq.Seq2Seq, or a model of transformers whose config has "
            "decoder_start_token_id.",
        )
    given = teacher_forced(batch["labels"], begin)
    return model_inputs(batch) | {"decoder_input_ids": given}


def sequence_to_sequence(label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy of every token of the target, given the source and the tokens before it.

    Args:
        label_smoothing: Share of each target that is spread evenly over all tokens (Szegedy et
            al. 2016). Evaluate without it: it is no likelihood.
    """
    if not 0 <= label_smoothing < 1:
        raise ParameterError(
            f"label_smoothing={label_smoothing}.", "It must be at least 0 and below 1."
        )

    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, labels = seq2seq_inputs(model, batch), batch["labels"]
        inside = unwrapped(model)
        if not hasattr(inside, "output_weight"):
            output: Any = model(**inputs)
            return cross_entropy(output.logits, labels, label_smoothing=label_smoothing)
        # Ours: no logits for padding.
        chosen = supervised(labels)
        hidden = model(**inputs, head=False).hidden[chosen]
        logits = functional.linear(hidden, inside.output_weight)  # type: ignore[arg-type]
        return cross_entropy(logits, labels[chosen], label_smoothing=label_smoothing)

    return loss
