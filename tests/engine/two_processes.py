"""Run by test_processes: one process of a run of `fit`. Writes its losses and weights."""

from __future__ import annotations

import json
import sys

import torch

from sftkit import losses
from sftkit.batches import Batches
from sftkit.fit import fit
from tests.engine import tiny


def main(out: str, micro: int) -> None:
    torch.set_num_threads(1)
    model = tiny.model().double()
    # 22 rows in steps of 8: the last step has 6, so that one process has less to do.
    batches = Batches(tiny.examples(22), 8, micro_batch_size=micro)
    state = fit(
        model, batches, losses.classification(), epochs=2, lr=1e-2, folder=out + ".ckpt"
    )
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    with open(out, "w", encoding="utf-8") as stream:
        json.dump({"losses": state.losses, "weights": weights.tolist()}, stream)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
