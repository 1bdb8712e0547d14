"""How many labels do first weights save? The runs behind the figure of notebook 05.

`benchmarks/pretraining.py labels` works them off; the notebook does a small part of them live,
with the same rows, epochs and rates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.jobs import Campaign, Job, Record, precision
from benchmarks.pretraining import BATCH, ENCODER, LENGTH, ROOT, WEIGHTS, characters_of_both
from sftkit.batches import Batches, Examples
from sftkit.files import sha256
from sftkit.fit import fit
from sftkit.models.encoder import Encoder, EncoderConfig

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
PER_REVIEW, AROUND = 0.0066, 8.0  # seconds of one core, for the estimate


def reviews(size: int, seed: int) -> tuple[Any, Any]:
    """The data, and ``size`` of its training rows: a smaller set is part of a larger one."""
    from sftkit import corpora
    from sftkit.corpora import duplicates
    from sftkit.corpora.split import nested_order

    data = corpora.load("zh-reviews")
    keys = [duplicates.key(text) for text in data["train"]["text"]]
    order = nested_order(data["train"]["label"], keys, seed)
    return data, data["train"].select(order[:size])


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
        precision=precision(),
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


def jobs(seeds: tuple[int, ...] = SEEDS) -> list[Job]:
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


def best_rate(runs: list[Record], start: str, size: int) -> float:
    """The learning rate with the best validation accuracy at this size, or at the largest."""
    tuned = [r for r in runs if r["job"]["group"] == "tuning" and r["job"]["start"] == start]
    size = min(size, TUNED_UP_TO)
    here = [r for r in tuned if r["job"]["labels"] == size]
    return float(max(here, key=lambda r: r["accuracy"])["job"]["lr"])


def one_job(job: Job, runs: list[Record]) -> Record:
    """Run a job; what is recorded of it."""
    more: Record = {}
    size, seed = job["labels"], job["seed"]
    if job["group"] == "svm":
        accuracy, more = baseline(size, seed)
    elif job["group"] == "tuning":
        accuracy = fine_tune(job["start"], size, seed, job["lr"], "validation")
    else:
        more = {"lr": best_rate(runs, job["start"], size), "epochs": EPOCHS_AT[size]}
        accuracy = fine_tune(job["start"], size, seed, more["lr"], "test")
    split = "validation" if job["group"] == "tuning" else "test"
    return {"split": split, "accuracy": accuracy, **more}


def weights_hash(start: str) -> str:
    """Which weights a run began with; empty where there were none."""
    name = STARTS.get(start)
    return sha256(WEIGHTS / name / "sftkit.safetensors")[:16] if name else ""


CAMPAIGN = Campaign(
    Path(__file__),
    jobs,
    one_job,
    stamp=("weights", lambda job: weights_hash(job.get("start", "svm"))),
    line=lambda job: "  ".join(map(str, job.values())),
    told=lambda record: f"accuracy {100 * record['accuracy']:.2f} %",
    guess=lambda job: AROUND + PER_REVIEW * job["labels"] * EPOCHS_AT[job["labels"]],
    alike=("group", "labels"),
    choice="group",
    command="python benchmarks/pretraining.py labels",
    records=ROOT / "benchmarks" / "records" / "pretraining.json",
)
