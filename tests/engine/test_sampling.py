"""The next token: each change of logits against transformers; padding, cache and stopping."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessorList
from transformers.generation import logits_process as theirs

from sftkit.errors import ModelError, ParameterError
from sftkit.models import sampling
from sftkit.models.generate import generate
from sftkit.models.sampling import Sampling, continue_all, pad_left, positions_of
from tests.engine.tiny_chat import decoder, llama

SHAPES = [(1, 5), (3, 50), (7, 213)]


def drawn(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    logits[:, 1] = logits[:, 0]  # two are equal
    return logits, torch.randint(0, shape[1], (shape[0], 4), generator=generator)


def seen_in(ids, shape):
    return torch.zeros(shape, dtype=torch.bool).scatter_(1, ids, True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"top_k": 3},
        {"top_k": 1000},
        {"top_p": 0.3},
        {"top_p": 0.9},
        {"top_p": 1e-6},
        {"repetition_penalty": 1.3},
        {"temperature": 1.7, "top_k": 4, "top_p": 0.8, "repetition_penalty": 1.2},
    ],
)
def test_processed_logits_are_those_of_transformers(shape, settings):
    logits, ids = drawn(shape)
    chain = LogitsProcessorList()
    if "repetition_penalty" in settings:
        chain.append(theirs.RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    if "temperature" in settings:
        chain.append(theirs.TemperatureLogitsWarper(settings["temperature"]))
    if "top_k" in settings:
        chain.append(theirs.TopKLogitsWarper(settings["top_k"]))
    if "top_p" in settings:
        chain.append(theirs.TopPLogitsWarper(settings["top_p"]))
    ours = sampling.processed(
        logits.clone(), Sampling(**({"temperature": 1.0} | settings)), seen_in(ids, shape)
    )
    assert torch.equal(ours, chain(ids, logits.clone()))


PROMPTS = [[3, 7, 9], [4], [8, 8, 1, 2, 30, 6, 7], [11, 12]]


def test_greedy_and_penalized_are_transformers_generate():
    model = llama()
    for penalty in (1.0, 1.4):
        ours = continue_all(model, PROMPTS, 12, Sampling(repetition_penalty=penalty))
        for prompt, row in zip(PROMPTS, ours, strict=True):
            reference = model.generate(
                torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None,
                pad_token_id=0, repetition_penalty=penalty,
            )  # fmt: skip
            assert row.ids == reference[0, len(prompt) :].tolist() and not row.stopped


def same_as_alone(model):
    together = continue_all(model, PROMPTS, 12, batch_size=4)
    alone = [continue_all(model, [prompt], 12)[0] for prompt in PROMPTS]
    assert together == alone
    ids, mask = pad_left(PROMPTS, 0)
    logits = model(ids, attention_mask=mask, position_ids=sampling.positions_of(mask)).logits
    for row, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(
            logits[row, -1], model(torch.tensor([prompt])).logits[0, -1], rtol=0, atol=1e-9
        )


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = dict(n_embd=16, n_layer=2, n_head=4, n_positions=40, initializer_range=0.3)
    config = GPT2Config(vocab_size=50, bos_token_id=0, eos_token_id=0, **sizes)
    return GPT2LMHeadModel(config).double().eval()


@pytest.mark.parametrize("make", [llama, gpt2])
def test_left_padding_changes_nothing(make):
    same_as_alone(make())


def test_positions_begin_at_each_rows_first_token(monkeypatch):
    def from_the_left(mask):
        return torch.arange(mask.shape[1]).expand_as(mask)

    monkeypatch.setattr(sampling, "positions_of", from_the_left)
    with pytest.raises(AssertionError):  # trap 13: learned positions move with the padding
        same_as_alone(gpt2())


def test_padding_is_masked(monkeypatch):
    padded = sampling.pad_left

    def unmasked(prompts, pad_id, device=None):
        ids, mask = padded(prompts, pad_id, device)
        return ids, torch.ones_like(mask)

    monkeypatch.setattr(sampling, "pad_left", unmasked)
    with pytest.raises(AssertionError):
        same_as_alone(llama())


def test_padding_counts_as_unsaid():
    model, penalty = llama(), Sampling(repetition_penalty=3.0)
    for pad in range(6):
        together = continue_all(model, PROMPTS, 8, penalty, pad_id=pad, batch_size=4)
        assert together == [continue_all(model, [p], 8, penalty)[0] for p in PROMPTS]


@pytest.mark.parametrize("make", [llama, decoder])
def test_the_cache_changes_nothing(make):
    model = make()
    rows = [[3, 7, 9], [8, 1, 2]]
    assert continue_all(model, rows, 15) == continue_all(model, rows, 15, cache=False)


def test_our_decoder_goes_on_as_its_own_generate():
    model = decoder()
    ids = torch.tensor([[3, 7, 9], [8, 1, 2]])
    ours = continue_all(model, ids.tolist(), 10)
    assert [row.ids for row in ours] == generate(model, ids, 10, temperature=0)[:, 3:].tolist()
    with pytest.raises(ModelError, match="takes no padding"):
        continue_all(model, PROMPTS, 3)


def test_stopping():
    model = llama()
    free = continue_all(model, PROMPTS, 12)
    stop = free[0].ids[3]
    for row, before in zip(continue_all(model, PROMPTS, 12, stop=[stop]), free, strict=True):
        at = before.ids.index(stop) if stop in before.ids else None
        assert row.ids == before.ids[:at] and row.stopped == (at is not None)


def test_drawing_follows_the_probabilities():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(40_000, 4)
    seen = torch.zeros_like(logits, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    found = sampling.choose(logits, Sampling(temperature=0.5, top_k=3), seen, generator)
    shares = torch.bincount(found[:, 0], minlength=4) / len(found)
    expected = torch.tensor([[4.0, 2.0, 0.0, -torch.inf]]).softmax(-1)[0]
    assert (shares - expected).abs().max() < 0.01 and shares[3] == 0


def test_the_mode_is_restored():
    model = llama().train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    continue_all(model, PROMPTS, 2)
    assert [module.training for module in model.modules()] == before


def test_what_is_refused():
    for settings in ({"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.1},
                     {"repetition_penalty": 0}):  # fmt: skip
        with pytest.raises(ParameterError):
            Sampling(**settings)
    with pytest.raises(ModelError, match="a prompt without tokens"):
        continue_all(llama(), [[1], []], 3)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert positions_of(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


def test_a_model_without_keys_is_asked_without_a_cache():
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    sizes = dict(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = MambaForCausalLM(MambaConfig(**sizes)).eval()
    with pytest.raises(ModelError, match="keeps no keys and values"):
        continue_all(model, [[1, 2]], 3)
    (found,) = continue_all(model, [[1, 2]], 3, cache=False)
    assert len(found.ids) == 3
