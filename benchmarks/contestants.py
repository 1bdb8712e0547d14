"""One measurement in a process of its own: train one contestant once, and say how it went.

Called by `turns` for `classification.py`; the job names the contestant, the seed and the
prepared data.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

WARM_UP_BATCHES = 2

# Only what differs from Trainer's defaults, besides batch size, rate, epochs and seed.
TRAINER: dict[str, dict[str, Any]] = {
    "trainer-default": {},
    "trainer-tuned": {
        "train_sampling_strategy": "group_by_length",
        "length_column_name": "length",
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": False,
    },
}
TRAINER["trainer-tuned+memory"] = TRAINER["trainer-tuned"]

CONTESTANTS = {
    "ours": "sftkit, all parameters",
    "trainer-default": "Trainer, its defaults",
    "trainer-tuned": "Trainer, tuned",
    "trainer-tuned+memory": "Trainer, tuned, with sftkit's memory setting",
    "ours-no-embeddings": "sftkit, word embeddings frozen",
    "ours-top-2": "sftkit, top two blocks, frozen part cached",
}
SAME_MATHEMATICS = ("ours", "trainer-default", "trainer-tuned", "trainer-tuned+memory")
WHAT_IS_TRAINED = {"ours-no-embeddings": "no-embeddings", "ours-top-2": "top-2"}


def configuration(contestant: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything that is set for a contestant, for the result file."""
    shared = {k: settings[k] for k in ("batch_size", "lr", "epochs")} | {
        "precision": "float32",
        "optimizer": "AdamW, fused",
        "schedule": "linear to 0, no warm-up",
        "weight_decay": 0.0,
        "clip": 1.0,
        "dropout": "the model's own (0.1)",
        "head": "transformers' own",
        "trained": WHAT_IS_TRAINED.get(contestant, "all"),
    }
    if contestant in TRAINER:
        memory = contestant.endswith("+memory")
        return shared | {"arguments": TRAINER[contestant], "keep_freed_memory": memory}
    return shared | {
        "batches": "by length",
        "keep_freed_memory": True,
        "last_block": "what the head does not read is left out (models.skip_unread)",
        "word_embeddings": "rows that occur (models.occurring_tokens_only)",
    }


def train_ours(model: Any, tokenizer: Any, data: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Our loop, from encoded data to the trained model. Returns the shapes that it ran."""
    from sftkit import losses, models
    from sftkit.batches import Batches, Examples
    from sftkit.fit import fit

    examples, trained, cached = Examples.of(data, tokenizer.pad_token_id), model, 0
    caching: list[tuple[int, int]] = []
    if job["contestant"] == "ours-top-2":
        cached = len(models.parts.blocks(model)) - 2
        order = Batches(examples, 64, shuffle=False).order(0)
        caching = [(len(rows), int(examples.lengths[rows].max())) for rows in order]
        trained, examples = models.cache_frozen(model, examples, 64)
    batches = Batches(examples, job["batch_size"], seed=job["seed"])
    with models.occurring_tokens_only(trained, examples):
        fit(
            trained, batches, losses.classification(),
            epochs=job["epochs"], lr=job["lr"], warmup=0.0, weight_decay=0.0, clip=1.0,
            schedule="linear", seed=job["seed"], precision="fp32",
        )  # fmt: skip
    shapes = [
        (len(rows), int(examples.lengths[rows].max()))
        for epoch in range(job["epochs"])
        for rows in batches.order(epoch)
    ]
    return {"shapes": shapes, "caching": caching, "cached_blocks": cached}


def train_trainer(model: Any, tokenizer: Any, data: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Hugging Face's loop. Its shapes are seen by the collator."""
    import tempfile

    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from sftkit import device

    if job["contestant"].endswith("+memory"):
        device.keep_freed_memory()
    shapes: list[tuple[int, int]] = []
    pad = DataCollatorWithPadding(tokenizer)

    def collate(rows: list[dict[str, Any]]) -> Any:
        batch = pad(rows)
        shapes.append(tuple(batch["input_ids"].shape))
        return batch

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=job["batch_size"],
            learning_rate=job["lr"],
            num_train_epochs=job["epochs"],
            seed=job["seed"],
            use_cpu=True,
            **TRAINER[job["contestant"]],
        )
        assert not arguments.bf16 and not arguments.fp16
        assert not arguments.gradient_checkpointing
        trainer = Trainer(
            model, arguments, train_dataset=data, data_collator=collate,
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.train()
    return {"shapes": shapes, "caching": [], "cached_blocks": 0}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Warm up, train, test.

    Time runs from the encoded data and the loaded model to the trained model. Imports,
    loading and encoding are left out for everyone, and so are costs of first use: each
    contestant trains another copy of the model on two batches first.
    """
    import accelerate  # noqa: F401
    from datasets import load_from_disk
    from transformers.utils.logging import set_verbosity_error

    from benchmarks.flops import Sizes, caching_flops, machine_limit, training_flops
    from sftkit import device, models
    from sftkit.batches import Examples
    from sftkit.evaluate import predict

    set_verbosity_error()
    data = load_from_disk(job["_data"])
    names, contestant = job["classes"], job["contestant"]
    train = train_trainer if contestant in TRAINER else train_ours
    trained = WHAT_IS_TRAINED.get(contestant, "all")

    def fresh() -> tuple[Any, Any]:
        loaded = models.load(
            "minilm", names, head="first", train=trained, seed=job["seed"],
            skip_unread=contestant not in TRAINER,  # Trainer gets the stock model
        )  # fmt: skip
        return loaded

    if job["warm_up"]:
        rows = min(len(data["train"]), WARM_UP_BATCHES * job["batch_size"])
        train(*fresh(), data["train"].select(range(rows)), job | {"epochs": 1})
    model, tokenizer = fresh()
    require_float32(model)
    start, cpu_start = time.perf_counter(), time.process_time()
    run = train(model, tokenizer, data["train"], job)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = device.peak_memory_mb()
    require_float32(model)
    shapes, caching, cached = run["shapes"], run["caching"], run["cached_blocks"]
    sizes = Sizes.of(model.config)
    skipped = contestant not in TRAINER
    flops = training_flops(sizes, shapes, cached, skipped)
    flops += caching_flops(sizes, caching, cached)
    examples = sum(b for b, _ in shapes)
    assert examples == job["epochs"] * len(data["train"]), "every row once per epoch"
    return {
        "contestant": contestant,
        "seed": job["seed"],
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,  # far below seconds * threads: others used the machine
        "examples_per_second": examples / seconds,
        "accuracy": predict(model, Examples.of(data["test"], tokenizer.pad_token_id)).accuracy,
        "peak_memory_mb": peak,
        "positions": sum(b * t for b, t in shapes),
        "gflop": flops / 1e9,
        "achieved_gflops": flops / seconds / 1e9,
        "limit_gflops": machine_limit(sizes, shapes, 0.01 if job["quick"] else 0.05),
        "load": list(_load()),
    }


def require_float32(model: Any) -> None:
    """Every parameter, and what a forward pass gives."""
    import torch

    assert all(p.dtype == torch.float32 for p in model.parameters())
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.ones(1, 2, dtype=torch.long)).logits
    assert logits.dtype == torch.float32


def _load() -> tuple[float, ...]:
    import os

    return os.getloadavg() if hasattr(os, "getloadavg") else ()
