"""Summaries without training: the first sentence, and the most central one (TextRank)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from sftkit.evaluate.summarizing import words

DAMPING = 0.85  # of PageRank (Brin and Page 1998)
_HEADING = re.compile(r"^[ \t]*\w[\w ]*\n[ \t]*[-=~]{3,}[ \t]*$", re.MULTILINE)
_CODE = re.compile(r"^[ \t]*(?:>>>|\.\.\. |\.\. ).*$", re.MULTILINE)
_SENTENCE = re.compile(r"\S(?:.*?)(?:[.!?](?=\s)|(?=\n[ \t]*\n)|\Z)", re.S)


def sentences(text: str, least: int = 3) -> list[str]:
    """The sentences of a documentation text, each on one line.

    Headings, prompts of examples, directives, and pieces below ``least`` words are left out.
    """
    prose = _CODE.sub("", _HEADING.sub("\n", text))
    found = [" ".join(match.group().split()) for match in _SENTENCE.finditer(prose)]
    return [sentence for sentence in found if len(words(sentence)) >= least]


def lead(text: str) -> str:
    """The first sentence; all of the text where it has none."""
    found = sentences(text)
    return found[0] if found else " ".join(text.split())


def first_words(line: str, most: int) -> str:
    """The beginning of a text: at most so many words."""
    return " ".join(line.split()[:most])


def similarity(first: Sequence[str], second: Sequence[str]) -> float:
    """Shared words over the sum of the logarithms of the lengths (Mihalcea and Tarau 2004).

    Sentences of one word have no logarithm to divide by; they are similar to none.
    """
    scale = math.log(max(1, len(first))) + math.log(max(1, len(second)))
    return len(set(first) & set(second)) / scale if scale > 0 else 0.0


def page_rank(weights: np.ndarray, tolerance: float = 1e-10, steps: int = 500) -> np.ndarray:
    """The share of time that a walk spends at each node, by repeated multiplication.

    With probability `DAMPING` the walk follows an edge, by weight; else it jumps anywhere. It
    also jumps from a node without edges.

    Args:
        weights: ``(N, N)``, of the edge from row to column, none below 0.

    Returns:
        ``(N,)``, with sum 1.
    """
    n = len(weights)
    out = weights.sum(axis=1, keepdims=True)
    moves = np.where(out > 0, weights / np.where(out > 0, out, 1.0), 1.0 / n)
    rank = np.full(n, 1.0 / n)
    for _ in range(steps):
        new = (1 - DAMPING) / n + DAMPING * rank @ moves
        if np.abs(new - rank).sum() < tolerance:
            return new
        rank = new
    return rank


def text_rank(text: str, most: int = 50) -> str:
    """The sentence that the others are most similar to; the first one of equals.

    Args:
        most: Of a long text, the sentences that are looked at.
    """
    found = sentences(text)[:most]
    if not found:
        return lead(text)
    said = [words(sentence) for sentence in found]
    n = len(found)
    weights = np.array(
        [[similarity(said[i], said[j]) if i != j else 0.0 for j in range(n)] for i in range(n)]
    )
    return found[int(np.argmax(np.round(page_rank(weights), 9)))]
