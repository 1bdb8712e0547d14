"""A loss run on a batch, and an evaluation: what goes wrong there, with rows and remedies.

Most mistakes in data and models surface here, as errors of torch that name neither the row nor
the column. What is known about a failure is said; the original error stays behind it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from sftkit.batches import IGNORE
from sftkit.errors import FitError, ParameterError
from sftkit.losses import Loss
from sftkit.models.parts import base_of

if TYPE_CHECKING:
    from sftkit.batches import Batch

# What torch, transformers and a user's own code raise. Errors of ours say enough themselves.
FOREIGN = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
CHECK = "check_run(model, batches, loss) looks at ids, labels and shapes before training."


def prepare(model: torch.nn.Module) -> tuple[Any, torch.nn.Module]:
    """accelerate, which gives device and processes, and the model wrapped for them.

    Raises:
        FitError: The device is not there, or the model cannot be brought to it.
    """
    from accelerate import Accelerator

    device = "the device"
    try:
        # Precision is ours to choose, by measurement.
        accelerator = Accelerator(mixed_precision="no")
        device = str(accelerator.device)
        return accelerator, accelerator.prepare_model(model.to(accelerator.device))
    except (*FOREIGN, AssertionError) as problem:  # torch asserts that it knows CUDA
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise FitError(
            f"training cannot be set up on {device}: {said.rstrip('.')}.",
            "Load the model with its weights (not on the meta device), and look at the "
            "variables ACCELERATE_TORCH_DEVICE, CUDA_VISIBLE_DEVICES, RANK and WORLD_SIZE.",
        ) from problem


def rows_of(batches: list[Batch], most: int = 8) -> str:
    """The numbers of a step's rows, for a message."""
    rows = [int(r) for batch in batches for r in batch.get("row", torch.empty(0)).tolist()]
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return ", ".join(map(str, rows[:most])) + more if rows else "unknown"


def tokens_of(batch: Batch) -> int:
    """How many tokens a batch holds, padding left out; its rows where it has no mask."""
    mask = batch.get("attention_mask")
    return int(mask.sum()) if mask is not None else len(next(iter(batch.values())))


