"""What denoising adds to a small translator: the runs behind notebook 11's table.

    python benchmarks/translation.py --dry-run      # what is missing, with an estimate
    python benchmarks/translation.py                # all of it
    python benchmarks/translation.py --minutes 30   # begin no run after half an hour
    python benchmarks/translation.py --group headline size

It may be interrupted at any time: a finished run is in the records. A record counts until the
pairs change. Rates are chosen on validation strings with a seed of their own; the test strings
are read once per run of the other groups.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.jobs import Campaign, Job, Record, precision  # noqa: E402

PRETRAINED, SCRATCH = "pretrained", "from scratch"
LONGER = "from scratch, as long"  # as many seconds as denoising and fine-tuning together
ALL_TEXTS = "pretrained on all texts"  # where pairs are few, texts need not be
BASELINES = ("copy", "nearest")
LANGUAGE, SECOND = "zh-CN", "fr-FR"
ALL = 0  # pairs
# Passes over the pairs, and of denoising before; small sets need passes to get steps.
EPOCHS_AT = {ALL: (20, 8), 1_000: (30, 14), 300: (50, 30)}
LONG = 40  # passes over all pairs in the group of that name
A_PASS = 1.6  # seconds of a pass of denoising over those of a pass over the pairs
SEEDS = (0, 1, 2)
RATES, TUNING_SEED = (7e-4, 1.5e-3, 3e-3), 100
LONGEST, LENGTH, VOCABULARY, BATCH, SMOOTHING = 100, 96, 2_000, 32, 0.1
SIZES: dict[str, Any] = {"width": 128, "layers": 2, "heads": 4, "dropout": 0.15}
BEAM: dict[str, Any] = {"beams": 4, "length_penalty": 1.0}
PER_PAIR, AROUND = 0.0022, 20.0  # seconds of one thread, for the estimate


def jobs() -> list[Job]:
    """All runs: baselines and tuning first, then the headline."""
    baselines = [
        _job("baselines", name, language, size)
        for language, sizes in ((LANGUAGE, tuple(EPOCHS_AT)), (SECOND, (ALL,)))
        for size in sizes
        for name in BASELINES
    ]
    tuning = [
        _job("tuning", name, seed=TUNING_SEED) | {"lr": lr}
        for name in (PRETRAINED, SCRATCH)
        for lr in RATES
    ]
    headline = [
        _job("headline", name, seed=s) for s in SEEDS for name in (PRETRAINED, SCRATCH, LONGER)
    ]
    long = [_job("long", name, seed=s) for s in SEEDS for name in (PRETRAINED, SCRATCH)]
    size = [
        _job("size", name, size=size)
        for size in EPOCHS_AT
        if size != ALL
        for name in (PRETRAINED, ALL_TEXTS, SCRATCH)
    ]
    language = [
        _job("language", name, SECOND, seed=s) for s in SEEDS for name in (PRETRAINED, SCRATCH)
    ]
    return baselines + tuning + headline + long + size + language


def _job(
    group: str, model: str, language: str = LANGUAGE, size: int = ALL, seed: int = 0
) -> Job:
    return {"group": group, "model": model, "language": language, "pairs": size, "seed": seed}


def passes_of(job: Job) -> tuple[float, float]:
    """Passes over the pairs, and of denoising before them."""
    epochs, before = EPOCHS_AT[job["pairs"]]
    return (LONG if job["group"] == "long" else epochs), before


@lru_cache(maxsize=2)
def corpus(language: str, size: int, seed: int) -> Any:
    """The pairs, of which the training ones are limited."""
    from sftkit.corpora import translations

    return translations.load(language=language, limit=size or None, seed=seed, longest=LONGEST)


@lru_cache(maxsize=2)
def corpus_hash(language: str) -> str:
    """Of all pairs in their splits: a record counts as long as it stays."""
    from sftkit.files import sha256_text

    parts = corpus(language, ALL, 0)
    texts = [
        f"{name}\t{source}\t{target}"
        for name, part in parts.items()
        for source, target in sorted(zip(part["source"], part["target"], strict=True))
    ]
    return sha256_text("\n".join(texts))[:16]


def baseline(name: str, data: Any, split: str) -> list[str]:
    """The source as it is, or the translation of the most similar training source."""
    from sftkit.evaluate import translating

    sources = list(data[split]["source"])
    if name == "copy":
        return sources
    return translating.Nearest(data["train"]["source"], data["train"]["target"]).translate(
        sources
    )


def train(
    job: Job, lr: float, split: str, passes: tuple[float, float] | None = None
) -> tuple[list[str], dict[str, Any]]:
    """Translations of a split after training; the last weights, not the best.

    Args:
        passes: Over the pairs, and of denoising; those of `passes_of` unless given.
    """
    from sftkit import encode_pairs, vocabularies
    from sftkit.batches import Batches, Examples
    from sftkit.batches_denoising import DenoisingBatches
    from sftkit.corpora import translations
    from sftkit.fit import fit
    from sftkit.losses_seq2seq import sequence_to_sequence
    from sftkit.models import translate

    data, name, seed = _of(job), job["model"], job["seed"]
    texts = data if name != ALL_TEXTS else corpus(job["language"], ALL, 0)
    both = [*texts["train"]["source"], *texts["train"]["target"]]
    words = vocabularies.shared_bpe(both, VOCABULARY, LENGTH)
    model = translate.build(words, max_length=LENGTH, seed=seed, **SIZES)
    epochs, before = passes or passes_of(job)
    rates = {"lr": lr, "seed": seed, "precision": precision()}
    facts: dict[str, Any] = {"lr": lr, "epochs": epochs}
    seconds = 0.0
    if name in (PRETRAINED, ALL_TEXTS):
        unlike, _ = translations.denoising_texts(texts)
        ids = words(unlike, add_special_tokens=False)["input_ids"]
        ends = {"end_id": words.eos_token_id, "pad_id": words.pad_token_id}
        noisy = DenoisingBatches(
            [row[: LENGTH - 1] for row in ids], 2 * BATCH, mask_id=words.mask_token_id,
            seed=seed, **ends,
        )  # fmt: skip
        loss = sequence_to_sequence()
        seconds += fit(model, noisy, loss, epochs=before, label="denoising", **rates).seconds
        facts |= {"denoising_epochs": before, "denoising_texts": len(unlike)}
    elif name == LONGER:
        epochs += A_PASS * before
        facts["epochs"] = epochs
    pairs = encode_pairs.pairs(data, words, LENGTH)
    batches = Batches(Examples.of(pairs["train"], words.pad_token_id), BATCH, seed=seed)
    loss = sequence_to_sequence(SMOOTHING)
    seconds += fit(model, batches, loss, epochs=epochs, label=name, **rates).seconds
    found, _ = translate.translate(model, words, list(data[split]["source"]), **BEAM)
    return found, facts | {"training_seconds": round(seconds, 1)}


def _of(job: Job) -> Any:
    return corpus(job["language"], job["pairs"], job["seed"] if job["pairs"] else 0)


def best_rate(runs: list[Record], name: str) -> float:
    """The learning rate with the best validation BLEU, of the pretrained or of the others."""
    kind = PRETRAINED if name in (PRETRAINED, ALL_TEXTS) else SCRATCH
    tuned = [r for r in runs if r["job"]["group"] == "tuning" and r["job"]["model"] == kind]
    return float(max(tuned, key=lambda r: r["bleu"][0])["job"]["lr"])


def one_job(
    job: Job,
    runs: list[Record],
    passes: tuple[float, float] | None = None,
) -> Record:
    """Run a job; what is recorded of it."""
    from sftkit.evaluate import translating

    name, data = job["model"], _of(job)
    facts: dict[str, Any] = {}
    split = "validation" if job["group"] == "tuning" else "test"
    if name in BASELINES:
        found = baseline(name, data, split)
    else:
        lr = job.get("lr") or best_rate(runs, name)
        found, facts = train(job, lr, split, passes)
    rows = data[split]
    report = translating.translation_report(
        found, list(rows["target"]), translating.tokenizer_of(job["language"]), rows["family"]
    )
    kept = translating.kept(list(rows["source"]), found)
    return {
        "split": split,
        "bleu": list(report.bleu),
        "chrf": list(report.chrf),
        "kept": kept.right / max(kept.texts, 1),
        "train_pairs": len(data["train"]),
        **facts,
    }


def guess(job: Job) -> float:
    """Seconds of one thread, from the sizes."""
    if job["model"] in BASELINES:
        return 3.0
    epochs, before = passes_of(job)
    passes = epochs + (0 if job["model"] == SCRATCH else A_PASS * before)
    size = 2_200 if job["model"] == ALL_TEXTS else job["pairs"] or 2_200
    return AROUND + PER_PAIR * passes * size


def _line(job: Job) -> str:
    size = f"{job['pairs']:,} pairs" if job["pairs"] else "all pairs"
    line = f"{job['group']:9}  {job['model']:23}  {job['language']}  {size:11}"
    return f"{line}  seed {job['seed']}" + (f"  lr {job['lr']:g}" if "lr" in job else "")


CAMPAIGN = Campaign(
    Path(__file__),
    jobs,
    one_job,
    stamp=("corpus", lambda job: corpus_hash(job["language"])),
    line=_line,
    told=lambda record: f"BLEU {record['bleu'][0]:.1f}",
    guess=guess,
    alike=("group", "model", "language", "pairs"),
    choice="group",
)

if __name__ == "__main__":
    CAMPAIGN.main(__doc__)
