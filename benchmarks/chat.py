"""Training a chat model on real dialogues: our loop against TRL's `SFTTrainer`.

    python benchmarks/chat.py            # SmolLM2-135M, 16 dialogues
    python benchmarks/chat.py --full     # 64 dialogues; TRL's defaults once
    python benchmarks/chat.py --quick    # a smoke test with a tiny model

Both get the same token ids and labels (prompts masked), so that encoding is no part of it, and
the same steps in the same order, grouped by length, so that their losses can be compared step
by step. TRL runs at its best settings on a CPU: float32, no activation checkpointing, its own
chunked loss; rows without padding it has for flash attention only. Ours are packed, and once
padded as TRL's are. With LoRA, each draws its own start of the adapters. Needs
``pip install sftkit[bench]``.
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
    "ours": "sftkit, all parameters",
    "ours-padded": "sftkit, padded",
    "trl": "TRL, all parameters",
    "ours-lora": "sftkit, LoRA",
    "ours-lora-recompute": "sftkit, LoRA, recomputing",
    "trl-lora": "TRL with peft, LoRA",
    "trl-default": "TRL, its defaults, 8 dialogues",
}
LORA = {"rank": 8, "alpha": 16, "targets": ["q_proj", "v_proj"]}
SETTINGS: dict[str, Any] = {"batch_size": 8, "lr": 2e-5, "lora_lr": 2e-4, "epochs": 1,
                            "max_length": 256}  # fmt: skip
GOALS = {"speed": 2.0, "memory": 0.8, "loss_difference": 1e-3}  # the last: in nats, any step
MINUTES_OF_1000, LORA_MEMORY = 8.0, 0.6  # goals of ours alone: dialogues; over all parameters
DEFAULT_ROWS = 8  # of TRL's defaults, which are many times as slow on a CPU


def load_model(job: dict[str, Any]) -> Any:
    """SmolLM2 in float32; a tiny model of the same architecture for the smoke test."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    from sftkit import assets

    folder = assets.path("smollm2-135m-instruct")
    if job["tiny"]:
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(vocab_size=49_152, hidden_size=32, intermediate_size=64,
                        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                        tie_word_embeddings=True)
        )  # fmt: skip
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Warm up on a batch, train an epoch, measure the loss on held-out dialogues."""
    import torch
    from datasets import load_from_disk
    from transformers.utils.logging import set_verbosity_error

    from sftkit import device
    from sftkit.batches import Batches, Examples
    from sftkit.evaluate.language import token_loss
    from sftkit.losses_chunked import causal_lm

    set_verbosity_error()
    data = load_from_disk(job["_data"])
    name, pad = job["contestant"], job["pad_id"]
    if name == "trl-default":
        data["train"] = data["train"].select(range(min(DEFAULT_ROWS, len(data["train"]))))
    train = _trl if name.startswith("trl") else _ours
    train(load_model(job), data["train"].select(range(min(8, len(data["train"])))), job)
    torch.manual_seed(job["seed"])
    model = load_model(job)
    start = time.perf_counter()
    trained, losses = train(model, data["train"], job)
    seconds = time.perf_counter() - start
    memory = device.peak_memory_mb()
    watch = Batches(Examples.of(data["watch"], pad), 8, shuffle=False)
    loss_sum, n = token_loss(trained.float(), watch, causal_lm())
    return {
        "seconds": seconds,
        "examples_per_second": len(data["train"]) / seconds,
        "peak_memory_mb": memory,
        "held_out_loss": loss_sum / n,
        "training_loss": statistics.fmean(losses),
        "losses": losses,
        "trained_parameters": sum(p.numel() for p in trained.parameters() if p.requires_grad),
    }


def _ours(model: Any, data: Any, job: dict[str, Any]) -> tuple[Any, list[float]]:
    from sftkit.fit import fit
    from sftkit.losses_chunked import causal_lm
    from sftkit.models import lora

    lr = SETTINGS["lr"]
    if "lora" in job["contestant"]:
        lora.add(model, **LORA)
        lr = SETTINGS["lora_lr"]
    if job["contestant"].endswith("recompute"):
        model.activation_checkpointing_enable()
    state = fit(
        model, _batches(data, job), causal_lm(), epochs=1, lr=lr, warmup=0.0,
        weight_decay=0.0, clip=1.0, schedule="linear", precision="fp32", seed=job["seed"],
    )  # fmt: skip
    return model, state.losses


def _batches(data: Any, job: dict[str, Any]) -> Any:
    from sftkit.batches import Batches, Examples
    from sftkit.packing import PackedBatches

    examples, size = Examples.of(data, job["pad_id"]), job["batch_size"]
    if job["contestant"] in ("ours", "ours-lora", "ours-lora-recompute"):
        return PackedBatches(examples, size, seed=job["seed"], by_length=True)
    return Batches(examples, size, seed=job["seed"])


def _trl(model: Any, data: Any, job: dict[str, Any]) -> tuple[Any, list[float]]:
    from trl import SFTConfig, SFTTrainer

    best: dict[str, Any] = {
        "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True,
        "train_sampling_strategy": "sequential", "save_strategy": "no",
        "dataloader_pin_memory": False, "logging_nan_inf_filter": False,
    }  # fmt: skip
    default = job["contestant"] == "trl-default"
    if not default:
        data = data.select([int(i) for step in _batches(data, job).order(0) for i in step])
    adapter = None
    if job["contestant"].endswith("lora"):
        from peft import LoraConfig

        adapter = LoraConfig(r=LORA["rank"], lora_alpha=LORA["alpha"], lora_dropout=0.0,
                             target_modules=LORA["targets"], task_type="CAUSAL_LM")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, use_cpu=True, report_to="none", seed=job["seed"],
            per_device_train_batch_size=job["batch_size"], num_train_epochs=1,
            learning_rate=SETTINGS["lora_lr" if adapter else "lr"], logging_steps=1,
            max_length=SETTINGS["max_length"], **({} if default else best),
        )  # fmt: skip
        assert default or not (arguments.bf16 or arguments.gradient_checkpointing)
        trainer = SFTTrainer(
            model, arguments, train_dataset=data.select_columns(["input_ids", "labels"]),
            peft_config=adapter, processing_class=_tokenizer(),
        )  # fmt: skip
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    inside = trainer.model
    return (inside.merge_and_unload() if adapter else inside), losses


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    from sftkit import assets

    return AutoTokenizer.from_pretrained(assets.path("smollm2-135m-instruct"))


def prepare(rows: int, others: int, folder: Path) -> dict[str, Any]:
    """Encode the dialogues once for all. Returns what jobs need to know."""
    from datasets import DatasetDict, disable_progress_bars

    from sftkit import encode_chat
    from sftkit.corpora import dialogues

    disable_progress_bars()
    tokenizer = _tokenizer()
    talks = dialogues.load("dialogues")
    parts = {"train": talks["train"][:rows], "watch": talks["test"][:others]}
    encoded = {
        name: encode_chat.conversations(part["messages"], tokenizer, SETTINGS["max_length"])[0]
        for name, part in parts.items()
    }
    DatasetDict(encoded).save_to_disk(folder)
    lengths = [len(ids) for ids in encoded["train"]["input_ids"]]
    supervised = sum(t != -100 for row in encoded["train"]["labels"] for t in row)
    return {"pad_id": tokenizer.pad_token_id, "tokens": sum(lengths), "supervised": supervised}


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, ratios of speed and memory, and how far the losses are apart."""
    keys = ("examples_per_second", "seconds", "peak_memory_mb", "held_out_loss",
            "training_loss", "trained_parameters")  # fmt: skip
    summary: dict[str, Any] = turns.medians(runs, keys)
    pairs = [("ours", "trl"), ("ours-lora", "trl-lora"), ("ours", "trl-default"),
             ("ours", "ours-padded"), ("ours-lora-recompute", "ours-lora")]  # fmt: skip
    for ours, theirs in pairs:
        if ours not in summary or theirs not in summary:
            continue
        seeds = {r["seed"] for r in runs if r["contestant"] == theirs}
        both = [r for r in runs if r["contestant"] in (ours, theirs) and r["seed"] in seeds]
        loss = [turns.column(both, n, "held_out_loss") for n in (ours, theirs)]
        steps = [sum(turns.column(both, n, "losses"), []) for n in (ours, theirs)]
        summary[theirs]["ours_over_this"] = {
            "speed": turns.ratio(both, ours, theirs, "examples_per_second"),
            "memory": turns.ratio(both, ours, theirs, "peak_memory_mb"),
            "held_out_loss_difference": max(abs(a - b) for a, b in zip(*loss, strict=True)),
            # TRL's defaults train on fewer dialogues, so they have fewer steps.
            "loss_difference": max(abs(a - b) for a, b in zip(*steps, strict=False)),
        }
    return summary


