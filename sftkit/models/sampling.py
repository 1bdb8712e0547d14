"""From logits to text: which token comes next, for many prompts at once.

The four changes of logits are those of transformers (`LogitsProcessor`), in its order: a
penalty on what was said already, temperature, the k most probable, and the most probable that
together hold the share p.

Prompts of different length are padded on the **left**, so that all rows go on at the same
place. Padding is masked and positions count from each row's first token; without both, a
prompt's continuation would depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sftkit.errors import ModelError, ParameterError
from sftkit.modes import evaluated


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: Logits are divided by it; 0 takes the most probable token.
        top_k: Draw among the k most probable tokens only.
        top_p: Draw among the fewest tokens that together have this probability (Holtzman et
            al. 2020, nucleus sampling).
        repetition_penalty: Above 1 makes tokens that are there already less probable (Keskar
            et al. 2019, CTRL).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or (self.top_k is not None and self.top_k < 1):
            raise ParameterError(
                f"temperature={self.temperature}, top_k={self.top_k}.",
                "temperature must be at least 0, and top_k at least 1.",
            )
        if (
            self.top_p is not None
            and not 0 < self.top_p <= 1
            or not self.repetition_penalty > 0
        ):
            raise ParameterError(
                f"top_p={self.top_p}, repetition_penalty={self.repetition_penalty}.",
                "top_p must be above 0 and at most 1, and the penalty above 0.",
            )


GREEDY = Sampling()


@dataclass(frozen=True)
class Continuation:
    """What a model wrote: token ids without the stop token, and whether it stopped."""

    ids: list[int]
    stopped: bool


def penalize(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Divide positive and multiply negative logits of ``seen (B, V)`` tokens."""
    punished = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, punished, logits)


def keep_top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """-inf outside the k largest logits of each row; equal ones at the border all stay."""
    lowest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < lowest, -torch.inf)


def keep_top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """-inf outside the fewest most probable tokens that together have probability p."""
    ordered, place = logits.sort(dim=-1, descending=False)
    # From the least probable on: what may go is at most 1 - p. The most probable stays.
    gone = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    gone[..., -1] = False
    return logits.masked_fill(gone.scatter(-1, place, gone), -torch.inf)


def processed(
    logits: torch.Tensor, sampling: Sampling, seen: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits ``(B, V)`` after all changes that are asked for.

    ``seen (B, V)`` says which tokens are there already; only the penalty needs it.
    """
    if sampling.repetition_penalty != 1:
        assert seen is not None
        logits = penalize(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    return logits


def choose(
    logits: torch.Tensor,
    sampling: Sampling,
    seen: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """One token per row: ``(B, V)`` to ``(B, 1)``."""
    logits = processed(logits, sampling, seen)
    if sampling.temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)


def pad_left(
    prompts: Sequence[Sequence[int]], pad_id: int, device: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask ``(B, T)``; every row ends at the last place."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id, device=device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt), device=device)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """``(B, T)``: 0 at each row's first token; padding has 0 as well."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def stream(
    model: Any,
    prompts: Sequence[Sequence[int]],
    most: int,
    sampling: Sampling = GREEDY,
    *,
    pad_id: int = 0,
    generator: torch.Generator | None = None,
    cache: bool = True,
) -> Iterator[torch.Tensor]:
    """The next token of every row, ``(B,)``, one step at a time, ``most`` steps.

    Args:
        model: A causal model of transformers, or our `Decoder`, which takes prompts of one
            length only.
        prompts: Token ids, at least one each.
        cache: Keep keys and values, so that a step costs one token and not all of them.

    Raises:
        ModelError: A prompt without tokens, padding for our `Decoder`, or a cache of a model
            that has none.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ModelError("there is a prompt without tokens.", "Give at least one token each.")
    device = next(model.parameters()).device
    ids, mask = pad_left(prompts, pad_id, device)
    ours = not hasattr(model, "generation_config")
    if ours and not bool(mask.all()):
        raise ModelError(
            f"{type(model).__name__} takes no padding before tokens.",
            "Give prompts of one length.",
        )
    kept, fresh, seen = None, ids, None
    for _ in range(most):
        with torch.no_grad():
            if ours:
                output = model(fresh, cache=kept, keep=cache)
                kept = output.cache
            else:
                places = positions_of(mask)[:, -fresh.shape[1] :]
                output = model(
                    fresh, attention_mask=mask, position_ids=places, past_key_values=kept,
                    use_cache=cache, logits_to_keep=1,
                )  # fmt: skip
                kept = getattr(output, "past_key_values", None) if cache else None
                if cache and kept is None:
                    raise ModelError(
                        f"{type(model).__name__} keeps no keys and values.",
                        "Generate with cache=False.",
                    )
            logits = output.logits[:, -1]
            if seen is None:  # padding has not been said
                seen = torch.zeros_like(logits).scatter_add_(1, ids, mask.to(logits.dtype)) > 0
            token = choose(logits, sampling, seen, generator)
            seen.scatter_(1, token, True)
        ids = torch.cat([ids, token], dim=1)
        mask = torch.cat([mask, torch.ones_like(token)], dim=1)
        fresh = token if cache else ids
        yield token[:, 0]


def continue_all(
    model: Any,
    prompts: Sequence[Sequence[int]],
    most: int,
    sampling: Sampling = GREEDY,
    *,
    stop: Collection[int] = (),
    pad_id: int = 0,
    batch_size: int = 16,
    generator: torch.Generator | None = None,
    cache: bool = True,
) -> list[Continuation]:
    """Continuations of many prompts, some at a time, those of similar length together.

    The model is put in evaluation mode and back.

    Args:
        most: Tokens to add to each, at most.
        stop: Ids that end a continuation.

    Returns:
        In the order of the prompts.
    """
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    found: dict[int, Continuation] = {}
    with evaluated(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            written: list[list[int]] = [[] for _ in rows]
            open_rows = set(range(len(rows)))
            part = [prompts[row] for row in rows]
            options: Any = {"pad_id": pad_id, "generator": generator, "cache": cache}
            for tokens in stream(model, part, most, sampling, **options):
                for at, token in enumerate(tokens.tolist()):
                    if at in open_rows and token in stop:
                        open_rows.discard(at)
                    elif at in open_rows:
                        written[at].append(token)
                if not open_rows:
                    break
            for at, row in enumerate(rows):
                found[row] = Continuation(written[at], at not in open_rows)
    return [found[row] for row in range(len(prompts))]
