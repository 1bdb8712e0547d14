"""What the processes of test_kill and test_kill_two do: train a tiny model, with all that a
resume must bring back, and a checkpoint at every step."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from sftkit import checkpoints, losses
from sftkit.batches import Batches
from sftkit.evaluate import evaluation
from sftkit.files import write_json
from sftkit.fit import fit, seed_everything
from tests.engine import tiny

PACKAGE = str(Path(checkpoints.__file__).parent)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Remembers:
    """A callback with a memory, which draws from Python's and numpy's generators.

    It moves a weight by what it has drawn and remembers, so that anything lost shows.
    """

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.mean, self.calls, self.fresh = torch.zeros(3), 0, True

    def on_step(self, model: Any, state: Any) -> None:
        if self.fresh:
            say("begin", state.step - 1)
        self.fresh = False
        self.calls += 1
        bias = model.classifier.bias.data
        self.mean = 0.9 * self.mean + 0.1 * bias.float()
        # Normal numbers come in pairs, one of which waits inside the generator.
        drawn = self.mean * np.random.normal() + 0.1 * random.gauss(0, 1)
        bias += (0.01 * self.noise * drawn).to(bias)
        say("step", state.step)

    def on_evaluate(self, model: Any, state: Any) -> None:
        self.calls += 1000

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.calls = state["mean"], state["calls"]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_loss(call: int | None) -> Any:
    """The loss, and death in one of its calls: in a window of micro-batches."""
    inner, calls = losses.classification(), [0]

    def loss(model: Any, batch: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            say("window")
            die()
        return inner(model, batch)

    return loss


def mark_saves(number: int | None = None, line: int | None = None) -> None:
    """Tell of each save; die at a line of our own code in one of them."""
    real, saves = checkpoints.save, [0]

    def save(folder: Path, step: int, *more: Any, **options: Any) -> Any:
        lines = [0]

        def trace(frame: Any, event: str, _: Any) -> Any:
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            if event == "line":
                lines[0] += 1
                if saves[0] == number and lines[0] == line:
                    die()
            return trace

        saves[0] += 1
        say("save", step)
        if saves[0] in (1, number):  # tracing is slow
            sys.settrace(trace)
        try:
            return real(folder, step, *more, **options)
        finally:
            sys.settrace(None)
            say("saved", step, lines[0])

    checkpoints.save = save


def train(
    folder: str,
    epochs: int,
    dropout: float = 0.3,
    saving: tuple[int, int] | None = None,
    window: int | None = None,
    rank: int | None = None,
) -> None:
    """One process of a run; writes its weights and what it went through when it is done.

    Args:
        saving: Die in this save, at this line.
        window: Die in this call of the loss.
        rank: Only this process dies.
    """
    torch.set_num_threads(1)
    seed_everything(3)
    mine = rank is None or str(rank) == os.environ.get("RANK", "0")
    mark_saves(*(saving if saving and mine else ()))
    model = tiny.model(dropout=dropout).double()
    remembers = Remembers(noise=dropout)
    state = fit(
        model,
        Batches(tiny.examples(38), 8, micro_batch_size=3),
        dying_loss(window if mine else None),
        evaluate=evaluation(tiny.examples(9, seed=5)),
        folder=Path(folder) / "checkpoints",
        resume=True,
        callbacks=[remembers],
        epochs=epochs,
        lr=1e-2,
        schedule="plateau",
        evaluate_every=3,
        metric="-loss",
        patience=1000,
        keep_best=True,
        save_every=1,
        precision="fp32",
    )
    name = os.environ.get("RANK", "0")
    save_file(model.state_dict(), Path(folder) / f"final-{name}.safetensors")
    seen = {"losses": state.losses, "evaluations": state.evaluations, "best": state.best}
    memory = {"calls": remembers.calls, "mean": remembers.mean.tolist()}
    write_json(Path(folder) / f"final-{name}.json", seen | memory)
    say("done")
