"""How many labelled sentences does a small encoder need? The runs behind notebook 09's curve.

    python benchmarks/entities.py --dry-run      # what is missing, with an estimate of the time
    python benchmarks/entities.py                # all of it
    python benchmarks/entities.py --minutes 30   # begin no run after half an hour
    python benchmarks/entities.py --model features "pretrained, CRF"

It may be interrupted at any time: a finished run is in the records. A record counts until the
weights that it began with change. Rates are chosen on validation sentences at the smallest size
with a seed of their own; the test sentences are read once per run of the curve.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.jobs import Campaign, Job, Record, precision  # noqa: E402
from benchmarks.pretraining import WEIGHTS  # noqa: E402
from sftkit.files import sha256  # noqa: E402

START = "zh-char-encoder"
BUCKETS = 2**17
HEAD_FACTOR = 5.0  # learning rate of head, n-grams and field over the encoder's
MODELS: dict[str, dict[str, Any]] = {  # the encoder's; their sizes are the same
    "pretrained, CRF": {"buckets": BUCKETS},
    "from scratch, CRF": {"buckets": BUCKETS, "pretrained": False},
    "pretrained, softmax": {"buckets": BUCKETS, "crf": False},
    "pretrained, CRF, no n-grams": {},
}
BASELINE = "features"
EPOCHS_AT = {500: 4, 2_000: 2, 8_000: 1}  # the same for every encoder
SEEDS = (0, 1, 2)
RATES = (5e-4, 1e-3, 2e-3)  # highest learning rates tried, for every encoder
TUNED_AT, TUNING_SEED = 500, 100  # other sentences, head and order than those of the curve
LENGTH, BATCH, SCHEME = 128, 16, "BIOES"  # of all models, the baseline too
GRID = ((0.0, 0.1), (0.1, 0.01), (0.3, 0.01))  # of the baseline: (L1, L2)
GRID_UP_TO = 2_000  # sentences; above, the penalties that were best there with the same seed
STEPS = 100  # of the baseline's optimizer
WATCHED = 400  # validation sentences that choose

# For the estimate: seconds of one thread for a sentence of training, and for what is around it.
PER_SENTENCE = {"encoder": 0.015, BASELINE: 0.020}
AROUND = {"encoder": 25.0, BASELINE: 12.0}


def jobs(seeds: tuple[int, ...] = SEEDS) -> list[Job]:
    """All runs: the baseline and the tuning first, then the curve from its cheap end."""
    linear = [
        {"group": "curve", "model": BASELINE, "sentences": size, "seed": seed}
        for size in EPOCHS_AT
        for seed in seeds
    ]
    tuning = [
        {"group": "tuning", "model": name, "sentences": TUNED_AT, "lr": lr, "seed": TUNING_SEED}
        for name in MODELS
        for lr in RATES
    ]
    curve = [
        {"group": "curve", "model": name, "sentences": size, "seed": seed}
        for size in EPOCHS_AT
        for seed in seeds
        for name in MODELS
    ]
    return linear + tuning + curve


@lru_cache(maxsize=2)
def corpus(size: int, seed: int) -> Any:
    """Training sentences of one size; the validation sentences that choose; all test ones."""
    import numpy as np

    from sftkit.corpora import tagged

    data = tagged.load("peoples-daily", limit=size, seed=seed)
    spaced = np.linspace(0, len(data["validation"]) - 1, WATCHED).astype(int)
    data["validation"] = data["validation"].select(spaced)
    return data


def baseline(
    size: int, seed: int, runs: list[Record]
) -> tuple[list[list[str]], dict[str, Any]]:
    """Tags of the test sentences by the field on features, tuned on validation."""
    from sftkit.corpora import spans
    from sftkit.models import feature_crf

    data = corpus(size, seed)
    items = {name: feature_crf.prepared(part["tokens"]) for name, part in data.items()}
    train, watch = (
        [spans.convert(tags, SCHEME) for tags in data[name]["tags"]]
        for name in ("train", "validation")
    )
    model, tried = feature_crf.tuned(
        items["train"], train, items["validation"], watch, grid(size, seed, runs), STEPS
    )
    facts = {"chosen": {"c1": model.c1, "c2": model.c2}, "tried": [list(t) for t in tried]}
    return model.predict(items["test"]), facts


def grid(size: int, seed: int, runs: list[Record]) -> tuple[tuple[float, float], ...]:
    """The penalties to try: all; above `GRID_UP_TO` those chosen there, if they are known."""
    wanted = {"group": "curve", "model": BASELINE, "sentences": GRID_UP_TO, "seed": seed}
    known = [r["chosen"] for r in runs if r["job"] == wanted]
    return ((known[0]["c1"], known[0]["c2"]),) if size > GRID_UP_TO and known else GRID


def fine_tune(
    name: str, size: int, seed: int, lr: float, split: str
) -> tuple[list[list[str]], dict[str, Any]]:
    """Tags of a split by an encoder after fine-tuning; the last epoch's, not the best."""
    from sftkit import encode_tags
    from sftkit.batches import Batches, Examples
    from sftkit.corpora import spans, tagged
    from sftkit.evaluate import tagging
    from sftkit.fit import fit
    from sftkit.losses_tags import tagging as loss
    from sftkit.models.load_tags import load_tagger

    data = corpus(size, seed)
    names = spans.tag_names(tagged.types(data), SCHEME)
    model, tokenizer = load_tagger(START, names, seed=seed, **MODELS[name])
    encoded = encode_tags.tags(data, tokenizer, names, LENGTH)
    train, watch = (
        Examples.of(encoded[part], tokenizer.pad_token_id) for part in ("train", split)
    )
    epochs = EPOCHS_AT[size]
    label = f"{name}, {size} sentences, seed {seed}"
    batches = Batches(train, BATCH, seed=seed)
    rates = {"lr": lr, "head_lr_factor": HEAD_FACTOR, "precision": precision()}
    state = fit(model, batches, loss(), epochs=epochs, seed=seed, label=label, **rates)
    facts = {"lr": lr, "epochs": epochs, "training_seconds": round(state.seconds, 1)}
    return tagging.predict_tags(model, watch, names), facts


