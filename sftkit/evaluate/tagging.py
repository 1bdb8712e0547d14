"""Entity F1 with intervals: of spans, by type, from tags predicted word by word.

A predicted span is right when its type, its first and its last word are. Precision, recall and
F1 follow from three counts per sentence and type, so the bootstrap draws sentences. The values
are those of seqeval (Nakayama 2018), which follows the CoNLL evaluation script; a test and
notebook 09 compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sftkit.batches import IGNORE, Batches, Examples, Ragged
from sftkit.corpora.spans import to_spans
from sftkit.errors import ParameterError
from sftkit.evaluate.compare import Difference
from sftkit.evaluate.intervals import bootstrap
from sftkit.losses import model_inputs
from sftkit.models.crf import forbidden_pairs, viterbi
from sftkit.modes import evaluated
from sftkit.teach.show import Table

Tags = Sequence[Sequence[str]]
COUNTS = ("right", "predicted", "labelled")  # spans, in the order of the last axis


def predict_tags(
    model: torch.nn.Module,
    examples: Examples,
    names: Sequence[str],
    *,
    constrained: bool = False,
    batch_size: int = 64,
) -> list[list[str]]:
    """The predicted tags of each sentence's words, windows put together again.

    Args:
        examples: From `encode_tags`, with labels on first pieces only.
        names: The names of the model's outputs.
        constrained: Without a field on top: the best sequence that keeps the scheme's rules, in
            place of the best tag of each word.
    """
    field: Any = getattr(model, "crf", None)
    rules = forbidden_pairs(names) if constrained else None
    pieces: list[list[int]] = [[] for _ in range(len(examples))]
    device = next(model.parameters()).device
    with evaluated(model), torch.inference_mode():
        for rows in Batches(examples, batch_size, shuffle=False).order(0):
            batch = {k: v.to(device) for k, v in examples.batch(rows).items()}
            logits = model(**model_inputs(batch)).logits.float()
            found = _decoded(logits, batch["labels"], field, rules)
            for row, tags in zip(rows.tolist(), found, strict=True):
                pieces[row] = tags
    sentences: dict[int, list[str]] = {}
    for row, tags in zip(_rows(examples), pieces, strict=True):
        sentences.setdefault(row, []).extend(names[tag] for tag in tags)
    return list(sentences.values())


def _decoded(
    logits: torch.Tensor, labels: torch.Tensor, field: Any, rules: torch.Tensor | None
) -> list[list[int]]:
    if field is not None:
        return field.decode(logits, labels)
    if rules is not None:
        from sftkit.models.crf import supervised_first

        packed, _, mask = supervised_first(logits, labels)
        return viterbi(packed, mask, rules.to(packed))
    best = logits.argmax(dim=-1)
    return [tags[named].tolist() for tags, named in zip(best, labels != IGNORE, strict=True)]


def _rows(examples: Examples) -> list[int]:
    return np.asarray(examples.columns["row"]).tolist()


def true_tags(examples: Examples, names: Sequence[str]) -> list[list[str]]:
    """The labels of examples as names, windows put together again."""
    column = examples.columns["labels"]
    assert isinstance(column, Ragged)
    sentences: dict[int, list[str]] = {}
    for at, row in enumerate(_rows(examples)):
        labels = column.values[column.starts[at] : column.starts[at + 1]]
        named = labels[labels != IGNORE].tolist()
        sentences.setdefault(row, []).extend(names[tag] for tag in named)
    return list(sentences.values())


def counts(truth: Tags, found: Tags, types: Sequence[str]) -> np.ndarray:
    """``(N, types, 3)``: right, predicted and labelled spans of each sentence and type.

    Raises:
        ParameterError: Another number of sentences, or of tags in one of them.
    """
    if len(truth) != len(found) or not len(truth):
        raise ParameterError(
            f"{len(truth)} labelled and {len(found)} predicted sentences.",
            "Give the same sentences, at least one.",
        )
    place = {kind: k for k, kind in enumerate(types)}
    sums = np.zeros((len(truth), len(types), 3), dtype=np.int64)
    for row, (right, guess) in enumerate(zip(truth, found, strict=True)):
        if len(right) != len(guess):
            raise ParameterError(
                f"sentence {row}: {len(right)} labelled and {len(guess)} predicted tags.",
                "Encode with label='first', and give predictions for every word.",
            )
        labelled, predicted = set(to_spans(right)), set(to_spans(guess))
        for column, part in enumerate((labelled & predicted, predicted, labelled)):
            for kind, _, _ in part:
                if kind in place:
                    sums[row, place[kind], column] += 1
    return sums


def f1_of(sums: np.ndarray) -> np.ndarray:
    """F1 from counts ``(..., 3)`` of right, predicted and labelled; 0 where there are none."""
    both = sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], both, out=np.zeros(both.shape), where=both > 0)


@dataclass(frozen=True)
class TagReport:
    """Entity metrics of one model on one set of sentences.

    Attributes:
        f1: Of all types together (micro): ``(value, low, high)``, 95 % bootstrap interval over
            sentences.
        per_type: Rows of type, precision, recall, F1 with its interval, labelled spans.
        sums: ``(N, types, 3)``, from `counts`.
    """

    f1: tuple[float, float, float]
    per_type: list[tuple[str, float, float, tuple[float, float, float], int]]
    sums: np.ndarray

    def table(self, caption: str = "") -> Table:
        """Precision, recall and F1 by type, in percent."""
        rows = [
            (kind, 100 * p, 100 * r, *(100 * x for x in f1), n)
            for kind, p, r, f1, n in self.per_type
        ]
        header = ("type", "precision", "recall", "F1", "95 % from", "to", "spans")
        return Table(rows, header, caption, digits=1)

    def as_metrics(self) -> dict[str, Any]:
        """For a run's record."""
        value, low, high = self.f1
        kinds = {kind: f1[0] for kind, _, _, f1, _ in self.per_type}
        return {"f1": {"value": value, "low": low, "high": high}, "f1_by_type": kinds}


