"""Prediction on real tweets: ours against Hugging Face's `pipeline`, batched as it advises.

    python benchmarks/prediction.py            # 500 tweets
    python benchmarks/prediction.py --full     # 10,000 tweets
    python benchmarks/prediction.py --quick    # a smoke test

Both get the same saved folder and the same texts, and give the probabilities of every class.
Time runs from the texts to the probabilities: tokenization is part of it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import turns
from sftkit.files import write_json

CONTESTANTS = {
    "ours": "sftkit, batches of 64 by length",
    "pipeline-8": "pipeline, batches of 8",
    "pipeline-32": "pipeline, batches of 32",
    "pipeline-sorted": "pipeline, 32, texts sorted by us",
}
MAX_LENGTH = 64
GOAL = 3.0


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Load, warm up, predict all texts."""
    from transformers.utils.logging import set_verbosity_error

    from sftkit import device
    from sftkit.files import read_json

    set_verbosity_error()
    texts = read_json(Path(job["_texts"]))
    predict = _ours(job) if job["contestant"] == "ours" else _pipeline(job)
    predict(texts[:64])
    start = time.perf_counter()
    probs = predict(texts)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "examples_per_second": len(texts) / seconds,
        "peak_memory_mb": device.peak_memory_mb(),
        "probs": [[round(p, 6) for p in row] for row in probs],
    }


def _ours(job: dict[str, Any]) -> Any:
    import numpy as np

    from sftkit import encode, models
    from sftkit.batches import Examples
    from sftkit.evaluate import predict

    model, tokenizer = models.load(job["_folder"])

    def run(texts: list[str]) -> np.ndarray:
        encoded = encode.texts(texts, tokenizer, MAX_LENGTH)
        return predict(model, Examples.of(encoded, tokenizer.pad_token_id)).probs

    return run


def _pipeline(job: dict[str, Any]) -> Any:
    import numpy as np
    from transformers import pipeline

    size = 8 if job["contestant"] == "pipeline-8" else 32
    classify = pipeline("text-classification", model=job["_folder"], device="cpu")
    assert next(classify.model.parameters()).dtype.is_floating_point
    names = list(classify.model.config.label2id)

    def run(texts: list[str]) -> np.ndarray:
        order = list(range(len(texts)))
        if job["contestant"] == "pipeline-sorted":
            order.sort(key=lambda i: len(texts[i]))
        found = classify(
            [texts[i] for i in order],
            batch_size=size,
            top_k=None,
            truncation=True,
            max_length=MAX_LENGTH,
        )
        probs = np.empty((len(texts), len(names)))
        for i, row in zip(order, found, strict=True):
            by_name = {entry["label"]: entry["score"] for entry in row}
            probs[i] = [by_name[name] for name in names]
        return probs

    return run


def prepare(rows: int, folder: Path) -> dict[str, Any]:
    """A classifier with transformers' stock head, saved; and the texts."""
    from sftkit import corpora, models
    from sftkit.models.export import save

    corpus = corpora.load("tweets", seed=0)
    names = corpus["train"].features["label"].names
    model, tokenizer = models.load("minilm", names, head="first", seed=0)
    save(model, tokenizer, folder / "model")
    texts = corpus["train"].shuffle(seed=0).select(range(rows))["text"]
    write_json(folder / "texts.json", list(texts))
    return {"_folder": str(folder / "model"), "_texts": str(folder / "texts.json")}


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, ratios, and whether all say the same."""
    keys = ("examples_per_second", "seconds", "peak_memory_mb")
    summary: dict[str, Any] = turns.medians(runs, keys)
    for name, entry in summary.items():
        if name == "ours":
            continue
        entry["ours_over_this"] = turns.ratio(runs, "ours", name, "examples_per_second")
        a, b = (turns.column(runs, n, "probs")[0] for n in ("ours", name))
        entry["largest_difference"] = max(
            abs(x - y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
        )
    return summary


def main(arguments: list[str] | None = None) -> None:
    options = turns.parser(__doc__, "10,000 tweets").parse_args(arguments)
    form, out = turns.form(options), turns.result_file(options, "prediction")
    rows = {"quick": 64, "short": 500, "full": 10_000}[form]
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        shared = prepare(rows, Path(folder)) | {"rows": rows}
        runs = turns.take_turns(
            "benchmarks.prediction", CONTESTANTS, turns.REPETITIONS[form], shared,
            lambda run: f"{run['examples_per_second']:7.1f} texts/s", keep=form != "quick",
        )  # fmt: skip
    summary = summarize(runs)
    best = statistics.median(
        turns.column(runs, max((n for n in summary if n.startswith("pipeline-") and
        n != "pipeline-sorted"), key=lambda n: summary[n]["examples_per_second"]),
        "examples_per_second"))  # fmt: skip
    over = summary["ours"]["examples_per_second"] / best
    title = f"Prediction: {over:.1f} times as fast as the better pipeline"
    panels = [("examples_per_second", 1, "texts / s"), ("peak_memory_mb", 1e-3, "memory, GB")]
    figure = turns.points(runs, CONTESTANTS, panels, title, out.with_suffix(".png"))
    for run in runs:
        del run["probs"]
    write_json(out, turns.header(
        started, form=form, **turns.machine(),
        settings={"model": "minilm, stock head", "data": "tweets", "rows": rows,
                  "max_length": MAX_LENGTH, "precision": "float32"},
        goals={"pipeline": GOAL}, over_the_better_pipeline=over, summary=summary, runs=runs,
        figure=figure,
    ))  # fmt: skip
    print(title)


if __name__ == "__main__":
    main()
