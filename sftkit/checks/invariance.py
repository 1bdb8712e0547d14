"""What must not change: one model and the same examples, laid out, resumed or packed otherwise.

`layouts` takes one optimizer step over the same examples in several groupings. `leak` and
`influence` ask which inputs an output depends on. `first_difference` compares the records of
two runs. None of them has a threshold of its own: they give numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sftkit.batches import IGNORE, Batches, Examples
from sftkit.errors import ModelError, ParameterError
from sftkit.losses import Loss
from sftkit.losses_lm import causal_inputs
from sftkit.models.parts import base_of
from sftkit.modes import evaluated
from sftkit.optim import clip_and_divide
from sftkit.packing import PackedBatches
from sftkit.teach import show

if TYPE_CHECKING:
    from sftkit.batches import Batch

NOT_COMPARED = ("seconds",)  # columns of a history that differ between equal runs


@dataclass(frozen=True)
class Layout:
    """One optimizer step over some examples, laid out in one way."""

    name: str
    n: float  # what the loss counted
    loss: float  # sum over count
    gradient: torch.Tensor  # (P,), of that mean

    @property
    def norm(self) -> float:
        """The length of the gradient."""
        return float(self.gradient.norm())


def layouts(
    model: torch.nn.Module,
    examples: Examples,
    loss: Loss,
    row_tokens: int | None = None,
) -> list[Layout]:
    """The same examples in one micro-batch, in halves, quarters, ... and one by one.

    A right loss gives the same mean and the same gradient in every layout. The step is made
    as `fit` makes it: sums and counts are added up over micro-batches and divided once.

    Args:
        model: Run as it is, without dropout; its gradients are lost.
        examples: All of them make one step.
        loss: As for `fit`: gives (sum, count).
        row_tokens: Also pack them into rows of at most so many tokens.
    """
    rows = len(examples)
    sizes = [rows]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    plans: list[tuple[str, Batches]] = [
        (f"{-(-rows // size)} × {size}", Batches(examples, rows, micro_batch_size=size))
        for size in sizes
    ]
    if row_tokens is not None:
        plans.append(("packed", PackedBatches(examples, rows, row_tokens=row_tokens)))
    with evaluated(model):
        return [one_step(name, model, next(plan.epoch(0)), loss) for name, plan in plans]


def one_step(
    name: str, model: torch.nn.Module, micro_batches: Iterable[Batch], loss: Loss
) -> Layout:
    """Mean loss and gradient of one optimizer step; the weights stay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    model.zero_grad(set_to_none=True)
    total = n = 0.0
    for batch in micro_batches:
        loss_sum, count = loss(model, batch)
        loss_sum.backward()
        total, n = total + float(loss_sum.detach()), n + float(count)
    clip_and_divide(parameters, n, None)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    gradient = torch.cat([part.flatten() for part in parts])
    model.zero_grad(set_to_none=True)
    return Layout(name, n, total / n, gradient)


def spread(found: Sequence[Layout]) -> float:
    """How far the gradients of some layouts are from the first, relative to its length."""
    first = found[0].gradient
    return max(float((other.gradient - first).norm() / first.norm()) for other in found[1:])


def layouts_table(found: Sequence[Layout], caption: str = "") -> show.Table:
    """Layouts as a table; the cosine is that with the gradient of the first."""
    first = found[0].gradient
    rows = [
        [
            layout.name,
            int(layout.n),
            layout.loss,
            layout.norm,
            float(torch.cosine_similarity(layout.gradient, first, dim=0)),
        ]
        for layout in found
    ]
    header = ["layout", "counted", "loss", "gradient norm", "cosine with the first"]
    return show.Table(rows, header, caption, digits=4)


def leak(model: torch.nn.Module, batch: Batch, loss: Loss) -> float:
    """How strongly the loss of one packed document depends on the others in its row.

    Only the last document of the first row with two documents is left supervised. The
    gradient of its loss with respect to the embedded tokens is exactly zero outside the
    document, if nothing leaks.

    Returns:
        Largest gradient at a place of another document over the largest at an own place;
        0.0 also when no row has two documents or nothing is supervised.

    Raises:
        ModelError: The model does not say where its embeddings are.
    """
    document = batch["document"]
    rows = (document.amax(dim=1) > 0).nonzero().flatten().tolist()
    if not rows:
        return 0.0
    row = {k: v[rows[0] : rows[0] + 1] for k, v in batch.items() if v.ndim == 2}
    own = row["document"] == row["document"].max()
    row["labels"] = row["labels"].masked_fill(~own, IGNORE)
    _tried_out(model, row)
    with embedded(model) as kept:
        loss_sum, n = loss(model, row)
        if not n:
            return 0.0
        (gradient,) = torch.autograd.grad(loss_sum, kept[0])
    size = gradient.norm(dim=-1)
    return float(size.masked_fill(own, 0).max() / size.masked_fill(~own, 0).max())


