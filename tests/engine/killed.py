"""Run by test_kill: trains a tiny model slowly, with a checkpoint at every step."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from sftkit import losses
from sftkit.batches import Batches
from sftkit.fit import fit
from tests.engine import tiny


class Slow:
    """Some time between steps, so that a kill lands anywhere."""

    def on_step(self, model, state):
        print(state.step, flush=True)
        time.sleep(0.02)

    def on_evaluate(self, model, state):
        pass


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    model = tiny.model(dropout=0.3)
    batches = Batches(tiny.examples(40), 8, micro_batch_size=4)
    fit(
        model,
        batches,
        losses.classification(),
        folder=folder / "checkpoints",
        resume=True,
        epochs=12,
        lr=1e-2,
        save_every=1,
        callbacks=[Slow()],
    )
    save_file(model.state_dict(), folder / "final.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
