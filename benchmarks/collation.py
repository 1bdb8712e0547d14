"""What tokenization and collation take of the time of training.

    python benchmarks/collation.py            # 1,000 tweets
    python benchmarks/collation.py --full     # 4,000 tweets
    python benchmarks/collation.py --quick    # a smoke test

Encoding happens once, collation in every step. Their seconds are set against those of one epoch
of training on the same rows.
"""

from __future__ import annotations

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
    options = turns.parser(__doc__, "4,000 tweets").parse_args(arguments)
    form, out = turns.form(options), turns.result_file(options, "collation")
    rows, steps = {"quick": (96, 2), "short": (1_000, 15), "full": (4_000, 30)}[form]
    sizes = {"rows": rows, "steps": steps}
    started = time.time()
    runs = turns.take_turns(
        "benchmarks.collation", CONTESTANTS, turns.REPETITIONS[form], sizes,
        lambda r: f"encoding {r['encoding_share']:.2%}, collation {r['collating_share']:.2%}",
        keep=form != "quick",
    )  # fmt: skip
    summary = turns.medians(runs, [k for k in runs[0] if k.endswith(("seconds", "share"))])
    share = statistics.median(r["collating_share"] + r["encoding_share"] for r in runs)
    title = f"Encoding and collation take {share:.1%} of an epoch"
    panels = [
        ("encoding_share", 100, "encoding once, %"),
        ("collating_share", 100, "collation, % of an epoch"),
    ]
    figure = turns.points(runs, CONTESTANTS, panels, title, out.with_suffix(".png"))
    write_json(out, turns.header(
        started, form=form, **turns.machine(),
        settings={"model": "minilm", "data": "tweets", "batch_size": 32, **sizes},
        goals={"share": GOAL}, share=share, summary=summary, runs=runs, figure=figure,
    ))  # fmt: skip
    print(title)


if __name__ == "__main__":
    main()
