"""Let an encoder-decoder write: the most probable token, drawn ones, or a beam of texts.

Beam search keeps the k most probable beginnings and extends all of them. Longer texts have
smaller probabilities, so finished ones are compared by ``log p / tokens ** length_penalty``
(as in transformers; Wu et al. 2016 divide by a similar power).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sftkit.arguments import number, whole
from sftkit.errors import ParameterError
from sftkit.models.sampling import GREEDY, Sampling, choose
from sftkit.models.seq2seq import Seq2Seq
from sftkit.models.seq2seq_blocks import Kept
from sftkit.modes import evaluated


@dataclass(frozen=True)
class Written:
    """A target that a model wrote.

    Attributes:
        ids: Its tokens, without the stop token.
        log_prob: Of these tokens and of the stop token, given the source, in nats.
        stopped: Whether it ended with the stop token, or was at the limit.
        score: What beam search compares.
    """

    ids: list[int]
    log_prob: float
    stopped: bool
    score: float


@torch.inference_mode()
def generate(
    model: Seq2Seq,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    most: int | None = None,
    sampling: Sampling = GREEDY,
    generator: torch.Generator | None = None,
    cache: bool = True,
) -> list[Written]:
    """One target for each source, token by token.

    The model is put in evaluation mode and back.

    Args:
        input_ids, attention_mask: Sources, ``(B, S)``.
        most: Tokens of a target, at most, the stop token included; as many as the model has
            positions for unless given.
        sampling: How tokens are chosen; greedy unless given.
        generator: Of the random numbers.
        cache: Keep keys and values, so that a step costs one token and not all of them.

    Returns:
        In the order of the sources. ``log_prob`` is the model's own, whatever ``sampling``.
    """
    most = _limit(model, most)
    rows, device = len(input_ids), input_ids.device
    begin, stop = model.config.begin, model.config.stop
    ids = torch.full((rows, 1), begin, device=device)
    log_probs = torch.zeros(rows, dtype=torch.float64, device=device)
    done = torch.zeros(rows, dtype=torch.bool, device=device)
    seen = torch.zeros(rows, model.config.vocab, dtype=torch.bool, device=device)
    with evaluated(model):
        kept = model.read(input_ids, attention_mask)
        for _ in range(most):
            logits, kept = _next(model, ids, kept, cache)
            token = choose(logits, sampling, seen, generator)
            gained = logits.double().log_softmax(dim=-1).gather(1, token)[:, 0]
            log_probs += gained.masked_fill(done, 0.0)
            token = token.masked_fill(done[:, None], stop)
            seen.scatter_(1, token, True)
            done = done | (token[:, 0] == stop)
            ids = torch.cat([ids, token], dim=1)
            if bool(done.all()):
                break
    found = []
    for row, log_prob, stopped in zip(
        ids[:, 1:].tolist(), log_probs.tolist(), done.tolist(), strict=True
    ):
        text = row[: row.index(stop)] if stopped else row
        score = log_prob / max(len(text) + stopped, 1)
        found.append(Written(text, log_prob, stopped, score))
    return found


@torch.inference_mode()
def beam_search(
    model: Seq2Seq,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    beams: int = 4,
    best: int = 1,
    length_penalty: float = 1.0,
    most: int | None = None,
    cache: bool = True,
) -> list[list[Written]]:
    """The best targets that a beam finds for each source.

    A source is done when its ``beams`` finished targets are better than whatever could still
    become of the unfinished ones. With as many beams as there are beginnings, the search is
    exhaustive.

    Args:
        beams: Unfinished targets that are kept for each source, k.
        best: Targets to give for each source, at most ``beams``.
        length_penalty: Above 0 favours long targets; 0 compares plain probabilities.
        most, cache: As in `generate`. At the limit, unfinished targets compete as they are.

    Returns:
        For each source the best targets, the best first.
    """
    if whole("best", best) > whole("beams", beams):
        raise ParameterError(f"best={best} of beams={beams}.", "Give at most as many.")
    length_penalty = number("length_penalty", length_penalty)
    most, rows = _limit(model, most), len(input_ids)
    begin, device = model.config.begin, input_ids.device
    # All beams of a source start alike: only the first counts, or all would stay alike.
    totals = torch.full((rows, beams), -torch.inf, dtype=torch.float64, device=device)
    totals[:, 0] = 0.0
    ids = torch.full((rows * beams, 1), begin, device=device)
    each = torch.arange(rows, device=device).repeat_interleave(beams)
    finished = [_Finished(beams, length_penalty, most) for _ in range(rows)]
    with evaluated(model):
        kept = model.read(input_ids, attention_mask).rows(each)
        for step in range(1, most + 1):
            logits, kept = _next(model, ids, kept, cache)
            gains = logits.double().log_softmax(dim=-1).view(rows, beams, -1)
            joined = totals.unsqueeze(2) + gains
            # Of 2 k candidates at most k end here, so at least k go on.
            values, places = joined.flatten(1).topk(min(2 * beams, joined[0].numel()), dim=1)
            parents, tokens = places // gains.shape[2], places % gains.shape[2]
            going: list[int] = []
            for row in range(rows):
                chosen = _sort(
                    finished[row], ids, row * beams, step,
                    values[row].tolist(), parents[row].tolist(), tokens[row].tolist(),
                    model.config.stop, totals[row],
                )  # fmt: skip
                going += [row * beams + parent for parent, _ in chosen]
                tokens[row, :beams] = torch.tensor([token for _, token in chosen])
            at = torch.tensor(going, device=device)
            ids = torch.cat([ids[at], tokens[:, :beams].reshape(-1, 1)], dim=1)
            kept = kept.going_on(at)  # a beam's parent has the same source
            if all(f.done(float(t.max()), step) for f, t in zip(finished, totals, strict=True)):
                break
        else:
            for row in range(rows):
                for beam, total in enumerate(totals[row].tolist()):
                    finished[row].add(ids[row * beams + beam, 1:].tolist(), total, False)
    return [f.best(best) for f in finished]


def _sort(
    finished: _Finished,
    ids: torch.Tensor,
    first: int,
    step: int,
    values: list[float],
    parents: list[int],
    tokens: list[int],
    stop: int,
    totals: torch.Tensor,
) -> list[tuple[int, int]]:
    """Put a source's candidates, the best first, among the finished or back into the beam.

    Returns:
        Parent and token of each beam that goes on; ``totals`` gets their log probabilities.
    """
    beams = len(totals)
    going: list[tuple[int, int]] = []
    for rank, (value, parent, token) in enumerate(zip(values, parents, tokens, strict=True)):
        if token != stop:
            if len(going) < beams:
                totals[len(going)] = value
                going.append((parent, token))
        elif rank < beams:
            finished.add(ids[first + parent, 1:].tolist(), value, True)
    for empty in range(len(going), beams):  # a vocabulary smaller than the beam
        totals[empty] = -torch.inf
        going.append((0, stop))
    return going


class _Finished:
    """The finished targets of one source, ``beams`` at most."""

    def __init__(self, beams: int, length_penalty: float, most: int) -> None:
        self.beams, self.power, self.most = beams, length_penalty, most
        self.found: list[Written] = []

    def add(self, ids: list[int], log_prob: float, stopped: bool) -> None:
        if log_prob == -torch.inf:
            return
        score = log_prob / (len(ids) + stopped) ** self.power
        self.found.append(Written(ids, log_prob, stopped, score))
        self.found.sort(key=lambda written: -written.score)
        del self.found[self.beams :]

    def done(self, highest: float, step: int) -> bool:
        """Whether no unfinished target, ``highest`` at most in log probability, gets in."""
        if len(self.found) < self.beams:
            return highest == -torch.inf
        length = self.most if self.power > 0 else step + 1
        return self.found[-1].score >= highest / length**self.power

    def best(self, count: int) -> list[Written]:
        return self.found[:count]


def _next(
    model: Seq2Seq, ids: torch.Tensor, kept: Kept, cache: bool
) -> tuple[torch.Tensor, Kept]:
    """Logits of the next token ``(B, V)``, and what to keep."""
    if cache:
        output, kept = model.write(ids[:, -1:], kept)
    else:
        output, _ = model.write(ids, kept)
    assert output.logits is not None
    return output.logits[:, -1], kept


def _limit(model: Seq2Seq, most: int | None) -> int:
    positions = model.config.max_length
    if most is None:
        return positions
    if whole("most", most) > positions:
        raise ParameterError(f"most={most}.", f"The model has positions for 1 to {positions}.")
    return most
