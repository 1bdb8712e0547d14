"""Answers as spans: the best one, when there is none, and SQuAD's metrics with intervals.

Exact match and F1 are those of SQuAD (Rajpurkar et al. 2016; for questions without an answer
Rajpurkar, Jia and Liang 2018): both texts in lower case, without punctuation, articles and
superfluous blanks; F1 over the bag of words; the best over all right answers; for no answer 1
if both sides are empty, else 0. Two things follow that surprise: ``-1`` and ``1`` are the same
answer, and a guess of five words for an answer of one still gets a third.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sftkit.batches import Batches, Examples
from sftkit.errors import ParameterError
from sftkit.evaluate.intervals import bootstrap
from sftkit.losses import model_inputs
from sftkit.modes import evaluated

LONGEST = 96  # tokens of an answer
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normal(text: str) -> str:
    """SQuAD's normal form: the order of the four steps matters, and is theirs."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(guess: str, answers: Sequence[str]) -> float:
    """1 if the normal form is that of an answer; without answers, if it is empty."""
    return float(any(normal(guess) == normal(answer) for answer in answers or [""]))


def f1(guess: str, answers: Sequence[str]) -> float:
    """Overlap of words with the best fitting answer, 0 to 1."""
    return max(_f1(normal(guess).split(), normal(answer).split()) for answer in answers or [""])


def _f1(guess: list[str], answer: list[str]) -> float:
    if not guess or not answer:
        return float(guess == answer)
    shared = sum((Counter(guess) & Counter(answer)).values())
    return 2 * shared / (len(guess) + len(answer))


