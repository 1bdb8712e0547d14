"""Let a decoder go on with a text, one token at a time."""

from __future__ import annotations

import torch

from sftkit.arguments import whole
from sftkit.errors import ModelError
from sftkit.models.decoder import Decoder
from sftkit.models.sampling import Sampling, choose


@torch.inference_mode()
def generate(
    model: Decoder,
    ids: torch.Tensor,
    steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    stop: int | None = None,
) -> torch.Tensor:
    """Sample the next tokens.

    Keys and values of earlier tokens are kept, so a step costs one token. When the model's
    positions are used up, it goes on from the later half of what it has written.

    Args:
        ids: ``(B, T)``: prompts of one length, without padding, T at least 1.
        steps: Tokens to add, at most.
        temperature: Logits are divided by it; 0 takes the most probable token.
        top_k: Sample among the k most probable tokens only.
        generator: Of the random numbers.
        stop: End when every row has produced this id; rows that are done repeat it.

    Returns:
        ``(B, T + new tokens)``.
    """
    if ids.dim() != 2 or ids.shape[1] == 0:
        raise ModelError(
            f"ids has the shape {tuple(ids.shape)}.", "Give (rows, tokens), at least one token."
        )
    if ids.is_floating_point() or ids.min() < 0 or ids.max() >= model.config.vocab:
        raise ModelError(
            f"ids run from {ids.min().item()} to {ids.max().item()}, {ids.dtype}.",
            f"Give whole numbers from 0 to {model.config.vocab - 1}: the tokenizer's ids.",
        )
    whole("steps", steps, least=0)
    sampling = Sampling(temperature, top_k)
    training, most = model.training, model.config.max_length
    model.eval()
    try:
        done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        cache, fresh = None, ids[:, -most:]
        for _ in range(steps):
            if cache and cache[0][0].shape[2] + fresh.shape[1] > most:
                cache, fresh = None, ids[:, -max(1, most // 2) :]
            output = model(fresh, cache=cache, keep=True)
            assert output.logits is not None
            cache = output.cache
            fresh = choose(output.logits[:, -1], sampling, None, generator)
            if stop is not None:
                fresh = fresh.masked_fill(done[:, None], stop)
                done |= fresh[:, 0] == stop
            ids = torch.cat([ids, fresh], dim=1)
            if stop is not None and bool(done.all()):
                break
    finally:
        model.train(training)
    return ids
