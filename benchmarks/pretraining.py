"""The weights and the curves of notebook 05: longer runs of what it does live.

    python benchmarks/pretraining.py encoder      # People's Daily, masked; then the reviews
    python benchmarks/pretraining.py decoder      # Reuters, causal
    python benchmarks/pretraining.py labels       # fine-tuning at 10 to 10,000 labels
    python benchmarks/pretraining.py labels --dry-run

It may be interrupted at any time: training goes on from its last checkpoint, and a finished
run of the curve is in the records. Each record has the command that makes it again.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sftkit import device, encode_lm  # noqa: E402
from sftkit.batches import Batches, Examples  # noqa: E402
from sftkit.batches_lm import MaskedBatches  # noqa: E402
from sftkit.corpora import pretraining  # noqa: E402
from sftkit.evaluate.language import language_evaluation  # noqa: E402
from sftkit.files import locked, read_json, sha256, sha256_text, write_json  # noqa: E402
from sftkit.fit import fit  # noqa: E402
from sftkit.losses_lm import causal_lm, masked_lm  # noqa: E402
from sftkit.models.decoder import Decoder, DecoderConfig  # noqa: E402
from sftkit.models.encoder import Encoder, EncoderConfig  # noqa: E402

WEIGHTS = ROOT / "data" / "weights"
LENGTH = 128  # tokens per piece, and positions of the encoder
ENCODER = {"width": 128, "layers": 3, "heads": 4, "feed_forward": 512, "dropout": 0.1}
DECODER = {"width": 128, "layers": 3, "heads": 4, "kv_heads": 4, "feed_forward": 384}
WINDOW = 256  # characters that the decoder sees
BATCH = 16  # pieces per step: small models need many steps more than quiet ones
STAGES = {  # texts, epochs, highest learning rate
    "zh-char-encoder": ("peoples-daily", 5, 1e-3),
    "zh-char-encoder-reviews": ("zh-reviews", 4, 7e-4),
}
DECODER_EPOCHS, DECODER_LR = 3, 2e-3


def masked_batches(texts: list[str], tokenizer: Any, **options: Any) -> MaskedBatches:
    """Texts, encoded and masked."""
    pieces = encode_lm.masked(texts, tokenizer, LENGTH)
    return MaskedBatches(
        Examples.of(pieces, tokenizer.pad_token_id),
        BATCH,
        mask_id=tokenizer.mask_token_id,
        tokens=(len(encode_lm.SPECIAL), len(tokenizer)),
        **options,
    )


def train_encoders(store: Path) -> None:
    """The general encoder, then the one that goes on with the reviews' texts."""
    texts = {name: pretraining.load(name) for name, _, _ in STAGES.values()}
    tokenizer = characters_of_both()
    import torch

    torch.manual_seed(0)
    sizes = EncoderConfig(vocab=len(tokenizer), max_length=LENGTH, **ENCODER)  # type: ignore
    model = Encoder(sizes, "mlm")
    for name, (source, epochs, lr) in STAGES.items():
        print(name, *texts[source].notes, sep="\n  ", flush=True)
        train = masked_batches(texts[source].train, tokenizer)
        watch = masked_batches(texts[source].validation, tokenizer, shuffle=False, fixed=0)
        begin = time.process_time()
        state = fit(
            model,
            train,
            masked_lm(),
            evaluate=language_evaluation(watch, masked_lm()),
            folder=store / name,
            resume=True,
            callbacks=[Tell()],
            epochs=epochs,
            lr=lr,
            metric="-loss",
            schedule="linear",
            warmup=0.05,
            keep=1,
            label=name,
        )
        settings = {"texts": source, "epochs": epochs, "lr": lr, "batch_size": BATCH}
        keep(name, model, tokenizer, state, texts[source], settings, begin)


def train_decoder(store: Path) -> None:
    """The causal model of Reuters."""
    texts = pretraining.load("reuters")
    print(*texts.notes, sep="\n  ", flush=True)
    tokenizer = encode_lm.char_tokenizer(pretraining.characters(texts.train), 2 * WINDOW)
    import torch

    torch.manual_seed(0)
    sizes = DecoderConfig(vocab=len(tokenizer), max_length=2 * WINDOW, **DECODER)  # type: ignore
    model = Decoder(sizes)
    train, watch = (
        Examples.of(encode_lm.causal(part, tokenizer, WINDOW), tokenizer.pad_token_id)
        for part in (texts.train, texts.validation)
    )
    begin = time.process_time()
    state = fit(
        model,
        Batches(train, BATCH),
        causal_lm(),
        evaluate=language_evaluation(Batches(watch, 64, shuffle=False), causal_lm()),
        folder=store / "en-char-decoder",
        resume=True,
        callbacks=[Tell()],
        epochs=DECODER_EPOCHS,
        lr=DECODER_LR,
        metric="-loss",
        schedule="linear",
        warmup=0.05,
        keep=1,
        label="en-char-decoder",
    )
    settings = {"texts": "reuters", "epochs": DECODER_EPOCHS, "lr": DECODER_LR}
    settings |= {"batch_size": BATCH}
    keep("en-char-decoder", model, tokenizer, state, texts, settings, begin)


