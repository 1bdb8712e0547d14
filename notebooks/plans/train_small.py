"""Train a small language model with `sftkit.fit`, in as many processes as start it.

python train_small.py --out one
accelerate launch --config_file accelerate_two_cpu.yaml train_small.py --out two
accelerate launch --config_file accelerate_two_cpu.yaml train_small.py --out two --resume

There is no line in here about processes: `fit` asks accelerate how many there are.
"""

import argparse
import json
import os
from pathlib import Path

from sftkit import losses_chunked
from sftkit.fit import fit
from sftkit.lessons.parallel import RUN, small_batches, small_decoder


class Stop:
    """Ends the process after a step, as a time limit would; what was lost is known."""

    def __init__(self, after: int, out: Path) -> None:
        self.after, self.out = after, out

    def on_step(self, model, state) -> None:
        if state.step == self.after:
            write(self.out, state)
            raise SystemExit(0)

    def on_evaluate(self, model, state) -> None:
        pass


def write(out: Path, state) -> None:
    if os.environ.get("RANK", "0") == "0":
        found = {"losses": state.losses, "processes": int(os.environ.get("WORLD_SIZE", "1"))}
        (out / "losses.json").write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--stop", type=int, default=0, help="end after this step")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    state = fit(
        small_decoder(),
        small_batches(),
        losses_chunked.causal_lm(),
        folder=options.out / "checkpoints",
        resume=options.resume,
        callbacks=[Stop(options.stop, options.out)] if options.stop else [],
        **RUN,
    )
    write(options.out, state)


if __name__ == "__main__":
    main()
