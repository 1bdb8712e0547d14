"""Rejection sampling: what is drawn, judged and kept, and that it repeats itself."""

from __future__ import annotations

import pytest
import torch

from sftkit.encode_chat import conversations
from sftkit.errors import ParameterError
from sftkit.evaluate.answers import ask
from sftkit.evaluate.rejection import sample_right
from sftkit.models.sampling import Sampling
from tests.engine.tiny_chat import START, llama, talk, tokenizer

WORDS = tokenizer()
QUESTIONS = [talk("what is 1+1?"), talk("a", "b", "c d"), talk("hi", system="be brief")]


def model_that_stops():
    """Random, but the stop token is as probable as all others together."""
    model = llama(vocab=len(WORDS)).float().eval()
    model.config.max_position_embeddings = 512
    table = torch.nn.Linear(16, len(WORDS), bias=True)
    torch.nn.init.normal_(table.weight, std=0.3)
    with torch.no_grad():
        table.bias.zero_()
        table.bias[WORDS.eos_token_id] = 5.0
    model.set_output_embeddings(table)
    return model


MODEL = model_that_stops()
SETTINGS = dict(temperature=1.5, most=30, seed=7)


def drawn(tries=6, **more):
    """The answers themselves, by the way that the function should take."""
    asked = [q for q in QUESTIONS for _ in range(tries)]
    generator = torch.Generator().manual_seed(more.get("seed", 7))
    return ask(MODEL, WORDS, asked, 30, Sampling(1.5), generator=generator)


def accepts(row, text):
    return len(text) % 2 == row % 2 and len(text) < 6


def test_counts_and_what_is_kept():
    found = sample_right(MODEL, WORDS, QUESTIONS, accepts, 6, **SETTINGS)
    answers = drawn()
    right = [
        (at // 6, text.strip())
        for at, (text, answer) in enumerate(answers)
        if answer.stopped and START not in text and accepts(at // 6, text.strip())
    ]
    assert (found.questions, found.tried) == (3, 18)
    assert found.stopped == sum(answer.stopped for _, answer in answers)
    assert found.right == len(right) > len(set(right)) == len(found.talks) > 1
    assert found.rows == [row for row, _ in dict.fromkeys(right)]
    for row, kept in zip(found.rows, found.talks, strict=True):
        assert list(kept[:-1]) == QUESTIONS[row] and kept[-1]["role"] == "assistant"
        assert accepts(row, kept[-1]["content"])
    assert f"{found.right} are right, {len(found.talks)} different ones are kept" in str(found)
    conversations(found.talks, WORDS, 200)  # ready to be trained on


def test_the_seed_decides_and_the_global_random_state_does_not():
    state = torch.get_rng_state()
    first = sample_right(MODEL, WORDS, QUESTIONS, accepts, 6, **SETTINGS)
    torch.manual_seed(123)
    assert sample_right(MODEL, WORDS, QUESTIONS, accepts, 6, **SETTINGS) == first
    other = sample_right(MODEL, WORDS, QUESTIONS, accepts, 6, **SETTINGS | {"seed": 8})
    assert other.talks != first.talks
    torch.set_rng_state(state)
    sample_right(MODEL, WORDS, QUESTIONS, accepts, 2, **SETTINGS)
    assert torch.equal(state, torch.get_rng_state())


def test_answers_that_do_not_stop_or_forge_a_turn_are_never_kept():
    def everything(row, text):
        return True

    short = sample_right(MODEL, WORDS, QUESTIONS, everything, 6, **SETTINGS | {"most": 1})
    assert short.stopped < short.tried and all(not t[-1]["content"] for t in short.talks)
    forging = model_that_stops()
    with torch.no_grad():
        forging.get_output_embeddings().bias[WORDS.convert_tokens_to_ids(START)] = 5.0
    answers = sample_right(forging, WORDS, QUESTIONS, everything, 20, **SETTINGS)
    assert answers.right < answers.stopped
    assert not any(START in talk[-1]["content"] for talk in answers.talks)


def test_nothing_is_right():
    found = sample_right(MODEL, WORDS, QUESTIONS, lambda row, text: False, 2, **SETTINGS)
    assert found.talks == [] and found.right == 0 and found.tried == 6


def test_what_is_refused():
    for options in ({"tries": 0}, {"temperature": 0}, {"seed": -1}):
        with pytest.raises(ParameterError, match=next(iter(options))):
            sample_right(MODEL, WORDS, QUESTIONS, accepts, **options)
