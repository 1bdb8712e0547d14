"""The baseline for tags: a conditional random field on features that a person chose.

The features are those of the literature for Chinese and English names: the tokens around a
place and pairs of them, kinds of character, beginnings and ends of words. CRFsuite (Okazaki
2007) finds their weights with L-BFGS.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sftkit.errors import ParameterError

GRID = ((0.0, 0.1), (0.1, 0.01), (0.3, 0.01))  # of (c1, c2): strengths of L1 and L2
STEPS = 100  # of L-BFGS, at most


def features(tokens: Sequence[str]) -> list[list[str]]:
    """Names of the features of each token: itself and its surroundings, two to each side."""
    padded = ["<", "<", *tokens, ">", ">"]
    kinds = [_kind(token) for token in padded]
    found = []
    for i in range(2, len(padded) - 2):
        a, b, c, d, e = padded[i - 2 : i + 3]
        named = [f"-2={a}", f"-1={b}", f"0={c}", f"1={d}", f"2={e}"]
        named += [f"-2,-1={a} {b}", f"-1,0={b} {c}", f"0,1={c} {d}", f"1,2={d} {e}"]
        named += [f"-1,1={b} {d}", f"kind={kinds[i]}", "bias"]
        named.append(f"kinds={kinds[i - 1]} {kinds[i]} {kinds[i + 1]}")
        if len(c) > 1:
            low = c.lower()
            named += [f"low={low}", *(f"begin={low[:n]}" for n in (1, 2, 3))]
            named += [f"end={low[-n:]}" for n in (1, 2, 3)]
        found.append(named)
    return found


def _kind(token: str) -> str:
    """The form of a token: 9 for digits, A and a for letters, the mark itself, z for others."""
    signs = [
        "9"
        if c.isdigit()
        else "A"
        if c.isascii() and c.isupper()
        else "a"
        if c.isascii() and c.isalpha()
        else "z"
        if c.isalnum()
        else c
        for c in token[:12]
    ]
    short = [s for i, s in enumerate(signs) if i < 1 or s != signs[i - 1]]
    return "".join(short) + ("+" if len(signs) > len(short) else "")


def prepared(sentences: Iterable[Sequence[str]]) -> list[Any]:
    """Features in the form that CRFsuite reads, to be used several times."""
    import pycrfsuite

    return [pycrfsuite.ItemSequence(features(tokens)) for tokens in sentences]


class FeatureCrf:
    """A trained baseline. Make one with `train` or `tuned`."""

    def __init__(self, content: bytes, c1: float, c2: float) -> None:
        import pycrfsuite

        self.content, self.c1, self.c2 = content, c1, c2
        self.tagger = pycrfsuite.Tagger()
        self.tagger.open_inmemory(content)

    def predict(self, items: Iterable[Any]) -> list[list[str]]:
        """The best tags of each sentence, from `prepared` features."""
        return [self.tagger.tag(item) for item in items]


def train(
    items: Sequence[Any],
    tags: Sequence[Sequence[str]],
    c1: float = 0.0,
    c2: float = 1.0,
    steps: int = STEPS,
) -> FeatureCrf:
    """Fit the weights of all features.

    Args:
        items: From `prepared`.
        tags: The right tags of each sentence.
        c1, c2: Strengths of the L1 and L2 penalties.
        steps: Iterations of L-BFGS, at most.
    """
    import pycrfsuite

    if not items or len(items) != len(tags):
        raise ParameterError(
            f"{len(items)} sentences and {len(tags)} sequences of tags.",
            "Give one sequence per sentence, at least one.",
        )
    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    for item, right in zip(items, tags, strict=True):
        trainer.append(item, list(right))
    options = {"c1": c1, "c2": c2, "max_iterations": steps}
    trainer.set_params(options | {"feature.possible_transitions": True})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        trainer.train(str(path))
        return FeatureCrf(path.read_bytes(), c1, c2)


def tuned(
    items: Sequence[Any],
    tags: Sequence[Sequence[str]],
    watched: Sequence[Any],
    watched_tags: Sequence[Sequence[str]],
    grid: Sequence[tuple[float, float]] = GRID,
    steps: int = STEPS,
) -> tuple[FeatureCrf, list[tuple[float, float, float]]]:
    """The best of a grid of penalties by entity F1 on validation sentences.

    Returns:
        The model, and ``(c1, c2, F1)`` of every candidate.
    """
    from sftkit.corpora.spans import to_spans

    right = [set(to_spans(sequence)) for sequence in watched_tags]
    best: tuple[float, FeatureCrf] | None = None
    scores = []
    for c1, c2 in grid:
        model = train(items, tags, c1, c2, steps)
        found = [set(to_spans(sequence)) for sequence in model.predict(watched)]
        both = sum(len(a & b) for a, b in zip(right, found, strict=True))
        f1 = 2 * both / max(sum(map(len, right)) + sum(map(len, found)), 1)
        scores.append((c1, c2, f1))
        if best is None or f1 > best[0]:
            best = (f1, model)
    if best is None:
        raise ParameterError("an empty grid.", "Give at least one pair of penalties.")
    return best[1], scores
