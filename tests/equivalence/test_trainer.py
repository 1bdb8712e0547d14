"""Our loop and transformers' `Trainer`: one trajectory, on uneven rows in micro-batches."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from sftkit import losses_chunked
from sftkit.batches import Batches
from tests.engine import tiny_chat
from tests.equivalence import OPTIONS, Trajectory, agree, flat, train


def test_trainer(tmp_path):
    from transformers import Trainer, TrainingArguments

    examples = tiny_chat.examples(16)  # whole steps of 8: two micro-batches of 4
    ids, labels = examples.columns["input_ids"], examples.columns["labels"]
    data = Dataset.from_dict(
        {
            name: [column.values[a:b].tolist() for a, b in zip(*bounds(column), strict=True)]
            for name, column in (("input_ids", ids), ("labels", labels))
        }
    )

    def collate(rows):
        import torch
        from torch.nn.utils.rnn import pad_sequence

        parts = {"input_ids": 0, "labels": -100}
        out = {
            name: pad_sequence([torch.tensor(r[name]) for r in rows], True, fill)
            for name, fill in parts.items()
        }
        return out | {"attention_mask": (out["input_ids"] >= 0).long()}

    model = tiny_chat.llama()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_train_epochs=2,
        learning_rate=OPTIONS["lr"],
        lr_scheduler_type="linear",
        weight_decay=0.01,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    theirs = Trajectory(
        np.array([float(row["loss"]) for row in rows]),
        np.array([float(row["grad_norm"]) for row in rows]),
        flat(model),
    )
    batches = Batches(examples, 8, micro_batch_size=4, shuffle=False, by_length=False)
    ours = train(tiny_chat.llama(), batches, losses_chunked.causal_lm(), warmup=0)
    # transformers makes float32 of the logits, so that much is not ours to answer for.
    agree("Trainer", ours, theirs, largest=1e-5, drift=1e-6)


def bounds(column):
    return column.starts[:-1], column.starts[1:]
