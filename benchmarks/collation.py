"""What tokenization and collation take of the time of training.

    python benchmarks/collation.py            # 4,000 tweets
    python benchmarks/collation.py --quick    # a smoke test

Encoding happens once, collation in every step. Their seconds are set against those of one epoch
of training on the same rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import turns
from sftkit.files import write_json

CONTESTANTS = {"ours": "sftkit, one epoch of MiniLM on tweets"}
GOAL = 0.03
RESULT = turns.RESULTS / "collation.json"


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of encoding, of all batches of an epoch, and of training on some of them."""
    from datasets import DatasetDict

    from sftkit import corpora, encode, losses, models
    from sftkit.batches import Batches, Examples
    from sftkit.fit import fit

    corpus = corpora.load("tweets", limit=job["rows"], seed=0)
    model, tokenizer = models.load("minilm", corpus["train"].features["label"].names)
    rows = DatasetDict(train=corpus["train"])
    encode.classification(rows.__class__(train=rows["train"].select(range(64))), tokenizer, 64)
    start = time.perf_counter()
    encoded = encode.classification(rows, tokenizer, 64)
    examples = Examples.of(encoded["train"], tokenizer.pad_token_id)
    encoding = time.perf_counter() - start
    batches = Batches(examples, 32, seed=job["seed"])
    start = time.perf_counter()
    for _ in batches.epoch(0):
        pass
    collating = time.perf_counter() - start
    start = time.perf_counter()
    state = fit(
        model, batches, losses.classification(), max_steps=job["steps"], precision="fp32",
        seed=job["seed"], lr=1e-4,
    )  # fmt: skip
    training = (time.perf_counter() - start) * len(batches) / state.step
    return {
        "encoding_seconds": encoding,
        "collating_seconds": collating,
        "training_seconds": training,
        "encoding_share": encoding / (encoding + training),
        "collating_share": collating / training,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="96 tweets, once")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON; figure beside it")
    options = parser.parse_args(arguments)
    sizes = {"rows": 96, "steps": 2} if options.quick else {"rows": 4_000, "steps": 30}
    started = time.time()
    runs = turns.take_turns(
        "benchmarks.collation", CONTESTANTS, 1 if options.quick else 5, sizes,
        lambda r: f"encoding {r['encoding_share']:.2%}, collation {r['collating_share']:.2%}",
        keep=not options.quick,
    )  # fmt: skip
    summary = turns.medians(runs, [k for k in runs[0] if k.endswith(("seconds", "share"))])
    share = statistics.median(r["collating_share"] + r["encoding_share"] for r in runs)
    title = f"Encoding and collation take {share:.1%} of an epoch"
    panels = [
        ("encoding_share", 100, "encoding once, %"),
        ("collating_share", 100, "collation, % of an epoch"),
    ]
    figure = turns.points(runs, CONTESTANTS, panels, title, options.out.with_suffix(".png"))
    write_json(options.out, turns.header(
        started, quick=options.quick, **turns.machine(),
        settings={"model": "minilm", "data": "tweets", "batch_size": 32, **sizes},
        goals={"share": GOAL}, share=share, summary=summary, runs=runs, figure=figure,
    ))  # fmt: skip
    print(title)


if __name__ == "__main__":
    main()
