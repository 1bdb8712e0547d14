"""Summaries of documentation over seeds: the runs behind notebook 12's last table.

    python benchmarks/summaries.py --dry-run      # what is missing, and how long
    python benchmarks/summaries.py                # all of it
    python benchmarks/summaries.py --minutes 30   # begin no run after half an hour

It may be interrupted at any time: a finished run is in the records. A record counts until the
texts change. The recipes are those of the notebook, on more test texts.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.jobs import Campaign, Job, Record, precision  # noqa: E402

SCRATCH, DENOISED = "encoder-decoder, from scratch", "encoder-decoder, denoised first"
TUNED, ZERO = "language model, fine-tuned", "language model, as it is"
LEAD, RANKED = "lead, cut", "TextRank"
SEEDS = (0, 1, 2)
TESTED = {SCRATCH: 600, DENOISED: 600, LEAD: 600, RANKED: 600}  # test texts
TESTED |= {TUNED: 200, ZERO: 200}
CUTS, WATCHED = (3, 4, 5, 6, 8, 10, 13, 16, 20, 30), 400  # words of a lead; chosen on these
LENGTH, TARGET, VOCABULARY, WIDTH, LAYERS, BATCH = 96, 32, 6_000, 160, 2, 16
EPOCHS, LR = 1.5, 1e-3  # of the encoder-decoders, on pairs
CHAT_ROWS, CHAT_LR, RANK = 128, 1e-3, 16
ASK = "Write the first line of the docstring that goes on like this:\n\n"
SECONDS = {SCRATCH: 260.0, DENOISED: 400.0, TUNED: 500.0, ZERO: 200.0}  # of one core
SECONDS |= {LEAD: 10.0, RANKED: 10.0}


def jobs() -> list[Job]:
    """All runs, by seed; what is not trained has none to vary."""
    trained = [{"model": m, "seed": s} for s in SEEDS for m in (SCRATCH, DENOISED, TUNED)]
    return [*({"model": m, "seed": 0} for m in (LEAD, RANKED, ZERO)), *trained]


@lru_cache(maxsize=1)
def corpus() -> Any:
    """All pairs."""
    from sftkit.corpora import summaries

    return summaries.load()


@lru_cache(maxsize=1)
def corpus_hash() -> str:
    """Of all test texts and summaries."""
    from sftkit.files import sha256_text

    part = corpus()["test"]
    return sha256_text(str([list(part[name]) for name in ("text", "summary")]))[:16]


def tested(rows: int, split: str = "test") -> Any:
    """Texts of a split, evenly spaced."""
    import numpy as np

    part = corpus()[split]
    return part.select(np.unique(np.linspace(0, len(part) - 1, rows).astype(int)))


def one_job(job: Job, runs: list[Record]) -> Record:
    """Run a job; what is recorded of it."""
    from sftkit.evaluate import summarizing

    test = tested(TESTED[job["model"]])
    writers = {LEAD: _lead, RANKED: _ranked, SCRATCH: _by_pairs, DENOISED: _by_pairs}
    lines, seconds = writers.get(job["model"], _by_chat)(job, list(test["text"]))
    groups = [title.rpartition(".")[0] for title in test["title"]]
    report = summarizing.summary_report(lines, test["summary"], test["text"], groups)
    measures = report.as_metrics()
    return {
        "rougeL": measures["rougeL"]["value"] / 100,
        "tested": len(lines),
        "training_seconds": round(seconds, 1),
        "measures": measures,
        "first_lines": lines[:5],
    }


def _lead(job: Job, texts: list[str]) -> tuple[list[str], float]:
    """The first sentence, cut after as many words as validation says; seconds of training."""
    from sftkit.evaluate import summarizing
    from sftkit.evaluate.summary_baselines import first_words, lead

    watch = tested(WATCHED, "validation")
    leads, right = [lead(text) for text in watch["text"]], list(watch["summary"])

    def score(most: int) -> float:
        return summarizing.rouge([first_words(x, most) for x in leads], right)[:, 2].mean()

    best = max(CUTS, key=score)
    return [first_words(lead(text), best) for text in texts], 0.0


def _ranked(job: Job, texts: list[str]) -> tuple[list[str], float]:
    """The sentence that the others are most similar to."""
    from sftkit.evaluate.summary_baselines import text_rank

    return [text_rank(text) for text in texts], 0.0


def _by_pairs(job: Job, texts: list[str]) -> tuple[list[str], float]:
    """What an encoder-decoder writes after training, and how long that took."""
    from sftkit import encode_pairs
    from sftkit.batches import Batches, Examples
    from sftkit.batches_denoising import DenoisingBatches
    from sftkit.fit import fit
    from sftkit.losses_seq2seq import sequence_to_sequence
    from sftkit.models import translate
    from sftkit.vocabularies import shared_bpe

    seed, train = job["seed"], corpus()["train"]
    words = shared_bpe([*train["text"], *train["summary"]], VOCABULARY, LENGTH)
    model = translate.build(words, width=WIDTH, layers=LAYERS, max_length=LENGTH, seed=seed)
    ramp: dict[str, Any] = {"lr": LR, "schedule": "linear", "warmup": 0.1, "seed": seed}
    ramp["precision"] = precision()
    seconds = 0.0
    if job["model"] == DENOISED:
        ids = words(list(train["text"]), add_special_tokens=False, verbose=False)["input_ids"]
        marks = {"pad_id": words.pad_token_id, "end_id": words.eos_token_id}
        pieces = [row[: LENGTH - 1] for row in ids]
        noisy = DenoisingBatches(pieces, BATCH, mask_id=words.mask_token_id, seed=seed, **marks)
        state = fit(model, noisy, sequence_to_sequence(), epochs=1, label="denoising", **ramp)
        seconds = state.seconds
    named = corpus().rename_columns({"text": "source", "summary": "target"})
    coded = encode_pairs.pairs(named, words, LENGTH, TARGET)["train"]
    pairs = Batches(Examples.of(coded, words.pad_token_id), BATCH, seed=seed)
    smoothed = sequence_to_sequence(label_smoothing=0.1)
    seconds += fit(model, pairs, smoothed, epochs=EPOCHS, label=job["model"], **ramp).seconds
    return translate.translate(model, words, texts, most=TARGET)[0], seconds


def _by_chat(job: Job, texts: list[str]) -> tuple[list[str], float]:
    """What the language model writes, fine-tuned or not; seconds of training."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sftkit import assets, encode_chat
    from sftkit.batches import Batches, Examples
    from sftkit.evaluate.answers import ask
    from sftkit.fit import fit
    from sftkit.losses_chunked import causal_lm
    from sftkit.models import lora

    folder, seed, seconds = assets.path("smollm2-135m-instruct"), job["seed"], 0.0
    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def asked(text: str) -> dict[str, str]:
        coded = words(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = coded["offset_mapping"]
        short = text if len(ends) <= LENGTH else text[: ends[LENGTH - 1][1]]
        return {"role": "user", "content": ASK + short}

    if job["model"] == TUNED:
        from sftkit.corpora import summaries

        rows = summaries.load(limit=CHAT_ROWS, seed=seed)["train"]
        talks = [
            [asked(text), {"role": "assistant", "content": line}]
            for text, line in zip(rows["text"], rows["summary"], strict=True)
        ]
        coded, _ = encode_chat.conversations(talks, words, LENGTH + TARGET + 96)
        lora.add(model, rank=RANK, seed=seed)
        batches = Batches(Examples.of(coded, words.pad_token_id), 4, seed=seed)
        ramp: dict[str, Any] = {"schedule": "linear", "warmup": 0.1, "weight_decay": 0.0}
        ramp |= {"lr": CHAT_LR, "seed": seed, "label": TUNED, "precision": precision()}
        seconds = fit(model, batches, causal_lm(), epochs=1, **ramp).seconds
    found = ask(model, words, [[asked(text)] for text in texts], TARGET + 8)
    return [_first_line(answer) for answer, _ in found], seconds


def _first_line(answer: str) -> str:
    """As in the notebook: the first line that announces nothing, without quotation marks."""
    lines = [line.strip(" \"'`") for line in answer.split("\n")]
    return next((line for line in lines if line and line[-1] != ":"), "")


CAMPAIGN = Campaign(
    Path(__file__),
    jobs,
    one_job,
    stamp=("corpus", lambda job: corpus_hash()),
    line=lambda job: f"{job['model']:32} seed {job['seed']}",
    told=lambda record: f"ROUGE-L {100 * record['rougeL']:.1f}",
    guess=lambda job: SECONDS[job["model"]],
    alike=("model",),
)

if __name__ == "__main__":
    CAMPAIGN.main(__doc__)