def tag_report(truth: Tags, found: Tags, types: Sequence[str], *, seed: int = 0) -> TagReport:
    """Entity F1 over all types and by type, with intervals."""
    sums = counts(truth, found, types)
    per_type = []
    for k, kind in enumerate(types):
        right, predicted, labelled = sums[:, k].sum(axis=0).tolist()
        f1 = bootstrap(sums[:, k], f1_of, seed=seed)
        per_type.append(
            (kind, right / max(predicted, 1), right / max(labelled, 1), f1, labelled)
        )
    return TagReport(bootstrap(sums.sum(axis=1), f1_of, seed=seed), per_type, sums)


def compare_tags(first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> Difference:
    """Compare two models by their counts of the same sentences, from `counts`."""
    a, b = (x.sum(axis=1) if x.ndim == 3 else x for x in (first, second))
    value, low, high = bootstrap(a, f1_of, b, seed=seed)
    return Difference(100 * value, 100 * low, 100 * high)


def tag_evaluation(
    examples: Examples, names: Sequence[str], batch_size: int = 64
) -> Callable[[torch.nn.Module], dict[str, float]]:
    """What `fit` calls to evaluate: entity F1 over all types, and the share of right tags."""
    truth = true_tags(examples, names)
    types = sorted({name.partition("-")[2] for name in names} - {""})

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        found = predict_tags(model, examples, names, batch_size=batch_size)
        total = counts(truth, found, types).sum(axis=(0, 1))
        pairs = [
            (a, b) for t, f in zip(truth, found, strict=True) for a, b in zip(t, f, strict=True)
        ]
        right = sum(a == b for a, b in pairs) / max(len(pairs), 1)
        return {"f1": float(f1_of(total)), "accuracy": right}

    return evaluate
