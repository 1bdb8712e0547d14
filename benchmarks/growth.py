"""How time and memory grow: with rows, with length, with the vocabulary, with what is trained.

    python benchmarks/growth.py            # up to 100,000 rows and 512 tokens
    python benchmarks/growth.py --full     # up to a million rows and 2,048 tokens
    python benchmarks/growth.py --quick    # a smoke test

Each point is a process of its own. To each series of points a straight line is fitted in
double logarithm: its slope is the exponent, 1 for proportional, 2 for quadratic.
"""

from __future__ import annotations

import csv
import math
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import turns
from sftkit.files import write_json

SIZES: dict[str, dict[str, list[int]]] = {
    "quick": {"rows": [100, 300], "length": [16, 32], "vocabulary": [500, 1_000],
              "layers": [1, 2]},
    "short": {"rows": [1_000, 10_000, 100_000], "length": [32, 128, 512],
              "vocabulary": [1_000, 8_000, 64_000], "layers": [1, 2, 4, 6]},
    "full": {"rows": [1_000, 10_000, 100_000, 1_000_000],
             "length": [32, 64, 128, 256, 512, 1_024, 2_048],
             "vocabulary": [1_000, 4_000, 16_000, 64_000, 256_000],
             "layers": [1, 2, 3, 4, 5, 6]},
}  # fmt: skip
WHAT = {
    "rows": "rows of a CSV file, read and encoded",
    "length": "tokens per example, a step of our decoder",
    "vocabulary": "entries of the vocabulary, a step of our decoder",
    "layers": "top blocks of MiniLM that are trained, a step",
}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One point of one series: seconds, and memory above the start of the process."""
    import torch  # noqa: F401
    import transformers  # noqa: F401

    work = {"rows": _rows, "length": _length, "vocabulary": _vocabulary, "layers": _layers}
    from sftkit import device

    before = device.peak_memory_mb()
    seconds = work[job["contestant"]](job["size"])
    return {"seconds": seconds, "memory_mb": device.peak_memory_mb() - before}


def _rows(size: int) -> float:
    """Write a file of so many rows, then read and encode it."""
    from sftkit import corpora, encode, models

    names, dice = ["dull", "good"], random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            for i in range(size):
                # Words at random, so that the rows are no copies of each other.
                words = " ".join("".join(dice.choices("aeklmnorst", k=3)) for _ in range(12))
                writer.writerow([words, names[i % 2]])
        _, tokenizer = models.load("minilm", names)
        start = time.perf_counter()
        data = corpora.load(str(file))
        encode.classification(data, tokenizer, 32)
        return time.perf_counter() - start


def _median_step(model: Any, loss: Any, batch: dict[str, Any]) -> float:
    """Seconds forward and backward: the median of five, after one to warm up."""

    def step() -> float:
        start = time.perf_counter()
        loss_sum, _ = loss(model, batch)
        loss_sum.backward()
        model.zero_grad()
        return time.perf_counter() - start

    step()
    return statistics.median(step() for _ in range(5))


def _decoder_step(vocabulary: int, length: int, examples: int) -> float:
    import torch

    from sftkit import device, losses_chunked
    from sftkit.models.decoder import Decoder, DecoderConfig

    device.keep_freed_memory()
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(vocab=vocabulary, width=128, layers=2, heads=4, kv_heads=4,
                                  feed_forward=384, max_length=length))  # fmt: skip
    loss = losses_chunked.causal_lm()
    ids = torch.randint(vocabulary, (examples, length))
    batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}

    return _median_step(model, loss, batch)


def _length(size: int) -> float:
    return _decoder_step(1_000, size, 4)


def _vocabulary(size: int) -> float:
    return _decoder_step(size, 64, 4)


def _layers(size: int) -> float:
    import torch

    from sftkit import device, losses, models
    from sftkit.models.frozen import train_mode

    device.keep_freed_memory()
    model, _ = models.load("minilm", ["a", "b"], train=f"top-{size}")
    train_mode(model)
    ids = torch.randint(1_000, 20_000, (16, 32))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids),
             "labels": torch.randint(2, (16,))}  # fmt: skip
    loss = losses.classification()

    return _median_step(model, loss, batch)


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope of a straight line in double logarithm, by least squares."""
    x, y = [math.log(s) for s in sizes], [math.log(max(v, 1e-9)) for v in values]
    mx, my = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum(
        (a - mx) ** 2 for a in x
    )


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Per series: sizes, medians, exponents over all sizes and over the two largest."""
    summary: dict[str, Any] = {}
    for name in WHAT:
        sizes = sorted({run["size"] for run in runs if run["contestant"] == name})
        own = [[r for r in runs if r["contestant"] == name and r["size"] == s] for s in sizes]
        entry: dict[str, Any] = {"what": WHAT[name], "sizes": sizes}
        for key in ("seconds", "memory_mb"):
            values = [statistics.median(run[key] for run in group) for group in own]
            entry[key] = values
            entry[f"{key}_exponent"] = exponent(sizes, values)
            entry[f"{key}_exponent_at_the_end"] = exponent(sizes[-2:], values[-2:])
        entry["sentence"] = (
            f"Time grows with {WHAT[name].split(',')[0]} to the power of "
            f"{entry['seconds_exponent']:.2f}, from the last size but one to the last of "
            f"{entry['seconds_exponent_at_the_end']:.2f}; memory of "
            f"{entry['memory_mb_exponent']:.2f}."
        )
        summary[name] = entry
    return summary


def figure(summary: dict[str, Any], file: Path) -> dict[str, str]:
    """Time and memory of the four series, in double logarithm."""
    import matplotlib

    matplotlib.use("Agg")
    from sftkit.teach import show

    fig, axes = show.new_figure(3.4, columns=2)
    for ax, key, label in zip(axes, ("seconds", "memory_mb"), ("seconds", "memory, MB"),
                              strict=True):  # fmt: skip
        for i, (name, entry) in enumerate(summary.items()):
            ax.loglog(entry["sizes"], entry[key], marker=show.MARKERS[i],
                      label=f"{name}: power {entry[key + '_exponent']:.2f}")  # fmt: skip
        ax.set_xlabel("rows, tokens, entries or blocks")
        ax.set_ylabel(label)
        ax.legend()
    title = "How time and memory grow"
    fig.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    alt = f"{title}. " + " ".join(entry["sentence"] for entry in summary.values())
    file.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(file, metadata={"Software": None, "Description": alt})
    return {"file": file.name, "alt": alt}


def main(arguments: list[str] | None = None) -> None:
    options = turns.parser(__doc__, "the larger sizes").parse_args(arguments)
    form, out = turns.form(options), turns.result_file(options, "growth")
    started, runs = time.time(), []
    for repetition in range(1 if form == "quick" else 3):
        for name, sizes in SIZES[form].items():
            for size in sizes:
                if repetition and name == "rows" and size > 10_000:
                    continue  # long enough not to need a second look
                found = turns.take_turns(
                    "benchmarks.growth", [name], 1, {"size": size},
                    lambda r: f"{r['seconds']:9.3f} s {r['memory_mb']:8.0f} MB",
                    keep=form != "quick", first_seed=repetition,
                )  # fmt: skip
                runs.append(found[0] | {"size": size})
    summary = summarize(runs)
    write_json(out, turns.header(
        started, form=form, **turns.machine(), settings={"sizes": SIZES[form]},
        summary=summary, runs=runs, figure=figure(summary, out.with_suffix(".png")),
    ))  # fmt: skip
    print(*(entry["sentence"] for entry in summary.values()), sep="\n")


if __name__ == "__main__":
    main()
