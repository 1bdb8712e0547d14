"""Save a fine-tuned classifier so that nothing which loads it computes something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sftkit.errors import ModelError
from sftkit.files import folder_in_one_piece, write_json, write_text
from sftkit.models.folders import (
    README_FILE,
    TOKENIZER,
    TRANSFORMERS,
    read_object,
    refuse_foreign,
)

FORMAT_FILE = "sftkit.json"
WEIGHTS_FILE = "sftkit.safetensors"
# All that is in a folder of a model of ours; `committed` has records, too.
OWN = (FORMAT_FILE, WEIGHTS_FILE, *TOKENIZER, "record.json")

README = """# A classifier with a head of sftkit's

This folder holds an encoder and a classifier on the **{head}** of its hidden states.
transformers has no such head, so `pipeline(...)` and `AutoModel...` refuse this folder
rather than compute something else. Load it with

    from sftkit import models
    model, tokenizer = models.load("path/to/this/folder")

Classes: {labels}
"""


def save(model: Any, tokenizer: Any, folder: str | Path) -> Path:
    """Save a classifier in one piece: the folder is whole, or it is as it was before.

    A model with a stock head becomes an ordinary transformers folder, which
    ``pipeline("text-classification", model=folder)`` loads with its label names. A head
    that transformers does not have is saved as safetensors and JSON, with a README, under
    file names that transformers does not take for its own.

    Returns:
        The folder.

    Raises:
        ModelError: A model of another kind, or a folder that holds anything but a model.
    """
    from sftkit.models.heads import MeanPoolClassifier

    folder = Path(folder)
    stock = hasattr(model, "save_pretrained")
    if not stock and not isinstance(model, MeanPoolClassifier):
        raise ModelError(
            f"{type(model).__name__} is neither a model of transformers nor a head of ours.",
            "Save it with safetensors.torch.save_model, and its class with your code.",
        )
    names = (*OWN, *TRANSFORMERS, README_FILE)
    refuse_foreign(folder, [FORMAT_FILE, "config.json"], names, "does not hold a model")
    with folder_in_one_piece(folder) as part:
        tokenizer.save_pretrained(part)
        if stock:
            model.save_pretrained(part)
        else:
            _save_own(model, part)
    return folder


def _save_own(model: Any, folder: Path) -> None:
    from safetensors.torch import save_model

    save_model(model, str(folder / WEIGHTS_FILE))
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    # The encoder's config lies inside ours: a config.json beside weights is what
    # transformers looks for, and it would add a head of its own.
    write_json(
        folder / FORMAT_FILE,
        {
            "format": 1,
            "head": "mean",
            "dropout": model.dropout.p,
            "labels": names,
            "encoder": model.config.to_dict(),
        },
    )
    write_text(folder / README_FILE, README.format(head="mean", labels=", ".join(names)))


def read_format(folder: Path) -> torch.nn.Module:
    """Load a classifier that `save` wrote in sftkit's own format."""
    from safetensors.torch import load_model
    from transformers import AutoConfig, AutoModel

    from sftkit.models.heads import MeanPoolClassifier

    description = read_object(folder / FORMAT_FILE)
    if description.get("format") != 1 or description.get("head") != "mean":
        raise ModelError(
            f"{folder / FORMAT_FILE} is of a kind that this version does not know.",
            "Load it with the version of sftkit that saved it.",
        )
    fields = dict(description["encoder"])
    # JSON made the class numbers text.
    fields["id2label"] = {int(i): name for i, name in fields["id2label"].items()}
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    try:
        encoder = AutoModel.from_config(config, add_pooling_layer=False)
    except TypeError:
        encoder = AutoModel.from_config(config)
    model = MeanPoolClassifier(encoder.float(), description["dropout"])
    load_model(model, str(folder / WEIGHTS_FILE))
    return model
