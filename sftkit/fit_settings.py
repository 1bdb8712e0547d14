"""How to train, where training is, and who is told: the settings and the state of `fit`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch

from sftkit.arguments import number, whole
from sftkit.errors import ParameterError
from sftkit.optim import OPTIMIZERS, SCHEDULES, Schedule

PRECISIONS = ("auto", "fp32", "bf16")
Evaluation = Callable[[torch.nn.Module], dict[str, float]]


@dataclass(frozen=True)
class FitConfig:
    """How to train. Checked as a whole before anything starts."""

    epochs: float = 3  # passes over the data; a fraction ends within a pass
    max_steps: int | None = None  # optimizer steps, at most
    lr: float = 2e-4  # the highest learning rate
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    head_lr_factor: float = 1.0  # learning rate of the head over that of the body
    schedule: str = "linear"
    warmup: float = 0.1  # share of the steps
    clip: float | None = 1.0  # largest gradient norm
    precision: str = "auto"  # fp32, bf16, or auto: fp32 on CPU, as measured on a GPU
    seed: int = 0  # of dropout; the order of the data has its own
    evaluate_every: int | None = None  # optimizer steps; each epoch unless given
    metric: str = "accuracy"  # higher is better; "-name" where lower is
    patience: int | None = None  # stop after so many evaluations without a new best
    keep_best: bool = False  # end with the best weights rather than with the last
    save_every: int | None = None  # optimizer steps; each epoch unless given
    keep: int = 2  # checkpoints

    def __post_init__(self) -> None:
        for name in ("epochs", "lr", "head_lr_factor"):
            number(name, getattr(self, name), above=0)
        if self.clip is not None:
            number("clip", self.clip, above=0)
        for name in ("weight_decay", "warmup"):
            number(name, getattr(self, name), least=0)
        whole("keep", self.keep)
        for name in ("max_steps", "evaluate_every", "save_every", "patience"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name))
        if not -(2**63) <= whole("seed", self.seed, least=-(2**63)) < 2**63:
            raise ParameterError(f"seed={self.seed}.", "Give a number below 2 to the 63rd.")
        if not isinstance(self.keep_best, bool):
            raise ParameterError(f"keep_best={self.keep_best!r}.", "Give True or False.")
        if not isinstance(self.metric, str) or not self.metric.removeprefix("-"):
            raise ParameterError(f"metric={self.metric!r}.", 'Give a name, such as "accuracy".')
        known = {"optimizer": OPTIMIZERS, "precision": PRECISIONS, "schedule": SCHEDULES}
        for name, names in known.items():
            if getattr(self, name) not in names:
                raise ParameterError(
                    f"{name}={getattr(self, name)!r}.", f"There are {', '.join(names)}."
                )
        Schedule(self.schedule, 1, self.warmup)  # refuses a warm-up of more than all

    @classmethod
    def of(cls, options: dict[str, Any]) -> FitConfig:
        """From keyword arguments; unknown names are refused with the list of known ones."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(options.keys() - known):
            raise ParameterError(
                f"fit does not know {', '.join(unknown)}.",
                f"It knows {', '.join(sorted(known))}.",
            )
        return cls(**options)


@dataclass
class FitState:
    """Where training is. All of it is in a checkpoint."""

    step: int = 0  # optimizer steps done
    history: list[dict[str, float]] = field(default_factory=list)  # one row per step
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] | None = None  # the best evaluation so far
    since_best: int = 0  # evaluations since then
    stopped: str = ""  # why training ended before its last step

    def __repr__(self) -> str:
        """One line, since notebooks print what a cell ends with; the rows are in `history`."""
        losses = f", loss {self.losses[0]:.3f} to {self.losses[-1]:.3f}" if self.history else ""
        stopped = f", {self.stopped}" if self.stopped else ""
        return f"<FitState: {self.step:,} steps{losses}{stopped}>"

    @property
    def losses(self) -> list[float]:
        """The mean loss of each optimizer step, in nats."""
        return [row["loss"] for row in self.history]

    @property
    def curve(self) -> list[dict[str, float]]:
        """The evaluations, each with the mean training loss of the steps since the last."""
        rows, start = [], 0
        for evaluation in self.evaluations:
            end = int(evaluation["step"])
            losses = [row["loss"] for row in self.history[start:end]]
            mean = {"training_loss": sum(losses) / len(losses)} if losses else {}
            rows.append(mean | evaluation)
            start = end
        return rows

    @property
    def seconds(self) -> float:
        """Time spent in optimizer steps, evaluation and saving left out."""
        return sum(row["seconds"] for row in self.history)


class Callback(Protocol):
    """Told of each step and evaluation; sets ``state.stopped`` to end training.

    With several processes, each has its own callbacks, and all of them must agree on
    ``stopped``. One that remembers something (see `StatefulCallback`) is saved and brought
    back with each checkpoint, so that a run that goes on is the unbroken one.
    """

    def on_step(self, model: torch.nn.Module, state: FitState) -> None: ...
    def on_evaluate(self, model: torch.nn.Module, state: FitState) -> None: ...


class StatefulCallback(Callback, Protocol):
    """A callback that remembers something from step to step.

    The state is a dictionary of numbers, texts, tensors, and lists and dictionaries (with
    texts as keys) of these; tuples come back as lists. It is asked for after the step's or
    evaluation's own calls. With several processes the first one's is saved, and all get it.
    """

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
