"""How well does a small encoder answer questions about docstrings? The runs of notebook 10.

    python benchmarks/questions.py --dry-run      # what is missing, and how long it takes
    python benchmarks/questions.py                # all of it: five hours of one core in float32
    python benchmarks/questions.py --minutes 60   # begin no run after an hour
    python benchmarks/questions.py --precision bf16  # as the recorded trainings

It may be interrupted at any time: a finished run is in the records, and the same command goes
on. The headline has three seeds: other training questions, another head, another order.
Nothing is chosen but the threshold, on validation questions; test questions are read once a
run. A record counts until the questions change (its ``corpus`` is their hash).
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.jobs import Campaign, Job, Record, precision  # noqa: E402

# What is not trained: rules, and where they say nothing, the block that is most similar in its
# words, or in the embedding of the encoder as it was pretrained.
RULES, MEANING = BASELINES = ("rules, else lexical", "rules, else meaning")
WRITTEN = "SmolLM2, written"  # a chat model that is not trained for it, on the same questions
MODELS = {"fine-tuned": True, "from scratch": False}  # with pretrained weights or without
HEADLINE = 10_000  # training questions, of the 13,000 that there are
SEEDS = (0, 1, 2)
SMALLER = 1_000  # where both kinds of weights begin, with equal data
PASSES = {HEADLINE: 2, SMALLER: 1}
WATCHED, TESTED = 250, 600  # validation and test questions
LENGTH, OVERLAP, OTHERS, BATCH = 160, 64, 0.25, 8
MOST = 40  # tokens that the chat model writes
LR, HEAD_FACTOR = 2e-4, 5.0  # at 5e-4 one seed of two learned little (validation)
PER_QUESTION, AROUND = 0.25, 80.0  # seconds of one core: of training, and of a run beside it
WRITING = 900.0  # of answers that are written


def jobs() -> list[Job]:
    """All runs: what is not trained, the first headline, fewer questions, the other seeds."""
    first, *rest = (_job("fine-tuned", HEADLINE, seed) for seed in SEEDS)
    smaller = [_job(name, SMALLER, SEEDS[0]) for name in MODELS]
    untrained = [_job(name, HEADLINE, SEEDS[0]) for name in (*BASELINES, WRITTEN)]
    return [*untrained, first, *smaller, *rest]


def _job(model: str, size: int, seed: int) -> Job:
    return {"model": model, "questions": size, "seed": seed}


@lru_cache(maxsize=1)
def corpus(size: int, seed: int) -> Any:
    """Training questions of one size; the validation and test questions of every run."""
    import numpy as np

    from sftkit.corpora import questions

    data = questions.load(limit=size, seed=seed)
    for split, rows in (("validation", WATCHED), ("test", TESTED)):
        spaced = np.linspace(0, len(data[split]) - 1, rows)
        data[split] = data[split].select(np.unique(spaced.astype(int)))
    return data


@lru_cache(maxsize=1)
def corpus_hash() -> str:
    """Of all test questions with their answers, and of which ones are trained on."""
    from sftkit.corpora import questions
    from sftkit.files import sha256_text

    data = questions.load()
    columns = ("id", "question", "context", "starts")
    texts = [list(data["test"][name]) for name in columns]
    return sha256_text(str([texts, sorted(data["train"]["id"])]))[:16]


def one_job(job: Job, runs: list[Record]) -> Record:
    """Run a job; what is recorded of it."""
    from sftkit import encode_spans
    from sftkit.batches import Batches
    from sftkit.evaluate import reading, reading_baselines
    from sftkit.fit import fit
    from sftkit.losses_spans import extractive
    from sftkit.models.load_spans import load_reader

    seed = job["seed"]
    data = corpus(job["questions"], seed)
    if job["model"] in BASELINES:
        return measured(by_rules(data, job["model"]), data["test"])
    if job["model"] == WRITTEN:
        return measured(by_writing(data["test"]), data["test"])
    pretrained = MODELS[job["model"]]
    model, tokenizer = load_reader(
        "minilm",
        train="no-embeddings" if pretrained else "all",
        dropout=0.0,
        seed=seed,
        pretrained=pretrained,
    )
    passes = PASSES[job["questions"]]
    encoded = encode_spans.questions(data, tokenizer, LENGTH, OVERLAP, others=OTHERS, seed=seed)
    pad = tokenizer.pad_token_id
    batches = Batches(reading.examples_of(encoded["train"], pad), BATCH, seed=seed)
    rates: dict[str, Any] = {"lr": LR, "head_lr_factor": HEAD_FACTOR, "precision": precision()}
    label = f"{job['model']}, {job['questions']} questions, seed {seed}"
    state = fit(model, batches, extractive(), epochs=passes, seed=seed, label=label, **rates)
    watch, test = data["validation"], data["test"]
    seen = reading.read(model, encoded["validation"], list(watch["context"]), pad)
    threshold = reading.best_threshold(seen, list(watch["texts"]))
    found = reading.read(model, encoded["test"], list(test["context"]), pad)
    asked = list(test["question"]), list(test["context"])
    both = measured(reading_baselines.ruled(*asked, found, threshold), test)
    facts = {"threshold": threshold, "training_seconds": round(state.seconds, 1)}
    facts["with_rules"] = {key: both[key] for key in ("f1", "unnamed", "exact")}
    return measured([answer.given(threshold) for answer in found], test) | facts


def by_rules(data: Any, model: str = RULES) -> list[str]:
    """What a baseline says, tuned on validation questions."""
    from sftkit import assets
    from sftkit.evaluate import reading, reading_baselines

    watched, test = data["validation"], data["test"]
    columns = [list(watched[name]) for name in ("question", "context", "texts")]
    asked = list(test["question"]), list(test["context"])
    if model == RULES:
        nearest, least = reading_baselines.tuned_lexical(
            list(data["train"]["context"]), *columns
        )
        return reading_baselines.ruled(*asked, nearest.answers(*asked), least)
    from transformers import AutoModel, AutoTokenizer

    folder = assets.path("minilm")
    means = reading_baselines.Meaning(
        AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    )
    least = reading.best_threshold(means.answers(*columns[:2]), columns[2])
    return reading_baselines.ruled(*asked, means.answers(*asked), least)


def by_writing(test: Any) -> list[str]:
    """What SmolLM2 writes when it is asked for words of the text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sftkit import assets
    from sftkit.evaluate.answers import ask
    from sftkit.evaluate.reading_baselines import copying_prompt

    folder = assets.path("smollm2-135m-instruct")
    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    asked = list(map(copying_prompt, test["question"], test["context"]))
    return [text.strip() for text, _ in ask(model, words, asked, MOST, batch_size=BATCH)]


