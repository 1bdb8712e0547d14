"""Distillation: a small model learns what a large one thinks of every next token.

Hinton, Vinyals and Dean (2015). With the teacher's logits v, the student's z, a temperature
T > 0, ``p = softmax(v / T)`` and ``q = softmax(z / T)``, one supervised place costs

    T**2 * KL(p || q),  with the gradient  T * (q - p)  in z.

KL by itself has the gradient ``(q - p) / T``, and for a high temperature ``q - p`` shrinks as
1 / T as well. The factor T**2 keeps gradients, and so the learning rate, of one size.

Teacher and student must have one vocabulary, id by id. Where they do not, the teacher's
*answers* can be learnt as any text (Kim and Rush 2016, sequence-level distillation); that
needs no loss of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from sftkit.arguments import number
from sftkit.errors import ParameterError
from sftkit.losses import Loss, cross_entropy
from sftkit.losses_lm import causal_inputs, next_token, supervised

if TYPE_CHECKING:
    from sftkit.batches import Batch


def distillation(
    teacher: torch.nn.Module, temperature: float = 2.0, share: float = 1.0
) -> Loss:
    """The loss above at supervised places, for `fit`: ``(sum, number of places)``.

    Args:
        teacher: In evaluation mode, on the student's device. It runs on every batch.
        temperature: T, above 0. The higher, the more the improbable tokens count.
        share: Of this loss, from 0 to 1; the rest is cross-entropy with the labels.
    """
    number("temperature", temperature, above=0)
    number("share", share, least=0)
    if share > 1:
        raise ParameterError(f"share={share}.", "Give from 0 (labels) to 1 (the teacher).")

    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if teacher.training:
            raise ParameterError(
                "the teacher is in training mode.",
                "Call teacher.eval(): its dropout would be noise in what is learnt.",
            )
        with torch.no_grad():
            targets: Any = teacher(**causal_inputs(teacher, batch))
        output: Any = model(**causal_inputs(model, batch))
        logits, labels = next_token(output.logits, batch["labels"])
        wanted, _ = next_token(targets.logits, batch["labels"])
        chosen = supervised(labels)
        loss_sum, n = distillation_loss(logits[chosen], wanted[chosen], temperature)
        if share == 1:
            return loss_sum, n
        return share * loss_sum + (1 - share) * cross_entropy(logits, labels)[0], n

    return loss


def distillation_loss(
    logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(sum of T**2 KL(p || q), N)`` in nats, from the logits of both, each ``(N, V)``.

    Raises:
        ParameterError: The logits have different shapes: there are two vocabularies.
    """
    if logits.shape != teacher_logits.shape:
        raise ParameterError(
            f"the student has {logits.shape[-1]:,} logits a token, the teacher "
            f"{teacher_logits.shape[-1]:,}.",
            "Train on the teacher's answers instead: vocabularies of two kinds cannot be "
            "compared token by token.",
        )
    log_q = (logits / temperature).log_softmax(dim=-1)
    log_p = (teacher_logits / temperature).log_softmax(dim=-1)
    kl = functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return temperature**2 * kl, torch.tensor(len(logits), device=logits.device)
