"""What the head sees of a frozen model, computed once; and a head fitted on it."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import torch

from sftkit.batches import Batches, Examples, Ragged
from sftkit.errors import ModelError
from sftkit.files import cache_folder, write_bytes
from sftkit.losses import NOT_FOR_THE_MODEL, model_inputs
from sftkit.models.parts import base_of, last_linear
from sftkit.modes import evaluated


def head_features(
    model: torch.nn.Module, examples: Examples, classes: int, batch_size: int = 64
) -> np.ndarray:
    """What the last linear layer sees, without dropout: ``(rows, D)``.

    The result depends on the weights and the token ids alone, so it is kept in the cache
    folder under a hash of both, and the next run with the same ones does not compute it.
    """
    layer = last_linear(model, classes)
    path = cache_folder() / "features" / f"{_hash(model, layer, examples)}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False)
    found = compute(model, layer, examples, batch_size)
    stream = io.BytesIO()
    np.save(stream, found, allow_pickle=False)
    write_bytes(path, stream.getvalue())
    return found


def _hash(model: torch.nn.Module, layer: torch.nn.Linear, examples: Examples) -> str:
    """Of the weights below ``layer``, of the configuration, and of what the model reads."""
    digest = hashlib.sha256(f"{torch.__version__} {type(model).__name__}".encode())
    config: Any = getattr(model, "config", None)
    if config is not None:  # label names and dropout change nothing here
        shape = {k: v for k, v in config.to_dict().items() if isinstance(v, int | str | bool)}
        digest.update(repr(sorted(shape.items())).encode())
    own = {id(p) for p in layer.parameters()}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) not in own:
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            )
    for name in sorted(examples.columns.keys() - set(NOT_FOR_THE_MODEL)):
        column = examples.columns[name]
        digest.update(name.encode())
        if isinstance(column, Ragged):
            digest.update(column.lengths.tobytes())
        values = column.values if isinstance(column, Ragged) else column
        digest.update(values.tobytes())
    return digest.hexdigest()


def compute(
    model: torch.nn.Module, layer: torch.nn.Linear, examples: Examples, batch_size: int = 64
) -> np.ndarray:
    """What a layer sees of each example, without dropout and without the cache.

    Returns:
        ``(rows, D)``, where D is the layer's number of inputs.
    """
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    device = next(model.parameters()).device
    out = np.empty((len(examples), layer.in_features), dtype=np.float32)
    try:
        with evaluated(model), torch.inference_mode():
            for rows in Batches(examples, batch_size, shuffle=False).order(0):
                batch = model_inputs(examples.batch(rows))
                model(**{k: v.to(device) for k, v in batch.items()})
                out[rows] = seen.pop().float().cpu().numpy()
    finally:
        hook.remove()
    return out


def fit_head(
    model: torch.nn.Module,
    examples: Examples,
    C: float = 1.0,
    features: np.ndarray | None = None,
) -> np.ndarray:
    """Fit the last layer by logistic regression on frozen features, and put it in place.

    Fine-tuning from a fitted head distorts the pretrained features less than from a random
    one (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution").

    Args:
        examples: With ``labels``, one class each. Every class must occur.
        C: Inverse strength of the L2 penalty, as in scikit-learn.
        features: From `head_features`, if they are known already.

    Returns:
        The features, ``(rows, D)``.
    """
    from sklearn.linear_model import LogisticRegression

    labels = np.asarray(examples.columns["labels"])
    config: Any = getattr(model, "config", None) or getattr(base_of(model), "config", None)
    classes = config.num_labels
    if len(np.unique(labels)) != classes:
        raise ModelError(
            f"{classes} classes, but the examples have {len(np.unique(labels))} of them.",
            "Give more examples, or start from a random head.",
        )
    if features is None:
        features = head_features(model, examples, classes)
    regression = LogisticRegression(C=C, max_iter=2000).fit(features, labels)
    weight, bias = regression.coef_, regression.intercept_
    if classes == 2:  # one row for two classes: split it evenly, the softmax is the same
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    layer = last_linear(model, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return features
