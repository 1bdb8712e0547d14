"""Next-token loss that computes logits only where something is predicted, a few at a time.

With a vocabulary of 49,152 the logits of 1,024 tokens are 200 MB, and as much again for their
gradients, most of it for prompts that are not supervised. Here the hidden states are chosen
first, and the output matrix is applied to a chunk of them at a time. The gradients are made
in the same pass, so no logits are kept and none are computed twice. The numbers are those of
`losses_lm.causal_lm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sftkit import packed_attention
from sftkit.errors import ParameterError
from sftkit.losses import Loss, cross_entropy, model_inputs
from sftkit.losses_lm import causal_inputs, next_token, supervised, unwrapped

if TYPE_CHECKING:
    from sftkit.batches import Batch

CHUNK = 256  # places at a time
# Of these the logits are the last hidden states times one matrix, with nothing in between.
PLAIN_HEADS = ("llama", "mistral", "qwen2")


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies of ``hidden @ weight.T``, and its gradients, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        chunk: int,
        gradients: bool,
    ) -> torch.Tensor:
        # Sums in at least float32, also where autocast makes the products in bfloat16.
        exact = torch.promote_types(torch.float32, hidden.dtype)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        of_hidden = torch.empty_like(hidden) if gradients and ctx.needs_input_grad[0] else None
        of_weight: torch.Tensor | None = None
        wanted = gradients and ctx.needs_input_grad[1]
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = functional.linear(hidden[part], weight).to(exact)
            right = labels[part].unsqueeze(1)
            log_sum = logits.logsumexp(dim=1, keepdim=True)
            total += (log_sum - logits.gather(1, right)).sum()
            if of_hidden is None and not wanted:
                continue
            # The gradient of the logits: softmax, less 1 at the right token.
            slope = logits.sub_(log_sum).exp_()
            slope.scatter_add_(1, right, torch.full_like(log_sum, -1.0))
            slope = slope.to(hidden.dtype)
            if of_hidden is not None:
                of_hidden[part] = slope @ weight
            if wanted:
                # Of the vocabulary's size: neither filled with zeros nor copied for nothing.
                own = slope.T @ hidden[part]
                # Many sums in bfloat16 would lose what is added last.
                of_weight = own.to(exact) if of_weight is None else of_weight.add_(own)
        if wanted:
            of_weight = torch.zeros_like(weight) if of_weight is None else of_weight
            of_weight = of_weight.to(weight.dtype)
        ctx.save_for_backward(of_hidden, of_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # `fit` takes the gradient of the sum itself. On a GPU, to look would be to wait.
        if upstream.device.type == "cpu" and upstream.item() == 1.0:
            return *ctx.saved_tensors, None, None, None
        scaled = [
            None if part is None else part * upstream.to(part.dtype)
            for part in ctx.saved_tensors
        ]
        return *scaled, None, None, None


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int = CHUNK
) -> torch.Tensor:
    """Sum of the cross-entropies of ``hidden @ weight.T``, in nats.

    Args:
        hidden: ``(N, D)``.
        weight: ``(V, D)``.
        labels: ``(N,)``, all supervised.
        chunk: Rows whose logits exist at one time.
    """
    if chunk < 1:
        raise ParameterError(f"chunk={chunk}.", "It must be at least 1.")
    gradients = torch.is_grad_enabled()
    return _ChunkedCrossEntropy.apply(hidden, weight, labels, chunk, gradients)


def causal_lm(chunk: int | None = CHUNK) -> Loss:
    """`losses_lm.causal_lm` with logits at supervised places only, for `fit`.

    It knows our `Decoder` and transformers' models with a plain output matrix (`PLAIN_HEADS`);
    for all others it does what `losses_lm.causal_lm` does.

    Args:
        chunk: Places whose logits exist at one time. None: all supervised places at once.
    """
    if chunk is not None and chunk < 1:
        raise ParameterError(f"chunk={chunk}.", "It must be at least 1, or None.")

    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, weight = _hidden_and_weight(model, batch)
        if weight is None:
            return cross_entropy(*next_token(hidden, batch["labels"]))
        hidden, labels = next_token(hidden, batch["labels"])
        chosen = supervised(labels)
        hidden, labels = hidden[chosen], labels[chosen]
        if chunk is None:
            return cross_entropy(functional.linear(hidden, weight), labels)
        return linear_cross_entropy(hidden, weight, labels, chunk), chosen.sum()

    return loss


def _hidden_and_weight(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Last hidden states ``(B, T, D)`` and the output matrix; logits and None when unknown."""
    inside: Any = unwrapped(model)
    plain = inside is model and _has_plain_head(inside)
    if plain and "document" in batch and packed_attention.possible(inside):
        inputs = {k: v for k, v in model_inputs(batch).items() if k != "document"}
        with packed_attention.by_document(inside, batch["document"]) as more:
            within: Any = inside.base_model(**inputs | more, use_cache=False)
        return within.last_hidden_state, inside.get_output_embeddings().weight
    inputs = causal_inputs(model, batch)
    if hasattr(inside, "output_weight"):
        # Through the wrapper, so that gradients are exchanged between processes.
        ours: Any = model(**inputs, head=False)
        return ours.hidden, inside.output_weight
    if plain:
        output: Any = inside.base_model(**inputs, use_cache=False)
        return output.last_hidden_state, inside.get_output_embeddings().weight
    output = model(**inputs)
    return output.logits, None


def _has_plain_head(model: Any) -> bool:
    """Whether this is a model of transformers (and no wrapper around one) that we know."""
    if not type(model).__module__.startswith("transformers.models."):
        return False
    head = model.get_output_embeddings()
    plain = type(head) is torch.nn.Linear and head.bias is None  # an adapter adds to it
    return plain and model.config.model_type in PLAIN_HEADS