class Tell:
    """Prints evaluations."""

    def on_step(self, model: Any, state: Any) -> None:
        pass

    def on_evaluate(self, model: Any, state: Any) -> None:
        row = state.evaluations[-1]
        recent = state.losses[-200:]
        print(
            f"  {time.strftime('%H:%M')} step {row['step']:.0f}: loss {row['loss']:.4f}, "
            f"in training {sum(recent) / len(recent):.4f}",
            flush=True,
        )


def keep(
    name: str,
    model: Any,
    tokenizer: Any,
    state: Any,
    texts: pretraining.Texts,
    settings: dict[str, Any],
    begin: float,
) -> None:
    """Half-precision weights, sizes, vocabulary, and how they came about."""
    folder = WEIGHTS / name
    copy.deepcopy(model).half().save(folder, tokenizer)
    every = max(1, len(state.losses) // 200)
    losses = [sum(part) / len(part) for part in _parts(state.losses, every)]
    command = "decoder" if name.endswith("decoder") else "encoder"
    record = {
        "command": f"python benchmarks/pretraining.py {command}",
        "settings": settings,
        "texts": {"notes": texts.notes, "sha256": sha256_text("\n".join(texts.train))},
        "steps": state.step,
        "tokens": sum(row["tokens"] for row in state.history),
        "losses_every": every,
        "losses": [round(loss, 4) for loss in losses],
        "evaluations": state.evaluations,
        "seconds": state.seconds,
        "processor_seconds": time.process_time() - begin,
        "machine": device.facts(),
    }
    write_json(folder / "record.json", record)
    print(f"{name}: {state.evaluations[-1]}", flush=True)


# -- how many labels? -------------------------------------------------------------------------

RECORDS = ROOT / "benchmarks" / "records" / "pretraining.json"
STARTS = {  # what fine-tuning begins from; the sizes of the model are the same
    "scratch": None,
    "pretrained": "zh-char-encoder",
    "adapted": "zh-char-encoder-reviews",
}
EPOCHS_AT = {10: 30, 100: 15, 1_000: 6, 10_000: 2}  # the same for every start
RATES = (3e-4, 1e-3)  # highest learning rates tried on validation, for every start
TUNED_UP_TO = 1_000  # labels; above, the rate that was best there
SEEDS = (0, 1, 2)
TUNING_SEED = 100  # other rows, head and order than those of the curve


def reviews(size: int, seed: int) -> tuple[Any, Any]:
    """The data, and ``size`` of its training rows: a smaller set is part of a larger one."""
    from sftkit import corpora
    from sftkit.corpora import duplicates
    from sftkit.corpora.split import nested_order

    data = corpora.load("zh-reviews")
    keys = [duplicates.key(text) for text in data["train"]["text"]]
    order = nested_order(data["train"]["label"], keys, seed)
    return data, data["train"].select(order[:size])


def characters_of_both() -> Any:
    """The tokenizer of all Chinese models here, from the texts that they are trained on."""
    texts = [pretraining.load(name).train for name, _, _ in STAGES.values()]
    return encode_lm.char_tokenizer(
        pretraining.characters(t for part in texts for t in part), LENGTH
    )


def starting_model(start: str, seed: int) -> tuple[Encoder, Any]:
    """The encoder that fine-tuning begins with, under a new head, and the tokenizer."""
    import torch

    from sftkit.models.committed import load_committed
    from sftkit.models.encoder import with_head

    if name := STARTS[start]:
        pretrained, tokenizer, _ = load_committed(name)
        return with_head(pretrained, "classes", classes=2, seed=seed), tokenizer
    tokenizer = characters_of_both()
    sizes = EncoderConfig(len(tokenizer), max_length=LENGTH, classes=2, **ENCODER)  # type: ignore
    torch.manual_seed(1_000 + seed)
    return Encoder(sizes, "classes"), tokenizer


def fine_tune(start: str, size: int, seed: int, lr: float, split: str) -> float:
    """Accuracy on a split after fine-tuning on ``size`` labels."""
    from datasets import DatasetDict

    from sftkit import encode, evaluate, losses

    data, rows = reviews(size, seed)
    model, tokenizer = starting_model(start, seed)
    encoded = encode.classification(
        DatasetDict(train=rows, watch=data[split]), tokenizer, LENGTH
    )
    train, watch = (Examples.of(part, tokenizer.pad_token_id) for part in encoded.values())
    fit(
        model,
        Batches(train, BATCH, seed=seed),
        losses.classification(),
        epochs=EPOCHS_AT[size],
        lr=lr,
        seed=seed,
        label=f"{start} {size} seed {seed}",
    )
    return evaluate.predict(model, watch).accuracy


def baseline(size: int, seed: int) -> tuple[float, dict[str, Any]]:
    """Test accuracy of characters' TF-IDF and a linear SVM, tuned on validation."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    data, rows = reviews(size, seed)
    best: tuple[float, float, dict[str, Any]] = (-1.0, 0.0, {})
    for n in (1, 2, 3):
        words = TfidfVectorizer(analyzer="char", ngram_range=(1, n), sublinear_tf=True)
        train = words.fit_transform(rows["text"])
        others = {s: words.transform(data[s]["text"]) for s in ("validation", "test")}
        for penalty in (0.1, 0.3, 1.0, 3.0, 10.0):
            svm = LinearSVC(C=penalty, random_state=0).fit(train, rows["label"])
            scores = {s: svm.score(x, data[s]["label"]) for s, x in others.items()}
            if scores["validation"] > best[0]:
                chosen = {"n-grams": n, "C": penalty}
                best = (scores["validation"], scores["test"], chosen)
    return best[1], {"chosen": best[2], "validation": best[0]}


def jobs(seeds: tuple[int, ...] = SEEDS) -> list[dict[str, Any]]:
    """All runs in the order of their cost: the linear model, the tuning, the curve."""
    linear = [
        {"group": "svm", "labels": size, "seed": seed} for size in EPOCHS_AT for seed in seeds
    ]
    tuning = [
        {"group": "tuning", "start": start, "labels": size, "lr": lr, "seed": TUNING_SEED}
        for size in EPOCHS_AT
        if size <= TUNED_UP_TO
        for start in STARTS
        for lr in RATES
    ]
    curve = [
        {"group": "curve", "start": start, "labels": size, "seed": seed}
        for size in EPOCHS_AT
        for seed in seeds
        for start in STARTS
    ]
    return linear + sorted(tuning + curve, key=lambda job: job["labels"])


def best_rate(runs: list[dict[str, Any]], start: str, size: int) -> float:
    """The learning rate with the best validation accuracy at this size, or at the largest."""
    tuned = [r for r in runs if r["job"]["group"] == "tuning" and r["job"]["start"] == start]
    size = min(size, TUNED_UP_TO)
    here = [r for r in tuned if r["job"]["labels"] == size]
    return float(max(here, key=lambda r: r["accuracy"])["job"]["lr"])


def one_job(job: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Run a job; what is recorded of it."""
    begin, more = time.process_time(), {}
    size, seed = job["labels"], job["seed"]
    if job["group"] == "svm":
        accuracy, more = baseline(size, seed)
    elif job["group"] == "tuning":
        accuracy = fine_tune(job["start"], size, seed, job["lr"], "validation")
    else:
        more = {"lr": best_rate(runs, job["start"], size), "epochs": EPOCHS_AT[size]}
        accuracy = fine_tune(job["start"], size, seed, more["lr"], "test")
    return {
        "job": job,
        "command": "python benchmarks/pretraining.py labels",
        "split": "validation" if job["group"] == "tuning" else "test",
        "accuracy": accuracy,
        **more,
        "weights": weights_hash(job.get("start", "svm")),
        "processor_seconds": round(time.process_time() - begin, 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def weights_hash(start: str) -> str:
    """Which weights a run began with; empty where there were none."""
    name = STARTS.get(start)
    return sha256(WEIGHTS / name / "sftkit.safetensors")[:16] if name else ""


def label_curve(
    starts: list[str] | None = None, dry_run: bool = False, minutes: float | None = None
) -> None:
    """Work off what is missing or was made from other weights; whole after every run."""
    begin = time.monotonic()
    for job in jobs():
        start = job.get("start", "svm")
        if starts and start not in starts:
            continue
        runs = read_json(RECORDS)["runs"] if RECORDS.is_file() else []
        if any(r["job"] == job and r["weights"] == weights_hash(start) for r in runs):
            continue
        if dry_run or (minutes is not None and time.monotonic() - begin > 60 * minutes):
            print("to do:", *job.values())
            continue
        done = one_job(job, runs)
        keep_run(done)
        print(time.strftime("%H:%M"), *job.values(), f"{done['accuracy']:.4f}", flush=True)


def keep_run(done: dict[str, Any]) -> None:
    """Add a run to the records, in place of an older one of the same job."""
    with locked(RECORDS.with_name(f".{RECORDS.name}.lock")):
        runs = read_json(RECORDS)["runs"] if RECORDS.is_file() else []
        runs = [r for r in runs if r["job"] != done["job"]] + [done]
        order = {str(known): i for i, known in enumerate(jobs())}
        runs.sort(key=lambda r: order.get(str(r["job"]), len(order)))
        write_json(RECORDS, {"runs": runs})


def _parts(values: list[float], size: int) -> list[list[float]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("encoder", "decoder", "labels"))
    parser.add_argument("--start", nargs="*", help="of labels: svm, scratch, pretrained, ...")
    parser.add_argument("--dry-run", action="store_true", help="of labels: what is missing")
    parser.add_argument("--minutes", type=float, help="of labels: begin no run after so many")
    options = parser.parse_args(arguments)
    store = ROOT / "runs" / "pretraining"
    if options.what == "encoder":
        train_encoders(store)
    elif options.what == "decoder":
        train_decoder(store)
    else:
        label_curve(options.start, options.dry_run, options.minutes)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
