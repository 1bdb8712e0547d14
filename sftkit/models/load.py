"""Load a pretrained model with a classification head, by catalogue name, folder or Hub id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sftkit import assets
from sftkit.errors import ModelError
from sftkit.models import unread
from sftkit.models.export import FORMAT_FILE, read_format
from sftkit.models.frozen import set_trainable
from sftkit.models.heads import MeanPoolClassifier

HEADS = ("mean", "first")


def load(
    name_or_path: str,
    labels: Sequence[str] | None = None,
    *,
    head: str = "mean",
    train: str = "all",
    dropout: float | None = None,
    seed: int = 0,
    skip_unread: bool = True,
) -> tuple[torch.nn.Module, Any]:
    """Load a pretrained encoder and its tokenizer, ready for classification.

    Args:
        name_or_path: A name of the catalogue (``minilm``), a folder, or a Hub id
            (``hub:distilbert/distilbert-base-uncased``).
        labels: Class names in order. Leave out to load a classifier that `save` wrote.
        head: ``mean`` (of all tokens) or ``first`` (transformers' stock head, which reads
            the first token).
        train: What is trained: see `set_trainable`.
        dropout: Overrides the model's own share in every layer; 0 turns it off.
        seed: Fixes the new head's first weights.
        skip_unread: With the stock head, leave out what it does not read (see
            `models.unread.skip_unread`); the numbers are the same.

    Returns:
        ``(model, tokenizer)``. ``model(**inputs).logits`` has the shape ``(B, C)``.

    Raises:
        ModelError: When there is no such model, or it cannot do this.
    """
    source = _locate(name_or_path)
    if labels is None:
        return _load_saved(source, name_or_path)
    if head not in HEADS:
        raise ModelError(f"head={head!r}.", f"There are {' and '.join(HEADS)}.")
    if len(set(labels)) != len(labels) or len(labels) < 2:
        raise ModelError(f"labels={list(labels)}.", "Give at least two different names.")
    from transformers import AutoConfig, AutoTokenizer

    with _readable_errors(name_or_path):
        config = AutoConfig.from_pretrained(
            source,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout"):
            if dropout is not None and hasattr(config, name):
                setattr(config, name, dropout)
        tokenizer = AutoTokenizer.from_pretrained(source)
        with torch.random.fork_rng(), quiet_transformers():
            torch.manual_seed(seed)
            model = _with_head(source, config, head, dropout)
    if skip_unread:
        unread.skip_unread(model)
    set_trainable(model, train)
    return model, tokenizer


def _with_head(source: str, config: Any, head: str, dropout: float | None) -> torch.nn.Module:
    # float32 by name: the default would be the type in the file, and weights kept in
    # bfloat16 do not move at small learning rates.
    from transformers import AutoModel, AutoModelForSequenceClassification

    if head == "first":
        return AutoModelForSequenceClassification.from_pretrained(
            source, config=config, dtype=torch.float32
        )
    options: dict[str, Any] = {"config": config, "dtype": torch.float32}
    try:
        encoder = AutoModel.from_pretrained(source, add_pooling_layer=False, **options)
    except TypeError:  # architectures without a pooler do not know the argument
        encoder = AutoModel.from_pretrained(source, **options)
    return MeanPoolClassifier(encoder, 0.1 if dropout is None else dropout)


def _locate(name_or_path: str) -> str:
    if name_or_path in assets.catalogue():
        return str(assets.path(name_or_path))
    if name_or_path.startswith("hub:"):
        return name_or_path.removeprefix("hub:")
    folder = Path(name_or_path).expanduser()
    if (folder / "config.json").is_file() or (folder / FORMAT_FILE).is_file():
        return str(folder)
    names = ", ".join(n for n, a in assets.catalogue().items() if a.kind == "model")
    state = "has no config.json" if folder.is_dir() else "is not a folder"
    raise ModelError(
        f"model {name_or_path!r} is not in the catalogue and {state}.",
        f"Give one of {names}; a folder that save_pretrained wrote; or hub:OWNER/NAME.",
    )


def _load_saved(source: str, name: str) -> tuple[torch.nn.Module, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with _readable_errors(name), quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(source)
        if Path(source, FORMAT_FILE).is_file():
            model: torch.nn.Module = read_format(Path(source))
        else:
            model = AutoModelForSequenceClassification.from_pretrained(
                source, dtype=torch.float32
            )
            unread.skip_unread(model)
    model.eval()
    return model, tokenizer


class _readable_errors:
    """Turn what transformers raises for a bad folder or no network into a ModelError."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, problem: BaseException | None, trace: Any) -> None:
        if isinstance(problem, OSError | ValueError | KeyError):
            first = str(problem).strip().splitlines()[0] if str(problem).strip() else str(kind)
            raise ModelError(
                f"model {self.name!r} could not be loaded: {first}",
                "Check the folder or id. Without a network, give model=minilm or a folder.",
            ) from problem


class quiet_transformers:
    """No load report and no bar while a model with a new head is loaded."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._level = logging.get_verbosity()
        self._bar = logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *problem: Any) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._level)
        if self._bar:
            logging.enable_progress_bar()