def main(arguments: list[str] | None = None) -> None:
    parser = turns.parser(__doc__, "64 dialogues; TRL's defaults too")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS)
    options = parser.parse_args(arguments)
    form, out = turns.form(options), turns.result_file(options, "chat")
    rows, tiny = 64 if form == "full" else 16, form == "quick"
    names = options.contestants or [
        n for n in CONTESTANTS if n != "trl-default" or form == "full"
    ]
    # TRL's defaults take minutes for eight dialogues: looked at once, after all others.
    often = [n for n in names if n != "trl-default"]
    once = [n for n in names if n == "trl-default"]
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        facts = prepare(rows, max(8, rows // 4), Path(folder))
        shared = facts | {"_data": folder, "rows": rows, "tiny": tiny,
                          "batch_size": SETTINGS["batch_size"]}  # fmt: skip

        def measured(some: list[str], times: int) -> list[dict[str, Any]]:
            return turns.take_turns(
                "benchmarks.chat", some, times, shared,
                lambda r: f"{r['examples_per_second']:6.2f} examples/s  "
                f"{r['peak_memory_mb'] / 1e3:.2f} GB  held-out loss {r['held_out_loss']:.4f}",
                keep=not tiny,
            )  # fmt: skip

        runs = measured(often, turns.REPETITIONS[form]) + measured(once, 1)
    summary = summarize(runs)
    title = "Chat training"
    if over := summary.get("trl", {}).get("ours_over_this"):
        title = (
            f"Chat training: {over['speed']['ratio_of_medians']:.2f} times TRL's speed, "
            f"{over['memory']['ratio_of_medians']:.2f} times its memory"
        )
    panels = [("examples_per_second", 1, "examples / s"), ("peak_memory_mb", 1e-3, "GB"),
              ("held_out_loss", 1, "held-out loss, nats")]  # fmt: skip
    figure = turns.points(runs, CONTESTANTS, panels, title, out.with_suffix(".png"))
    packages = (*turns.PACKAGES, "trl", "peft")
    write_json(out, turns.header(
        started, form=form, **turns.machine(packages),
        settings={"model": "tiny" if tiny else "smollm2", "data": "dialogues",
                  "rows": rows, "tokens": facts["tokens"], "supervised": facts["supervised"],
                  "lora": LORA, "precision": "float32", **SETTINGS},
        goals=GOALS, summary=summary, runs=runs, figure=figure,
    ))  # fmt: skip
    print(title)


if __name__ == "__main__":
    main()
