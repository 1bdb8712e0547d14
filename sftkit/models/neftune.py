"""Noise on the embeddings in training (NEFTune, Jain et al. 2023, arXiv 2310.05914).

In training, and only there, each number of a row's embeddings ``(L, D)`` gets noise that is
uniform between -1 and 1, times ``alpha / sqrt(L * D)``. The whole row's noise then has the
expected squared length ``alpha**2 / 3``, however long the row is.

L counts the row's real tokens here. transformers and TRL take the padded length, so that there
an example's noise depends on its neighbours in the batch; without padding both are the same.
They also look at the mode of the table, and `fit` leaves a frozen table in evaluation mode:
here the model's own mode counts, so adapters on a frozen model are trained with noise, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sftkit.arguments import number, whole
from sftkit.errors import ModelError, ParameterError


class Noise:
    """The noise of one training run; as a callback of `fit` it is part of the checkpoints.

    Attributes:
        alpha: How much; the paper uses 5 to 15. 0 is none.
        rows: Rows that have got noise so far.
    """

    def __init__(self, model: torch.nn.Module, alpha: float, seed: int) -> None:
        self.alpha = number("alpha", alpha, least=0)
        self.rows = 0
        self._model = model
        self._mask: torch.Tensor | None = None
        # On the processor, so that a seed gives the same noise on every device.
        self._generator = torch.Generator().manual_seed(whole("seed", seed, least=0))

    def see(self, _: torch.nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        """Before the model runs: keep its mask, which the table of embeddings never sees."""
        self._mask = given.get("attention_mask", args[1] if len(args) > 1 else None)
        packed = any(given.get(name) is not None for name in ("document", "document_lengths"))
        if self._model.training and (
            packed or (self._mask is not None and self._mask.ndim > 2)
        ):
            raise ModelError(
                "packed rows have no one length for the noise.",
                "Use Batches in place of PackedBatches, or alpha=0.",
            )

    def add(self, _: torch.nn.Module, __: Any, embedded: torch.Tensor) -> torch.Tensor:
        """After the table: embeddings ``(B, T, D)`` with noise when the model trains."""
        if not self._model.training:
            return embedded
        rows, tokens, width = embedded.shape
        self.rows += rows
        length = torch.full((rows,), tokens) if self._mask is None else self._mask.sum(1).cpu()
        scale = self.alpha / (length.clamp(min=1) * width).sqrt()
        noise = torch.empty(embedded.shape).uniform_(-1, 1, generator=self._generator)
        return embedded + (scale.view(-1, 1, 1) * noise).to(embedded)

    def on_step(self, model: torch.nn.Module, state: Any) -> None:
        """Nothing; `fit` calls it."""

    def on_evaluate(self, model: torch.nn.Module, state: Any) -> None:
        """Nothing; `fit` calls it."""

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on with the noise of the unbroken one."""
        state = self._generator.get_state()
        return {"alpha": self.alpha, "rows": self.rows, "generator": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ParameterError: The saved run had another alpha.
        """
        if state["alpha"] != self.alpha:
            raise ParameterError(
                f"the saved run had noise with alpha={state['alpha']}, this one {self.alpha}.",
                "Give the same alpha, or begin a new run.",
            )
        self.rows = state["rows"]
        self._generator.set_state(state["generator"].cpu())


@contextmanager
def noisy_embeddings(model: Any, alpha: float, seed: int = 0) -> Iterator[Noise]:
    """Train a model with noise on its embeddings; afterwards it is as before.

    ::

        with noisy_embeddings(model, alpha=5.0, seed=0) as noise:
            fit(model, batches, loss, callbacks=[noise])

    The global random state is left alone. With ``alpha=0`` nothing is added to the model.

    Args:
        model: Of transformers, or our `Decoder`: anything with ``get_input_embeddings``.
        alpha: How much noise, at least 0.
        seed: Of the noise.

    Raises:
        ModelError: Within training: packed rows.
        ParameterError: An impossible alpha or seed.
    """
    noise = Noise(model, alpha, seed)
    hooks = []
    if noise.alpha:
        # Losses may call the body without its head, so the body is where the mask passes.
        body = getattr(model, "base_model", model)
        hooks.append(body.register_forward_pre_hook(noise.see, with_kwargs=True))
        hooks.append(model.get_input_embeddings().register_forward_hook(noise.add))
    try:
        yield noise
    finally:
        for hook in hooks:
            hook.remove()
