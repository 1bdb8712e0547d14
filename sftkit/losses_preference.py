"""Preference tuning: make the better of two answers more probable than the worse.

Direct preference optimization (Rafailov et al. 2023). For a prompt x with a chosen answer
``y_w`` and a rejected one ``y_l``, a model pi, and the model ref that it started from:

    margin = (log pi(y_w|x) - log ref(y_w|x)) - (log pi(y_l|x) - log ref(y_l|x))
    loss   = -log sigmoid(beta * margin)

The log-probabilities of ref never change, so they are computed once (`with_reference`) and lie
in the examples. A pair is one example with these columns:

=================== =====================================================
column              content
=================== =====================================================
input_ids, labels   prompt and chosen answer; only the answer has labels
rejected_ids        prompt and rejected answer
rejected_labels     likewise
reference_chosen    ``log ref(y_w|x)``, after `with_reference`
reference_rejected  ``log ref(y_l|x)``
=================== =====================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from sftkit.batches import Batches, Examples
from sftkit.encode_chat import Conversation, conversations, padding_id, weight_of
from sftkit.errors import EncodeError, ParameterError
from sftkit.losses import Loss
from sftkit.losses_lm import next_token, supervised
from sftkit.modes import evaluated

if TYPE_CHECKING:
    from sftkit.batches import Batch


def answer_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probability of each row's supervised tokens, summed: ``(B, T, V)`` to ``(B,)``."""
    logits, labels = next_token(logits, labels)
    # A sum of logarithms in bfloat16 would be off by whole steps of 1.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = supervised(labels)
    right = labels.masked_fill(~chosen, 0).unsqueeze(-1)
    log_p = logits.log_softmax(dim=-1).gather(-1, right).squeeze(-1)
    return (log_p * chosen).sum(dim=1)


def dpo(beta: float = 0.1) -> Loss:
    """The loss above, for `fit`: ``(sum over pairs, number of pairs)``.

    Args:
        beta: How fast the loss forgets a pair whose margin grows; also how closely the model
            is held to the one it started from.
    """
    if not beta > 0:
        raise ParameterError(f"beta={beta}.", "It must be above 0; 0.1 is usual.")

    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if "reference_chosen" not in batch:
            raise ParameterError(
                "the pairs have no log-probabilities of the first model.",
                "Call losses_preference.with_reference before training.",
            )
        ours = margins(model, batch)
        reference = batch["reference_chosen"] - batch["reference_rejected"]
        return dpo_loss(ours, reference.to(ours), beta)

    return loss


def dpo_loss(
    ours: torch.Tensor, reference: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(sum, count)`` from ``log pi(y_w) - log pi(y_l)`` of both models, each ``(B,)``."""
    loss_sum = -functional.logsigmoid(beta * (ours - reference)).sum()
    return loss_sum, torch.tensor(len(ours), device=ours.device)


def margins(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """``log pi(y_w|x) - log pi(y_l|x)`` of each pair, ``(B,)``."""
    chosen, rejected = both(model, batch)
    return chosen - rejected


def both(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the chosen and of the rejected answers, each ``(B,)``."""
    # A token never looks ahead, so padding on the right needs no mask.
    found = []
    for ids, labels in (("input_ids", "labels"), ("rejected_ids", "rejected_labels")):
        output: Any = model(input_ids=batch[ids])
        found.append(answer_log_probs(output.logits, batch[labels]))
    return found[0], found[1]


def pairs(
    chosen: Sequence[Conversation],
    rejected: Sequence[Conversation],
    tokenizer: Any,
    max_length: int = 1024,
) -> Examples:
    """Encode pairs of conversations that differ in their last answer only.

    Raises:
        EncodeError: The lists have different lengths, a pair has two prompts or does not end
            in an answer that counts, or an answer does not fit in whole: half an answer is no
            answer to compare.
    """
    if len(chosen) != len(rejected):
        raise EncodeError(
            f"{len(chosen)} chosen and {len(rejected)} rejected.", "Give as many of each."
        )
    for row, (one, other) in enumerate(zip(chosen, rejected, strict=True)):
        if list(one[:-1]) != list(other[:-1]):
            raise EncodeError(
                f"pair {row} has two different prompts.", "Only the last answer may differ."
            )
        for which, talk in (("chosen", one), ("rejected", other)):
            last = talk[-1] if talk else {}
            if last.get("role") != "assistant" or weight_of(last) == 0:
                raise EncodeError(
                    f"pair {row}, {which}: the last turn is no answer that counts.",
                    "Both must end in an assistant's turn without weight 0.",
                )
    columns: dict[str, Any] = {}
    names = (("input_ids", "labels"), ("rejected_ids", "rejected_labels"))
    for (ids, labels), side in zip(names, (chosen, rejected), strict=True):
        data, coverage = conversations(side, tokenizer, max_length, learn="last")
        if coverage.cut:
            raise EncodeError(f"{coverage}", f"Give a max_length above {max_length}.")
        examples = Examples.of(data, padding_id(tokenizer))
        columns[ids], columns[labels] = (
            examples.columns["input_ids"],
            examples.columns["labels"],
        )
    columns["row"] = np.arange(len(chosen))
    return Examples(columns, padding_id(tokenizer))


def with_reference(model: torch.nn.Module, examples: Examples, batch_size: int = 8) -> Examples:
    """The pairs with the log-probabilities that ``model`` gives them now.

    Call it before training; the model is put in evaluation mode and back.
    """
    device = next(model.parameters()).device
    found: dict[str, list[torch.Tensor]] = {"reference_chosen": [], "reference_rejected": []}
    with evaluated(model), torch.no_grad():
        for step in Batches(examples, batch_size, shuffle=False, by_length=False).epoch(0):
            for batch in step:
                batch = {name: value.to(device) for name, value in batch.items()}
                for name, values in zip(found, both(model, batch), strict=True):
                    found[name].append(values.cpu())
    more = {name: torch.cat(parts).numpy() for name, parts in found.items()}
    return Examples(examples.columns | more, examples.pad_id)
