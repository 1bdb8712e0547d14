"""Run by test_processes: one process of two. Writes the trajectories of several runs."""

from __future__ import annotations

import json
import sys

import torch

from sftkit import losses_chunked
from sftkit.batches import Batches
from sftkit.packing import PackedBatches
from tests.engine import tiny_chat
from tests.equivalence import Trajectory, train

ROWS = 22  # in steps of 8: the last step of an epoch has 6, and one process less to do


def own_count(model, batch):
    """The broken variant: each process (here: micro-batch) divides by its own count."""
    loss_sum, n = losses_chunked.causal_lm()(model, batch)
    return loss_sum / n, torch.ones(())


def runs() -> dict[str, Trajectory]:
    examples, loss = tiny_chat.examples(ROWS), losses_chunked.causal_lm(4)
    uneven = Batches(examples, 8, micro_batch_size=4)
    return {
        "padded": train(tiny_chat.decoder(), uneven, loss),
        "packed": train(tiny_chat.decoder(), PackedBatches(examples, 8, row_tokens=20), loss),
        "own count": train(tiny_chat.decoder(), uneven, own_count),
    }


def main(out: str) -> None:
    torch.set_num_threads(1)
    found = {
        name: {key: value.tolist() for key, value in vars(trajectory).items()}
        for name, trajectory in runs().items()
    }
    with open(out, "w", encoding="utf-8") as stream:
        json.dump(found, stream)


if __name__ == "__main__":
    main(sys.argv[1])
