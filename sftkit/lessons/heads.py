"""Many small trainings that cost a fraction of a second each: the runs of notebook 19.

A head of two layers on the frozen features of tweets, trained with `sftkit.fit`. The encoder
is run once; then a run depends on its settings and its seed alone.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sftkit.batches import Batches, Examples
from sftkit.errors import CorpusError
from sftkit.files import write_bytes
from sftkit.fit import fit

WIDTH = 32  # of the hidden layer
EPOCHS = 8
SPACE: dict[str, tuple[Any, ...]] = {
    "lr": (2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1),
    "batch_size": (32, 128, 512),
    "dropout": (0.0, 0.2, 0.4),
    "weight_decay": (0.0, 0.1),
}
TRAIN, VALIDATION, TEST = 512, 300, 2_000  # tweets


@dataclass(frozen=True)
class Split:
    """Features ``(rows, D)`` and classes ``(rows,)`` of one split."""

    x: torch.Tensor
    y: torch.Tensor


def splits(train: int = TRAIN, validation: int = VALIDATION, test: int = 0) -> dict[str, Split]:
    """Frozen MiniLM features of tweets, from the cache where they are there already.

    Args:
        train, validation, test: How many rows of each split; 0 leaves a split out.
    """
    from datasets import DatasetDict

    from sftkit import corpora, encode, models

    corpus = corpora.load("tweets", limit=train, seed=0)
    names = corpus["train"].features["label"].names
    model, tokenizer = models.load("minilm", names, head="mean", seed=0)
    wanted = {"train": train, "validation": validation, "test": test}
    rows = DatasetDict(
        {s: corpus[s].select(_some(len(corpus[s]), n)) for s, n in wanted.items() if n}
    )
    found = {}
    for name, part in encode.classification(rows, tokenizer, 64).items():
        examples = Examples.of(part, tokenizer.pad_token_id)
        x = torch.from_numpy(models.head_features(model, examples, len(names)))
        found[name] = Split(x, torch.as_tensor(np.asarray(examples.columns["labels"])).long())
    return found


def save(data: Mapping[str, Split], path: Path) -> None:
    """Keep splits in a file, so that other runs need neither texts nor encoder."""
    arrays = {f"{s}.{n}": getattr(part, n).numpy() for s, part in data.items() for n in "xy"}
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    write_bytes(path, stream.getvalue())


def load(path: Path | str) -> dict[str, Split]:
    """What `save` has kept.

    Raises:
        CorpusError: There is no such file, or it is another one.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = sorted({name.partition(".")[0] for name in file.files})
            return {
                s: Split(torch.from_numpy(file[f"{s}.x"]), torch.from_numpy(file[f"{s}.y"]))
                for s in names
            }
    except (OSError, KeyError, ValueError) as problem:
        raise CorpusError(
            f"{path} holds no features: {problem}.", "Write it with sftkit.lessons.heads.save."
        ) from None


def _some(count: int, wanted: int) -> np.ndarray:
    """The same rows on every call, in their order."""
    return np.sort(np.random.default_rng(0).permutation(count)[:wanted])


class Head(nn.Module):
    """Features to logits by one hidden layer. It looks its rows up in a table."""

    def __init__(self, x: torch.Tensor, classes: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("x", x, persistent=False)
        hidden = nn.Linear(x.shape[1], WIDTH), nn.Tanh(), nn.Dropout(dropout)
        self.layers = nn.Sequential(*hidden, nn.Linear(WIDTH, classes))

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        return self.layers(self.x[row])  # type: ignore[index]

    def accuracy(self, part: Split) -> float:
        """Share of a split that is right, in evaluation mode."""
        self.eval()
        with torch.no_grad():
            return float((self.layers(part.x).argmax(1) == part.y).float().mean())


def head_loss(
    model: nn.Module, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of a batch of row numbers: sum and count."""
    loss_sum = F.cross_entropy(model(batch["row"]), batch["labels"], reduction="sum")
    return loss_sum, torch.tensor(len(batch["labels"]))


def train_head(
    data: Mapping[str, Split], setting: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """One run.

    Args:
        data: From `splits`.
        setting: A value for each name of `SPACE`; ``epochs`` too, if not `EPOCHS`.

    Returns:
        ``validation``: accuracy after each epoch; ``test``, if there is that split;
        ``seconds`` of the processor.
    """
    begin, train = time.process_time(), data["train"]
    torch.manual_seed(seed)
    classes = int(train.y.max()) + 1
    model = Head(train.x, classes, setting["dropout"])
    rows = Examples({"row": np.arange(len(train.y)), "labels": train.y.numpy()})
    state = fit(
        model,
        Batches(rows, setting["batch_size"], seed=seed, by_length=False),
        head_loss,
        evaluate=lambda m: {"accuracy": m.accuracy(data["validation"])},  # type: ignore[operator]
        epochs=setting.get("epochs", EPOCHS),
        lr=setting["lr"],
        weight_decay=setting["weight_decay"],
        seed=seed,
        precision="fp32",
        label="head",
    )
    found = {"validation": [round(row["accuracy"], 4) for row in state.evaluations]}
    more = {"test": round(model.accuracy(data["test"]), 4)} if "test" in data else {}
    return found | more | {"seconds": round(time.process_time() - begin, 3)}


def settings() -> list[dict[str, Any]]:
    """Every combination of `SPACE`."""
    return [dict(zip(SPACE, values, strict=True)) for values in product(*SPACE.values())]
