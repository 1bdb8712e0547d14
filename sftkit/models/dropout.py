"""Dropout whose random numbers cost a sixth: the same mathematics, other random draws.

On CPU, torch draws a whole random number per element, in one thread: about 7 ns each, which
is a tenth of the time of fine-tuning a small encoder on two cores. Whether an element is
dropped needs far less: here 16 random bits decide, four elements per draw, at about 1 ns.

The rate is rounded to a multiple of 1/65,536 (0.1 becomes 0.100006), and kept elements are
scaled by the rounded rate, so that the expectation is exact. The bits come from torch's own
generator, so seeds and checkpoints work as before.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LEVELS = 1 << 16  # of a 16-bit number
LOWEST = torch.iinfo(torch.int64).min


def keep_mask(shape: torch.Size, p: float) -> torch.Tensor:
    """Zeros with probability ``p``, otherwise ``1 / (1 - p)``; float32 on the CPU."""
    dropped = round(p * LEVELS)
    count = math.prod(shape)
    # From the lowest number on and without an end: all 64 bits are random, the sign too.
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(LOWEST, None)
    bits = draws.view(torch.int16)[:count].view(shape)
    mask = torch.empty(shape, dtype=torch.float32)
    torch.ge(bits, dropped - LEVELS // 2, out=mask)
    return mask.mul_(LEVELS / (LEVELS - dropped))


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """``x`` times a fresh `keep_mask`, for 0 < p < 1."""
    return x * keep_mask(x.shape, p).to(x.dtype)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    p: float,
    scale: float | None,
) -> torch.Tensor:
    """Softmax attention with dropout on its weights: ``(B, H, T, D)`` each.

    Args:
        mask: Bool (True takes part) or additive, broadcast to ``(B, H, T, S)``.
        scale: Of the scores; ``1 / sqrt(D)`` when None.
    """
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    if mask is not None and mask.dtype == torch.bool:
        # Finite, so that a row with nothing to attend to (padding) gives no NaN.
        scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores += mask
    return dropout(scores.softmax(dim=-1), p) @ value


def computed_again() -> bool:
    """Whether this forward pass is one that the backward pass repeats.

    Checkpointing of both kinds shows: the one keeps no graph, the other replaces what is
    saved for the backward pass.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None or not torch.is_grad_enabled()


class CheapDropout(TorchFunctionMode):
    """While active, dropout on the CPU, also inside attention, draws 16 bits per element.

    Works for any model without changing it. What it does not know (another device, in
    place, causal or grouped attention) goes to torch unchanged. So does what will be computed
    once more in the backward pass (activation checkpointing): there the mode is not active,
    and torch would draw other numbers than were drawn here.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.dropout:
            return self._dropout(*args, **kwargs)
        if function is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        return function(*args, **kwargs)

    @staticmethod
    def _dropout(
        input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        plain = training and not inplace and not computed_again()
        if plain and input.device.type == "cpu" and 0 < p < 1:
            return dropout(input, p)
        return functional.dropout(input, p, training, inplace)

    @staticmethod
    def _attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **more: Any,
    ) -> torch.Tensor:
        plain = not is_causal and not any(more.values()) and not computed_again()
        if plain and query.device.type == "cpu" and 0 < dropout_p < 1:
            return attention(query, key, value, attn_mask, dropout_p, scale)
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more
        )