def label_lead(model: torch.nn.Module, batch: Batch, loss: Loss) -> int | None:
    """How far a token lies behind the last token that its prediction has read.

    Only the last label of the first row is left supervised. The gradient of its loss with
    respect to the embedded tokens ends with the last token that was read for it.

    Args:
        batch: Labels at the places of their tokens.

    Returns:
        1 for the prediction of the next token; 0 or less when the token itself was read: the
        labels are not shifted, or the model looks ahead; 2 when the token before it was not
        read: the labels are shifted twice. None when nothing is supervised.

    Raises:
        ModelError: The model does not say where its embeddings are.
    """
    row = {k: v[:1] for k, v in batch.items()}
    places = (row["labels"][0] != IGNORE).nonzero().flatten().tolist()
    if not places:
        return None
    other = torch.arange(row["labels"].shape[1], device=row["labels"].device) != places[-1]
    row["labels"] = row["labels"].masked_fill(other, IGNORE)
    _tried_out(model, row)
    with embedded(model) as kept:
        loss_sum, n = loss(model, row)
        if not n:
            return None
        (gradient,) = torch.autograd.grad(loss_sum, kept[0])
    read = gradient[0].norm(dim=-1).nonzero().flatten().tolist()
    return places[-1] - read[-1] if read else None


def _tried_out(model: torch.nn.Module, batch: Batch) -> None:
    """Let the trial of `causal_inputs` be over: the first call seen must be the loss's."""
    with suppress(ParameterError):  # what cannot be packed is for the loss to say
        causal_inputs(model, batch)


def influence(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Which inputs does each output depend on?

    Args:
        run: From ``(T, D)`` to ``(T, E)``.
        x: ``(T, D)``, floats.

    Returns:
        ``(T, T)``: entry ``[t, s]`` is the length of the gradient of output ``t``, along a
        fixed random direction, with respect to input ``s``; exactly 0 where there is no path.
    """
    x = x.detach().clone().requires_grad_()
    output = run(x)
    direction = torch.randn(
        output.shape[-1], dtype=output.dtype, generator=torch.Generator().manual_seed(0)
    )
    rows = []
    for t in range(len(output)):
        (gradient,) = torch.autograd.grad(output[t] @ direction, x, retain_graph=True)
        rows.append(gradient.norm(dim=-1))
    return torch.stack(rows)


def token_influence(model: torch.nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
    """`influence` of the embedded tokens on the logits of the first row, ``(T, T)``."""
    with torch.no_grad(), embedded(model) as kept:
        model(**inputs)
    start = kept[0][0].detach()

    def run(x: torch.Tensor) -> torch.Tensor:
        with embedded(model, x):
            output: Any = model(**inputs)
        return output.logits[0]

    return influence(run, start)


@contextmanager
def embedded(
    model: torch.nn.Module, first_row: torch.Tensor | None = None
) -> Iterator[list[torch.Tensor]]:
    """Within the block, embedded tokens are leaves that gradients can be asked for.

    Args:
        first_row: ``(T, D)``: put in place of the first row's embedded tokens.

    Yields:
        A list that gets what each call of the table gave, ``(B, T, D)``.
    """
    find_table = getattr(base_of(model), "get_input_embeddings", None)
    if find_table is None:
        raise ModelError(
            f"{type(model).__name__} does not say where its embeddings are.",
            "Give it get_input_embeddings(), as models of transformers have.",
        )
    kept: list[torch.Tensor] = []

    def replace(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        if first_row is None:
            output = output.detach().requires_grad_()
        else:
            output = torch.cat([first_row.unsqueeze(0), output.detach()[1:]])
        kept.append(output)
        return output

    handle = find_table().register_forward_hook(replace)
    try:
        yield kept
    finally:
        handle.remove()


def first_difference(
    one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]
) -> tuple[int, list[str]] | None:
    """Where the records of two runs part: the step, and the columns that differ there.

    Args:
        one, other: ``state.history`` of two runs over the same steps. Times are left out.

    Returns:
        None when they are equal, bit for bit.

    Raises:
        ParameterError: The records have different lengths.
    """
    if len(one) != len(other):
        raise ParameterError(
            f"{len(one)} steps and {len(other)} steps.", "Compare records of the same steps."
        )
    for a, b in zip(one, other, strict=True):
        names = [k for k in {**a, **b} if k not in NOT_COMPARED and a.get(k) != b.get(k)]
        if names:
            return int(a.get("step", 0)), names
    return None
