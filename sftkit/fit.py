"""The one training loop, for every task.

Per optimizer step: add up the sums and counts of the loss over micro-batches and processes,
divide once, clip, step. The loop knows a model, batches and a loss; it does not know tasks.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sftkit import device, generators, guard
from sftkit.batches import Batches
from sftkit.errors import FitError, ParameterError
from sftkit.fingerprint import fingerprint, refuse_other
from sftkit.fit_settings import Callback, Evaluation, FitConfig, FitState
from sftkit.generators import seed_everything
from sftkit.guard import metrics_of, rows_of, run_loss, tokens_of
from sftkit.losses import Loss
from sftkit.models.dropout import CheapDropout
from sftkit.models.frozen import train_mode
from sftkit.optim import Schedule, clip_and_divide, make_optimizer, parameter_groups
from sftkit.resume import Keeper, weights
from sftkit.teach.progress import progress, tell_evaluations

__all__ = ["fit", "seed_everything"]


def fit(
    model: torch.nn.Module,
    batches: Batches,
    loss: Loss,
    *,
    evaluate: Evaluation | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    label: str = "training",
    **options: Any,
) -> FitState:
    """Train a model in place.

    Args:
        model: Any torch module that ``loss`` can run.
        batches: The training data, as optimizer steps of micro-batches.
        loss: Gives ``(sum, count)`` for a model and a batch (see `losses`).
        evaluate: Gives validation metrics, among them ``metric``. Called in evaluation mode.
        folder: Where checkpoints go. None saves nothing.
        resume: Go on from the newest checkpoint in ``folder``, if there is one.
        callbacks: Told of each step and evaluation. One with ``state_dict`` and
            ``load_state_dict`` is in the checkpoints too (see `fit_settings`).
        options: The fields of `FitConfig`.

    Returns:
        The record of the run: loss, rate, gradient norm, items and time of each step, and
        the evaluations.

    Raises:
        ParameterError: Unknown or impossible options, before anything starts.
        FitError: No data, nothing supervised in a batch, or a loss that is not finite; the
            message names the step and the rows. Or another process trains in ``folder``.
        CheckpointError: A checkpoint cannot be saved, is damaged, or belongs to another run.
    """
    config = FitConfig.of(options)
    guard.refuse_wrong_types(model, batches, loss, evaluate, callbacks)
    if len(batches) == 0:
        raise FitError("there is no training data.", "Give at least one example.")
    if resume and folder is None:
        raise ParameterError("resume=True without folder.", "Name the folder of the run.")
    run = _Run(model, batches, loss, config, evaluate, folder, callbacks)
    with run.keeper.held(resume) if run.keeper else nullcontext():
        if resume:
            run.restore()
        run.train(label)
    return run.state


class _Run:
    """One call of `fit`."""

    def __init__(
        self,
        model: torch.nn.Module,
        batches: Batches,
        loss: Loss,
        config: FitConfig,
        evaluate: Evaluation | None,
        folder: str | Path | None,
        callbacks: Sequence[Callback],
    ) -> None:
        device.keep_freed_memory()
        self.model = model
        self.accelerator, self.wrapped = guard.prepare(model)
        self.batches, self.loss, self.config = batches, loss, config
        self.evaluate, self.callbacks = evaluate, callbacks
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        groups = parameter_groups(model, config.weight_decay, config.head_lr_factor)
        self.optimizer = make_optimizer(config.optimizer, groups, config.lr)
        self.total = max(1, round(config.epochs * len(batches)))
        if config.max_steps is not None:
            self.total = min(self.total, config.max_steps)
        self.schedule = Schedule(config.schedule, self.total, config.warmup)
        self.state = FitState()
        self.best_weights: dict[str, torch.Tensor] | None = None
        precision = config.precision
        if precision == "auto":
            precision = device.auto_precision(self.accelerator.device.type)
        self.precision = precision
        self.keeper: Keeper | None = None
        if folder is not None:
            keep = (Path(folder), model, self.optimizer, callbacks, config.keep)
            self.keeper = Keeper(*keep, self.accelerator)
        torch.manual_seed(generators.of_process(config.seed, self.accelerator.process_index))

    # -- what outlives the process ------------------------------------------------------------

    @functools.cached_property
    def data(self) -> dict[str, Any]:
        """What a checkpoint must share with this run, settings apart."""
        return fingerprint(self.model, self.batches, self.loss)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with the run that goes on from it."""
        settings = {k: v for k, v in asdict(self.config).items() if k not in ("keep", "seed")}
        settings |= {"fit_seed": self.config.seed, "precision": self.precision}
        return settings | {"total_steps": self.total} | self.data

    def restore(self) -> None:
        """Go on from the newest checkpoint; start at the beginning if there is none."""
        assert self.keeper is not None
        newest = self.keeper.newest()
        if newest is None:
            return

        def accept(saved: dict[str, Any]) -> None:
            if self.config.precision == "auto":  # measured then; another load, another choice
                self.precision = saved["fingerprint"]["precision"]
            refuse_other(newest, saved["fingerprint"], self.identity())

        saved = self.keeper.restore(newest, accept)
        self.schedule.restore(saved["schedule"])
        self.state = FitState(**saved["state"])
        if self.config.keep_best and self.state.best:
            self.best_weights = self.keeper.weights_at(int(self.state.best["step"]))

    def save(self) -> None:
        """Save a checkpoint, once per step."""
        if self.keeper is None:
            return
        best = self.state.best if self.config.keep_best else None
        facts = {"fingerprint": self.identity(), "schedule": self.schedule.state()}
        self.keeper.save(self.state.step, facts | {"state": asdict(self.state), "best": best})

    # -- training ---------------------------------------------------------------------------

    def train(self, label: str) -> None:
        """All steps that are left, then the best weights if asked for."""
        per_epoch, self.label = len(self.batches), label
        with progress(self.total, label, self.state.step) as bar:
            while self.state.step < self.total and not self.state.stopped:
                epoch, position = divmod(self.state.step, per_epoch)
                train_mode(self.model)
                for micro_batches in self.batches.epoch(epoch, start=position):
                    row = self.one_step(micro_batches, epoch)
                    self.state.history.append(row)
                    for callback in self.callbacks:
                        callback.on_step(self.model, self.state)
                    bar.advance(loss=f"{row['loss']:.3f}")
                    self.after_step(per_epoch)
                    if self.state.step >= self.total or self.state.stopped:
                        break
        if self.config.keep_best and self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        self.model.eval()
        if self.keeper is not None:
            self.keeper.done()

    def one_step(self, micro_batches: list[dict[str, torch.Tensor]], epoch: int) -> dict:
        """One optimizer step. Returns its row of the history."""
        start = time.perf_counter()
        lr = self.config.lr * self.schedule.factor(self.state.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        loss_sum, n = self.accumulate(micro_batches)
        norm = clip_and_divide(
            self.parameters, n / self.accelerator.num_processes, self.config.clip
        )
        if not torch.isfinite(norm):
            raise FitError(
                f"step {self.state.step}: the gradient is not finite (loss "
                f"{loss_sum / n:.4g}), rows {rows_of(micro_batches)}.",
                "Lower lr, or look at these rows.",
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.step += 1
        return {
            "step": self.state.step,
            "epoch": epoch,
            "loss": loss_sum / n,
            "n": n,
            "lr": lr,
            "gradient_norm": float(norm),
            "examples": sum(len(b.get("row", next(iter(b.values())))) for b in micro_batches),
            "tokens": sum(tokens_of(batch) for batch in micro_batches),
            "seconds": time.perf_counter() - start,
        }

    def accumulate(self, micro_batches: list[dict[str, torch.Tensor]]) -> tuple[float, float]:
        """Gradients of the summed loss over micro-batches and processes.

        Every process takes its share of the micro-batches. One that has none left repeats
        the first with weight zero, since all must meet in the exchange of gradients.
        """
        processes, index = self.accelerator.num_processes, self.accelerator.process_index
        rounds = -(-len(micro_batches) // processes)
        totals, where = torch.zeros(2, dtype=torch.float64), f"step {self.state.step}"
        for i in range(rounds):
            position = i * processes + index
            real = position < len(micro_batches)
            batch = micro_batches[position if real else 0]
            batch = {k: v.to(self.accelerator.device) for k, v in batch.items()}
            last = i == rounds - 1
            wait = nullcontext() if last else self.accelerator.no_sync(self.wrapped)
            with wait:
                with self._autocast(), CheapDropout():
                    loss_sum, n = run_loss(self.loss, self.wrapped, batch, where)
                (loss_sum if real else loss_sum * 0.0).backward()
            if real:
                totals += torch.stack([loss_sum.detach().double(), n.double()]).cpu()
        if processes > 1:
            totals = self.accelerator.reduce(totals.to(self.accelerator.device))
        if totals[1] == 0:
            raise FitError(
                f"{where}: no label is supervised, rows {rows_of(micro_batches)}.",
                "Every label is -100: look at how these rows were encoded and cut.",
            )
        return float(totals[0]), float(totals[1])

    def _autocast(self):
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16)

    def after_step(self, per_epoch: int) -> None:
        """Evaluate, stop early and save, where the configuration asks for it."""
        step, config = self.state.step, self.config
        last = step >= self.total
        new_best = False
        evaluated = self.evaluate is not None and (
            step % (config.evaluate_every or per_epoch) == 0 or last
        )
        if evaluated:
            new_best = self.run_evaluation()
        if (
            new_best
            and config.keep_best
            or step % (config.save_every or per_epoch) == 0
            or last
            or self.state.stopped
        ):
            self.save()
        if evaluated and self.accelerator.is_main_process:
            tell_evaluations(self.label, self.state.curve)

    def run_evaluation(self) -> bool:
        """Evaluate in evaluation mode, leave training mode as it was. True if a new best."""
        assert self.evaluate is not None
        self.model.eval()
        found = self.evaluate(self.model)
        train_mode(self.model)
        metrics = metrics_of(found, self.config.metric, self.state.step)
        name = self.config.metric.removeprefix("-")
        sign = -1.0 if self.config.metric.startswith("-") else 1.0
        row = {"step": self.state.step, **metrics}
        self.state.evaluations.append(row)
        self.schedule.observe(sign * metrics[name])
        best = self.state.best
        improved = best is None or sign * metrics[name] > sign * best[name]
        if improved:
            self.state.best, self.state.since_best = row, 0
            if self.config.keep_best:
                self.best_weights = weights(self.model)
        else:
            self.state.since_best += 1
            if self.config.patience and self.state.since_best >= self.config.patience:
                self.state.stopped = f"no better {name} in {self.state.since_best} evaluations"
        for callback in self.callbacks:
            callback.on_evaluate(self.model, self.state)
        return improved
