"""Load a model that marks answers: transformers' span head on an encoder."""

from __future__ import annotations

from typing import Any

import torch

from sftkit.models.frozen import set_trainable
from sftkit.models.load import _locate, _readable_errors, quiet_transformers
from sftkit.models.starting import set_dropout


def load_reader(
    name_or_path: str,
    *,
    train: str = "all",
    dropout: float | None = None,
    seed: int = 0,
    pretrained: bool = True,
) -> tuple[Any, Any]:
    """A model with ``start_logits`` and ``end_logits``, and its tokenizer.

    It is one linear layer on the last hidden states: two scores for every token (Devlin et al.
    2019, BERT, section 4.2). `models.save` makes a folder that
    ``AutoModelForQuestionAnswering`` loads.

    Args:
        name_or_path: A name of the catalogue (``minilm``), a folder, or ``hub:OWNER/NAME``.
        train: What is trained: see `frozen.set_trainable`.
        dropout: Another share in all layers.
        seed: Of the new head, and of everything when ``pretrained`` is False.
        pretrained: False gives the same architecture with random weights.

    Raises:
        ModelError: There is no such model.
    """
    from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

    source = _locate(name_or_path)
    with _readable_errors(name_or_path), quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = AutoTokenizer.from_pretrained(source)
        config = AutoConfig.from_pretrained(source)
        if pretrained:
            model = AutoModelForQuestionAnswering.from_pretrained(
                source, config=config, dtype=torch.float32
            )
        else:
            model = AutoModelForQuestionAnswering.from_config(config).float()
    if dropout is not None:
        set_dropout(model, dropout)
    set_trainable(model, train)
    return model, tokenizer
