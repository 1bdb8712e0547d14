"""A linear-chain conditional random field over the tags of a sentence.

Lafferty, McCallum and Pereira (2001), "Conditional Random Fields". Notebook 09 derives it. The
score of a sequence of tags is the sum of its emissions, one per token, and of its transitions,
one per pair of neighbours; its probability is the exponential of that over the sum for all
sequences. Shapes: batch B, time T, tags K.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sftkit.batches import IGNORE
from sftkit.corpora.spans import allowed

FORBIDDEN = -1e4  # score of a transition that the scheme excludes; finite, so that 0 * it is 0


class LinearChainCrf(nn.Module):
    """Scores of transitions, and the two algorithms that need them.

    Args:
        names: The tags. Pairs that their scheme excludes (``O I-PER``) are never chosen.
    """

    forbidden: torch.Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(len(names)))
        self.end = nn.Parameter(torch.zeros(len(names)))
        self.pairs = nn.Parameter(torch.zeros(len(names), len(names)))  # [before, after]
        self.register_buffer("forbidden", forbidden_pairs(names), persistent=False)

    @property
    def transitions(self) -> torch.Tensor:
        """``(K, K)``, the score of each pair, ``[before, after]``."""
        return self.pairs + self.forbidden.to(self.pairs.dtype)

    def negative_log_likelihood(
        self, emissions: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """The sum over sequences of -log p(labels), in nats.

        Args:
            emissions: ``(B, T, K)``.
            labels: ``(B, T)``, with -100 at places that are no part of the sequence (ends,
                later pieces of words, padding): the field runs over the others.
        """
        packed, tags, mask = supervised_first(emissions, labels)
        return (self.log_partition(packed, mask) - self.score(packed, tags, mask)).sum()

    def score(
        self, emissions: torch.Tensor, tags: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """The score of one sequence of tags per row, ``(B,)``; mask True from the left."""
        tags = tags.clamp(min=0)
        real = mask.to(emissions.dtype)
        emitted = emissions.gather(2, tags.unsqueeze(2)).squeeze(2)
        between = self.transitions[tags[:, :-1], tags[:, 1:]]
        last = tags.gather(1, (mask.sum(1, keepdim=True) - 1).clamp(min=0)).squeeze(1)
        ends = (self.start[tags[:, 0]] + self.end[last]) * real[:, 0]
        return (emitted * real).sum(1) + (between * real[:, 1:]).sum(1) + ends

    def log_partition(self, emissions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """log of the sum over all sequences, ``(B,)``: the forward algorithm."""
        alpha = self.start + emissions[:, 0]
        transitions = self.transitions
        for t in range(1, emissions.shape[1]):
            step = torch.logsumexp(alpha.unsqueeze(2) + transitions, dim=1) + emissions[:, t]
            alpha = torch.where(mask[:, t, None], step, alpha)
        total = torch.logsumexp(alpha + self.end, dim=1)
        return torch.where(mask[:, 0], total, torch.zeros_like(total))

    @torch.no_grad()
    def decode(self, emissions: torch.Tensor, labels: torch.Tensor) -> list[list[int]]:
        """The best tags of each row at the places where labels are not -100."""
        packed, _, mask = supervised_first(emissions, labels)
        return viterbi(packed, mask, self.transitions, self.start, self.end)


def forbidden_pairs(names: Sequence[str]) -> torch.Tensor:
    """``(K, K)``: 0 where a tag may follow another, a very low score where it may not."""
    fits = torch.tensor(allowed(list(names)))
    return torch.where(fits, 0.0, FORBIDDEN)


def supervised_first(
    emissions: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The places with labels moved to the left of each row, in their order.

    Returns:
        Emissions ``(B, S, K)``, tags ``(B, S)`` and mask ``(B, S)``; S is the largest number of
        labelled places in a row, at least 1.
    """
    named = labels != IGNORE
    size = max(int(named.sum(1).max()), 1)
    order = torch.argsort((~named).to(torch.int8), dim=1, stable=True)[:, :size]
    wide = order.unsqueeze(2).expand(-1, -1, emissions.shape[2])
    return emissions.gather(1, wide), labels.gather(1, order), named.gather(1, order)


@torch.no_grad()
def viterbi(
    emissions: torch.Tensor,
    mask: torch.Tensor,
    transitions: torch.Tensor,
    start: torch.Tensor | None = None,
    end: torch.Tensor | None = None,
) -> list[list[int]]:
    """The sequence with the highest score of each row (Viterbi 1967).

    With `forbidden_pairs` as transitions it makes a softmax model keep the rules of its
    scheme.

    Args:
        emissions: ``(B, T, K)``.
        mask: ``(B, T)``, True from the left.
        transitions: ``(K, K)``.
        start, end: ``(K,)``; zero unless given.
    """
    best = emissions[:, 0] + (0 if start is None else start)
    choices: list[torch.Tensor] = []
    for t in range(1, emissions.shape[1]):
        step, came_from = (best.unsqueeze(2) + transitions).max(dim=1)
        choices.append(came_from)
        best = torch.where(mask[:, t, None], step + emissions[:, t], best)
    last = (best + (0 if end is None else end)).argmax(dim=1).tolist()
    back = torch.stack(choices).tolist() if choices else []
    paths = []
    for row, length in enumerate(mask.sum(1).tolist()):
        path = [last[row]] if length else []
        for t in range(length - 1, 0, -1):
            path.append(back[t - 1][row][path[-1]])
        paths.append(path[::-1])
    return paths