def best_rate(runs: list[Record], name: str) -> float:
    """The learning rate with the best validation F1."""
    tuned = [r for r in runs if r["job"]["group"] == "tuning" and r["job"]["model"] == name]
    return float(max(tuned, key=lambda r: r["f1"][0])["job"]["lr"])


def one_job(job: Job, runs: list[Record]) -> Record:
    """Run a job; what is recorded of it."""
    from sftkit.corpora import tagged
    from sftkit.evaluate import tagging

    name = job["model"]
    split = "validation" if job["group"] == "tuning" else "test"
    if name == BASELINE:
        found, facts = baseline(job["sentences"], job["seed"], runs)
    else:
        lr = job.get("lr") or best_rate(runs, name)
        found, facts = fine_tune(name, job["sentences"], job["seed"], lr, split)
    data = corpus(job["sentences"], job["seed"])
    report = tagging.tag_report(list(data[split]["tags"]), found, tagged.types(data))
    sums = report.sums.sum(axis=1).T  # (3, sentences), for paired comparisons
    done = {
        "split": split,
        "f1": list(report.f1),
        "f1_by_type": {kind: f1[0] for kind, _, _, f1, _ in report.per_type},
        **facts,
    }
    if split == "test":
        counts = dict(zip(tagging.COUNTS, sums, strict=True))
        done["counts"] = {k: " ".join(map(str, v.tolist())) for k, v in counts.items()}
    return done


def weights_hash(name: str) -> str:
    """Which weights a run began with; empty where there were none."""
    if name == BASELINE or not MODELS[name].get("pretrained", True):
        return ""
    file = WEIGHTS / START / "sftkit.safetensors"
    return sha256(file)[:16] if file.is_file() else "missing"


def guess(job: Job) -> float:
    """Seconds of one thread, from the sizes."""
    kind = BASELINE if job["model"] == BASELINE else "encoder"
    tried = 1 if job["sentences"] > GRID_UP_TO else len(GRID)
    passes = tried if kind == BASELINE else EPOCHS_AT[job["sentences"]]
    return AROUND[kind] + PER_SENTENCE[kind] * job["sentences"] * passes


def _line(job: Job) -> str:
    line = f"{job['group']:6}  {job['model']:28} {job['sentences']:>5,}  seed {job['seed']}"
    return line + (f"  lr {job['lr']:g}" if "lr" in job else "")


CAMPAIGN = Campaign(
    Path(__file__),
    jobs,
    one_job,
    stamp=("weights", lambda job: weights_hash(job["model"])),
    line=_line,
    told=lambda record: f"F1 {100 * record['f1'][0]:.1f}",
    guess=guess,
    alike=("group", "model", "sentences"),
    choice="model",
)

if __name__ == "__main__":
    CAMPAIGN.main(__doc__)