def best_spans(
    start: torch.Tensor, end: torch.Tensor, allowed: torch.Tensor, longest: int = LONGEST
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The span with the highest ``start[i] + end[j]``, in O(T longest) per row.

    Args:
        start, end: Logits ``(B, T)``.
        allowed: ``(B, T)``, bool: tokens that may begin or end an answer.
        longest: Tokens of a span, at most: ``i <= j < i + longest``.

    Returns:
        ``(first, last, score)``, each ``(B,)``; score is -inf where nothing is allowed.
    """
    low = torch.tensor(-torch.inf, dtype=start.dtype)
    begin, close = start.where(allowed, low), end.where(allowed, low)
    width = min(longest, start.shape[1])
    padded = torch.nn.functional.pad(close, (0, width - 1), value=-torch.inf)
    sums = begin.unsqueeze(2) + padded.unfold(1, width, 1)  # (B, T, width)
    score, flat = sums.flatten(1).max(dim=1)
    first = flat // width
    return first, first + flat % width, score


@dataclass(frozen=True)
class Answer:
    """What a model answers to a question.

    Attributes:
        text: The best span, whether or not it is better than none.
        start, end: Its place in the context, in characters.
        margin: Its score over that of no answer, in nats. Above the threshold it is given.
    """

    text: str
    start: int
    end: int
    margin: float

    def given(self, threshold: float) -> str:
        """The text, or nothing at or below the threshold."""
        return self.text if self.margin > threshold else ""


def examples_of(encoded: Any, pad_id: int) -> Examples:
    """Windows from `encode_spans` for `batches.Batches`; offsets stay in the data set."""
    return Examples.of(encoded.remove_columns("offsets"), pad_id)


def read(
    model: torch.nn.Module,
    encoded: Any,
    contexts: Sequence[str],
    pad_id: int,
    *,
    longest: int = LONGEST,
    batch_size: int = 32,
) -> list[Answer]:
    """The best answer to each question.

    The logits of two windows are not on one scale: a softmax does not change when all of a
    window's logits rise together. What can be compared is each window's best span over its own
    first token, and the window with the largest margin gives the answer.

    Args:
        encoded: Windows from `encode_spans`.
        contexts: Of the questions, in order.
    """
    examples = examples_of(encoded, pad_id)
    found = [Answer("", 0, 0, -np.inf)] * len(contexts)
    device = next(model.parameters()).device
    with evaluated(model):
        for rows in Batches(examples, batch_size, shuffle=False).order(0):
            batch = {k: v.to(device) for k, v in examples.batch(rows).items()}
            with torch.inference_mode():
                output: Any = model(**model_inputs(batch))
            start, end = output.start_logits.float().cpu(), output.end_logits.float().cpu()
            offsets = _offsets(encoded, rows, start.shape[1])
            first, last, score = best_spans(start, end, offsets[:, :, 1] > 0, longest)
            margin = (score - start[:, 0] - end[:, 0]).tolist()
            for b, question in enumerate(batch["row"].tolist()):
                if margin[b] > found[question].margin:
                    low = int(offsets[b, first[b], 0])
                    high = int(offsets[b, last[b], 1])
                    text = contexts[question][low:high]
                    found[question] = Answer(text, low, high, margin[b])
    return found


def _offsets(encoded: Any, rows: np.ndarray, width: int) -> torch.Tensor:
    """``(B, width, 2)``: characters of each token, -1 where it is not of the context."""
    out = torch.full((len(rows), width, 2), -1, dtype=torch.long)
    for b, flat in enumerate(encoded[rows.tolist()]["offsets"]):
        pairs = torch.tensor(flat).view(-1, 2)
        out[b, : len(pairs)] = pairs
    return out


@dataclass(frozen=True)
class ReadingReport:
    """Exact match and F1, ``(value, low, high)`` each, of some questions.

    Attributes:
        rows: ``(N, 2)``: exact match and F1 of each question.
        groups: ``(N,)``: the number of its context, the unit that the bootstrap draws.
    """

    exact: tuple[float, float, float]
    f1: tuple[float, float, float]
    rows: np.ndarray
    groups: np.ndarray

    def where(self, chosen: np.ndarray, seed: int = 0) -> ReadingReport:
        """The report of some of the questions."""
        return _report(self.rows[chosen], self.groups[chosen], seed)

    def as_metrics(self) -> dict[str, Any]:
        """For a run's record."""
        names = ("value", "low", "high")
        pairs = (("f1", self.f1), ("exact_match", self.exact))
        return {k: dict(zip(names, v, strict=True)) for k, v in pairs} | {"n": len(self.rows)}


def scores(guesses: Sequence[str], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """``(N, 2)``: exact match and F1 of each question."""
    if len(guesses) != len(answers) or not len(answers):
        raise ParameterError(
            f"{len(guesses)} guesses for {len(answers)} questions.", "Give one for each."
        )
    pairs = zip(guesses, answers, strict=True)
    return np.array([(exact_match(g, a), f1(g, a)) for g, a in pairs])


def reading_report(
    guesses: Sequence[str],
    answers: Sequence[Sequence[str]],
    contexts: Sequence[str],
    seed: int = 0,
) -> ReadingReport:
    """Exact match and F1 with 95 % intervals.

    Questions about one context are not independent: they are right or wrong together. So the
    bootstrap draws contexts, with all their questions.
    """
    number: dict[str, int] = {}
    groups = np.array([number.setdefault(context, len(number)) for context in contexts])
    return _report(scores(guesses, answers), groups, seed)


def _report(rows: np.ndarray, groups: np.ndarray, seed: int) -> ReadingReport:
    sums = by_group(rows, groups)
    exact, overlap = (
        bootstrap(sums[:, [k, 2]], lambda s: s[..., 0] / s[..., 1], seed=seed) for k in (0, 1)
    )
    return ReadingReport(exact, overlap, rows, groups)


def by_group(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums over each group's rows, and how many there are: ``(groups, K + 1)``."""
    _, place = np.unique(groups, return_inverse=True)
    sums = np.zeros((place.max() + 1, rows.shape[1] + 1))
    np.add.at(sums, place, np.column_stack([rows, np.ones(len(rows))]))
    return sums


def gain(first: ReadingReport, second: ReadingReport, seed: int = 0) -> tuple[float, ...]:
    """F1 of the first less the second, in points, with its paired 95 % interval."""
    if not np.array_equal(first.groups, second.groups):
        raise ParameterError("two reports on other questions.", "Give the same ones.")
    a, b = (by_group(r.rows, r.groups)[:, 1:] for r in (first, second))
    found = bootstrap(a, lambda s: s[..., 0] / s[..., 1], b, seed=seed)
    return tuple(100 * value for value in found)


def threshold_curve(
    found: Sequence[Answer], answers: Sequence[Sequence[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean F1 at every threshold that makes a difference, from sorted margins.

    Returns:
        ``(thresholds, f1)``: the first is below all margins (always answer), the last is the
        largest margin (never answer).
    """
    margins = np.array([answer.margin for answer in found])
    if_given = np.array([f1(x.text, a) for x, a in zip(found, answers, strict=True)])
    if_not = np.array([f1("", a) for a in answers])
    order = np.argsort(margins, kind="stable")
    gains = np.cumsum((if_not - if_given)[order])  # withhold the answers in this order
    total = if_given.sum() + np.concatenate([[0.0], gains])
    thresholds = np.concatenate([[margins.min() - 1.0], margins[order]])
    last = np.append(thresholds[1:] != thresholds[:-1], True)  # equal margins go together
    return thresholds[last], total[last] / len(found)


def best_threshold(found: Sequence[Answer], answers: Sequence[Sequence[str]]) -> float:
    """The threshold with the highest F1: choose it on validation questions."""
    thresholds, values = threshold_curve(found, answers)
    at = int(values.argmax())
    above = thresholds[min(at + 1, len(thresholds) - 1)]
    return float((thresholds[at] + above) / 2) if above > thresholds[at] else thresholds[at]


def reading_evaluation(
    encoded: Any, part: Any, pad_id: int
) -> Callable[[torch.nn.Module], dict[str, float]]:
    """What `fit` calls to evaluate: F1 and exact match at threshold 0."""
    contexts, answers = list(part["context"]), list(part["texts"])

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        found = read(model, encoded, contexts, pad_id)
        exact, overlap = scores([x.given(0.0) for x in found], answers).mean(axis=0)
        return {"f1": float(overlap), "exact_match": float(exact)}

    return evaluate