def measured(guesses: list[str], test: Any) -> Record:
    """What is recorded of a model's answers to the test questions."""
    import numpy as np

    from sftkit.evaluate import reading

    report = reading.reading_report(guesses, list(test["texts"]), list(test["context"]))
    named = np.array(test["named"]) == 1
    empty = np.array([not texts for texts in test["texts"]])
    kinds = np.array(test["kind"])
    return {
        "f1": list(report.f1),
        "exact": list(report.exact),
        "unnamed": list(report.where(~named).f1),
        "named": list(report.where(named).f1),
        "has_answer": list(report.where(~empty).f1),
        "no_answer": list(report.where(empty).f1),
        "f1_by_kind": {k: float(report.rows[kinds == k, 1].mean()) for k in sorted(set(kinds))},
    }


def _line(job: Job) -> str:
    return f"{job['model']:14} {job['questions']:>6,} questions  seed {job['seed']}"


CAMPAIGN = Campaign(
    Path(__file__),
    jobs,
    one_job,
    stamp=("corpus", lambda job: corpus_hash()),
    line=_line,
    told=lambda r: f"F1 {100 * r['f1'][0]:.1f}, names nothing {100 * r['unnamed'][0]:.1f}",
    guess=lambda job: (
        AROUND
        + WRITING * (job["model"] == WRITTEN)
        + PER_QUESTION * (job["model"] in MODELS) * job["questions"] * PASSES[job["questions"]]
    ),
    alike=("model", "questions"),
)

if __name__ == "__main__":
    CAMPAIGN.main(__doc__)