def run_loss(
    loss: Loss, model: torch.nn.Module, batch: Batch, where: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and count of a loss on a batch.

    Args:
        where: The place in the run, for messages.

    Raises:
        FitError: The model or the loss fails on the batch, gives something else than
            ``(sum, count)``, or a sum that is not finite.
    """
    with explained(model, batch, where):
        given = loss(model, batch)
    place = f"{where}, rows {rows_of([batch])}"
    try:
        loss_sum, n = given
        loss_sum, n = _scalar(loss_sum), _scalar(n)
    except (TypeError, ValueError):
        raise FitError(
            f"{place}: the loss gave {_kind(given)}.",
            "It must give two numbers as tensors: the sum over supervised items, and how many.",
        ) from None
    if not torch.isfinite(loss_sum):
        raise FitError(
            f"{where}: the loss is {loss_sum.item()}, rows {rows_of([batch])}.",
            "Lower lr, or look at these rows.",
        )
    if torch.is_grad_enabled() and not loss_sum.requires_grad:
        raise FitError(
            f"{place}: no trained parameter takes part in the loss.",
            "Look at what is frozen, and for detach() or no_grad() in the model or the loss.",
        )
    return loss_sum, n


def _scalar(value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        value = torch.tensor(value)
    if value.numel() != 1:
        raise ValueError
    return value.reshape(())


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"one tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(_kind(v) for v in value) or 'nothing'}"
    return f"a {type(value).__name__}"


@contextmanager
def explained(model: torch.nn.Module, batch: Batch, where: str) -> Iterator[None]:
    """FitError in place of what torch says when a model cannot take a batch."""
    try:
        yield
    except FOREIGN as problem:
        what, fix = _explain(model, batch, problem)
        place = f"{where}, rows {rows_of([batch])}" if "row" in batch else where
        raise FitError(f"{place}: {what}.", fix) from problem


def _explain(model: torch.nn.Module, batch: Batch, problem: Exception) -> tuple[str, str]:
    """What is wrong with the batch, as far as it can be seen from outside; and what to do."""
    said = (str(problem).strip().splitlines() or ["nothing more"])[0]
    if isinstance(problem, torch.OutOfMemoryError) or "can't allocate memory" in said:
        return "the memory is full", "Give a smaller micro_batch_size, or shorter texts."
    found = _ids(model, batch) or _labels(model, batch, problem) or _length(model, batch)
    if found:
        return found
    if isinstance(problem, KeyError) and problem.args and problem.args[0] not in batch:
        have = ", ".join(batch)
        return (
            f"there is no column {problem.args[0]!r}, only {have}",
            "Encode it, or name it so.",
        )
    return f"{type(problem).__name__}: {said}", CHECK


def _ids(model: torch.nn.Module, batch: Batch) -> tuple[str, str] | None:
    ids, find_table = (
        batch.get("input_ids"),
        getattr(base_of(model), "get_input_embeddings", None),
    )
    if ids is None or find_table is None or not ids.numel():
        return None
    if ids.is_floating_point():
        return "token ids are numbers with fractions", "Encode texts with the tokenizer."
    known, low, high = find_table().weight.shape[0], int(ids.min()), int(ids.max())
    if low >= 0 and high < known:
        return None
    return (
        f"token ids run from {low} to {high}, but the model knows 0 to {known - 1}",
        "Encode with the tokenizer of this model, or make room with its "
        "resize_token_embeddings(len(tokenizer)).",
    )


def _labels(model: torch.nn.Module, batch: Batch, problem: Exception) -> tuple[str, str] | None:
    labels = batch.get("labels")
    if labels is None or labels.is_floating_point() or "out of bounds" not in str(problem):
        return None
    seen = labels[labels != IGNORE]
    classes = getattr(getattr(model, "config", None), "num_labels", None)
    known = f", and the model has {classes} classes" if classes else ""
    return (
        f"labels run from {int(seen.min())} to {int(seen.max())}{known}",
        "Load the model with the class names of the data; -100 stands for no label.",
    )


def _length(model: torch.nn.Module, batch: Batch) -> tuple[str, str] | None:
    ids, config = batch.get("input_ids"), getattr(model, "config", None)
    most = getattr(config, "max_position_embeddings", None)
    if ids is None or ids.ndim < 2 or not most or ids.shape[1] <= most:
        return None
    return (
        f"a row has {ids.shape[1]} tokens, and the model has places for {most}",
        f"Encode with max_length={most} or less.",
    )


def refuse_wrong_types(
    model: Any, batches: Any, loss: Any, evaluate: Any, callbacks: Any
) -> None:
    """ParameterError when an argument of `fit` is not what it must be."""
    wanted = {
        "model": (model, isinstance(model, torch.nn.Module), "a torch.nn.Module"),
        "batches": (batches, hasattr(batches, "epoch"), "sftkit.batches.Batches"),
        "loss": (loss, callable(loss), "a function of (model, batch), as in sftkit.losses"),
        "evaluate": (evaluate, evaluate is None or callable(evaluate), "a function of a model"),
        "callbacks": (callbacks, not hasattr(callbacks, "on_step"), "a list of callbacks"),
    }
    for name, (value, right, what) in wanted.items():
        if not right:
            raise ParameterError(f"{name} is a {type(value).__name__}.", f"Give {what}.")
    for callback in callbacks:
        for name in ("on_step", "on_evaluate"):
            if not callable(getattr(callback, name, None)):
                raise ParameterError(
                    f"the callback {type(callback).__name__} has no {name}.",
                    "Give it both on_step(model, state) and on_evaluate(model, state).",
                )
        if hasattr(callback, "state_dict") != hasattr(callback, "load_state_dict"):
            raise ParameterError(
                f"the callback {type(callback).__name__} has one of state_dict and "
                "load_state_dict.",
                "Give it both, to be in checkpoints, or none.",
            )


def metrics_of(found: Any, metric: str, step: int) -> dict[str, float]:
    """What an evaluation gave, as plain numbers; the one that chooses is finite.

    Args:
        metric: The name that `FitConfig` has, with ``-`` where lower is better.

    Raises:
        FitError: It gave no dictionary of numbers, or a metric that is not finite.
        ParameterError: The metric is not in it.
    """
    where = f"step {step}: evaluate gave"
    if not isinstance(found, Mapping):
        raise FitError(f"{where} {_kind(found)}.", 'Give a dictionary, such as {"f1": 0.7}.')
    plain: dict[str, float] = {}
    for key, value in found.items():
        try:
            plain[str(key)] = float(value)
        except (TypeError, ValueError):
            raise FitError(f"{where} {key}={_kind(value)}.", "Give one number each.") from None
    name = metric.removeprefix("-")
    if name not in plain:
        raise ParameterError(
            f"metric={metric!r} is not among what evaluate gives: {', '.join(plain)}.",
            "Name one of these.",
        )
    if not math.isfinite(plain[name]):
        raise FitError(
            f"{where} {name}={plain[name]}, which cannot be compared.",
            "Look at the evaluation's data, or name another metric.",
        )
    return plain
