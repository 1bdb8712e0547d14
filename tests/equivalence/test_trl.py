"""The same conversations in TRL's `SFTTrainer`: the same losses, step by step."""

from __future__ import annotations

import pytest
import torch

from sftkit.batches import Batches, Examples
from sftkit.encode_chat import conversations
from sftkit.fit import fit
from sftkit.losses_chunked import causal_lm
from tests.engine.tiny_chat import TALKS, llama, talk, tokenizer

STEPS, SIZE, LR = 6, 3, 1e-2
MANY = [*TALKS, *(talk(f"say {n}", f"{n} " * n) for n in range(1, 12))]


@pytest.fixture(scope="module")
def encoded():
    return conversations(MANY, tokenizer(), 512)[0]


def model():
    made = llama(vocab=len(tokenizer())).float()
    made.config.max_position_embeddings = 512
    return made


def rows_of(data):
    return [rows.tolist() for rows in Batches(Examples.of(data), SIZE).order(0)[:STEPS]]


def ours(data):
    batches = Batches(Examples.of(data, tokenizer().pad_token_id), SIZE)
    state = fit(
        model(), batches, causal_lm(), max_steps=STEPS, lr=LR, schedule="constant", warmup=0,
        weight_decay=0.0, clip=1.0, precision="fp32",
    )  # fmt: skip
    return state.losses


def theirs(data, folder, **more):
    """The same rows in the same order, float32, without checkpointing."""
    trl = pytest.importorskip("trl")
    order = [row for rows in rows_of(data) for row in rows]
    arguments = trl.SFTConfig(
        output_dir=str(folder), use_cpu=True, report_to="none", bf16=False, disable_tqdm=True,
        activation_checkpointing=False, per_device_train_batch_size=SIZE, max_steps=STEPS,
        learning_rate=LR, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0,
        train_sampling_strategy="sequential", logging_steps=1, save_strategy="no",
        max_length=512, **more,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model(),
        arguments,
        train_dataset=data.select(order).select_columns(["input_ids", "labels"]),
        processing_class=tokenizer(),
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_losses_agree_with_trl(encoded, tmp_path):
    expected = theirs(encoded, tmp_path)
    found = ours(encoded)
    assert len(expected) == STEPS and expected[-1] < expected[0]
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 1e-4


def test_a_mask_that_forgets_the_stop_token_is_seen(encoded, tmp_path):
    stop = tokenizer().eos_token_id

    def forget(row):
        return {"labels": [-100 if t == stop else t for t in row["labels"]]}

    expected = theirs(encoded, tmp_path)
    broken = ours(encoded.map(forget))
    assert max(abs(a - b) for a, b in zip(broken, expected, strict=True)) > 1e-2


def test_our_mask_is_the_one_trl_makes_from_a_template_that_marks_answers(encoded):
    """transformers' assistant mask, from a template that says where answers are."""
    words = tokenizer()
    words.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}"
        "{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
        "{% endfor %}"
    )
    compared = 0
    for row in encoded:
        made = words.apply_chat_template(
            MANY[row["row"]], return_dict=True, return_assistant_tokens_mask=True
        )
        if made["input_ids"] == row["input_ids"]:  # no token reaches over a boundary there
            mask = [int(label != -100) for label in row["labels"]]
            assert made["assistant_masks"] == mask
            compared += 1
    assert compared >= len(MANY) - 3


def test_the_first_loss_is_the_mean_over_answer_tokens(encoded):
    rows = rows_of(encoded)[0]
    total, count, net = 0.0, 0, model().eval()
    for row in rows:
        ids, labels = encoded[row]["input_ids"], encoded[row]["labels"]
        log_p = net(torch.tensor([ids])).logits[0].log_softmax(-1)
        for at in range(1, len(ids)):
            if labels[at] != -100:
                total -= log_p[at - 1, labels[at]].item()
                count += 1
    assert abs(ours(encoded)[0] - total / count) < 1e-4
