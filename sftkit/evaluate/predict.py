"""Run a classifier over examples, in an order that wastes little, and hand back theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from sftkit import encode
from sftkit.batches import Batches, Examples
from sftkit.guard import explained
from sftkit.losses import cross_entropy, model_inputs
from sftkit.modes import evaluated


@dataclass(frozen=True)
class Predictions:
    """What a model says of some examples, in the examples' own order.

    Attributes:
        logits: ``(N, C)``.
        labels: ``(N,)``, the true classes; -1 where unknown.
    """

    logits: np.ndarray
    labels: np.ndarray

    @property
    def probs(self) -> np.ndarray:
        """Probabilities, ``(N, C)``."""
        return softmax(self.logits.astype(np.float64), axis=1)

    @property
    def classes(self) -> np.ndarray:
        """The most probable class of each example, ``(N,)``."""
        return self.logits.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """Share of examples whose most probable class is the true one."""
        return float((self.classes == self.labels).mean())


def predict(model: torch.nn.Module, examples: Examples, batch_size: int = 64) -> Predictions:
    """Logits of all examples, in evaluation mode; the model's mode is restored.

    Examples are run sorted by length, so that batches are hardly padded. Each example's
    result depends on it alone, so the order changes nothing but the time.

    Raises:
        FitError: The model cannot take the examples; the message names the rows.
    """
    device = next(model.parameters()).device
    logits: np.ndarray | None = None
    with evaluated(model), torch.inference_mode():
        for rows in Batches(examples, batch_size, shuffle=False).order(0):
            batch = examples.batch(rows)
            inputs = model_inputs(batch)
            inputs = {k: v.to(device) for k, v in inputs.items()}
            with explained(model, batch, "prediction"):
                out = model(**inputs).logits
            if logits is None:
                logits = np.empty((len(examples), out.shape[-1]), dtype=np.float32)
            logits[rows] = out.float().cpu().numpy()
    labels = np.asarray(examples.columns.get("labels", np.full(len(examples), -1)))
    return Predictions(logits if logits is not None else np.empty((0, 0)), labels)


def classify(
    model: Any, tokenizer: Any, texts: Sequence[str], max_length: int = 128
) -> list[dict[str, float]]:
    """Probabilities by class name for texts that a person typed."""
    examples = Examples.of(encode.texts(list(texts), tokenizer, max_length))
    examples.pad_id = tokenizer.pad_token_id
    names = model.config.id2label
    probs = predict(model, examples).probs
    return [{names[i]: float(p) for i, p in enumerate(row)} for row in probs]


def evaluation(
    examples: Examples, batch_size: int = 64
) -> Callable[[torch.nn.Module], dict[str, float]]:
    """What `fit` calls to evaluate: accuracy, and the mean loss over all examples.

    Sums and counts are added up over batches and divided once, so the result does not
    depend on the batch size.
    """

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        found = predict(model, examples, batch_size)
        labels = torch.from_numpy(found.labels).long()
        with explained(model, {"labels": labels}, "evaluation"):
            loss_sum, n = cross_entropy(torch.from_numpy(found.logits).double(), labels)
        return {"accuracy": found.accuracy, "loss": float(loss_sum / n)}

    return evaluate
