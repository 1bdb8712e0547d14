"""Real weights, a few steps: the loss falls, the answers change, nothing else breaks."""

from __future__ import annotations

import pytest
import torch

from sftkit import assets
from sftkit.batches import Batches, Examples
from sftkit.corpora import instructions
from sftkit.encode_chat import conversations
from sftkit.errors import AssetError
from sftkit.evaluate.answers import ask, multiple_choice
from sftkit.fit import fit
from sftkit.losses_chunked import causal_lm
from sftkit.models import lora
from sftkit.models.decoder import Decoder
from sftkit.models.sampling import continue_all


@pytest.fixture
def smollm():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        folder = assets.path("smollm2-135m-instruct")
    except AssetError as problem:
        pytest.skip(f"smollm2-135m-instruct has not been fetched: {problem}")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder), folder


@pytest.mark.slow
def test_a_few_steps_teach_the_form_of_the_answer(smollm):
    model, words, _ = smollm
    tasks = instructions.tasks("train", 200)  # 50 optimizer steps
    one = [task.messages(answered=False) for task in tasks[:1]]
    sky = [[{"role": "user", "content": "What colour has the sky?"}]]
    known = multiple_choice(model, words, sky, [["The sky is blue.", "The sky is a horse."]])
    assert known.best() == [0]
    before = ask(model, words, one, most=48)[0][0]
    lora.add(model, rank=8)
    data, coverage = conversations([task.messages() for task in tasks], words, 256)
    assert not coverage.cut and not coverage.unstopped
    batches = Batches(Examples.of(data, words.pad_token_id), 4)
    options = dict(epochs=1, lr=2e-3, schedule="linear", weight_decay=0.0, precision="fp32")
    state = fit(model, batches, causal_lm(), **options)
    assert sum(state.losses[-3:]) / 3 < 0.5 * state.losses[0]
    text, answer = ask(model, words, one, most=48)[0]
    assert answer.stopped and text != before and text.startswith("{")


@pytest.mark.slow
def test_batched_greedy_answers_are_those_of_transformers_and_of_our_decoder(smollm):
    model, words, folder = smollm
    prompts = [words(text)["input_ids"] for text in ("The capital of France is", "One, two,")]
    found = continue_all(model, prompts, 8, pad_id=words.pad_token_id)
    for prompt, row in zip(prompts, found, strict=True):
        reference = model.generate(
            torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None,
            pad_token_id=words.pad_token_id,
        )  # fmt: skip
        assert row.ids == reference[0, len(prompt) :].tolist()
    ours = Decoder.from_llama(folder)
    assert continue_all(ours, prompts[:1], 8)[0].ids == found[0].ids
