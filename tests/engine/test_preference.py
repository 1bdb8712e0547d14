"""DPO: by hand, by finite differences, through `fit`, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from sftkit.batches import Batches
from sftkit.errors import EncodeError, ParameterError
from sftkit.fit import fit
from sftkit.losses_preference import (
    answer_log_probs,
    dpo,
    dpo_loss,
    margins,
    pairs,
    with_reference,
)
from tests.engine.tiny_chat import llama, talk, tokenizer

WORDS = tokenizer()
CHOSEN = [talk("hi", "good"), talk("tell me", "all of it"), talk("x", "y", "and?", "z z")]
REJECTED = [talk("hi", "bad, longer"), talk("tell me", "no"), talk("x", "y", "and?", "w")]


def model():
    return llama(vocab=len(WORDS))


def one_batch(examples):
    (step,) = Batches(examples, 8, shuffle=False, by_length=False).epoch(0)
    return step[0]


def by_hand(net, talks):
    """Each talk alone, token by token, in plain Python."""
    sums = []
    for turns in talks:
        prompt = WORDS.apply_chat_template(
            turns[:-1], add_generation_prompt=True, return_dict=False
        )
        answer = WORDS(turns[-1]["content"] + WORDS.eos_token)["input_ids"]
        logits = net(torch.tensor([prompt + answer])).logits[0]
        total = 0.0
        for at, token in enumerate(answer):
            scores = logits[len(prompt) + at - 1].tolist()
            total += scores[token] - math.log(sum(math.exp(s) for s in scores))
        sums.append(total)
    return torch.tensor(sums, dtype=torch.float64)


def test_it_equals_a_hand_computation():
    before, now = model(), llama(seed=1, vocab=len(WORDS))
    batch = one_batch(with_reference(before, pairs(CHOSEN, REJECTED, WORDS, 64)))
    loss_sum, n = dpo(0.3)(now, batch)
    margin = (by_hand(now, CHOSEN) - by_hand(before, CHOSEN)) - (
        by_hand(now, REJECTED) - by_hand(before, REJECTED)
    )
    expected = sum(math.log1p(math.exp(-0.3 * m)) for m in margin.tolist())
    assert abs(loss_sum.item() - expected) < 1e-5 and int(n) == 3  # rotary angles are float32


def test_padding_and_prompts_count_for_nothing():
    net, examples = model(), pairs(CHOSEN, REJECTED, WORDS, 64)
    together = margins(net, one_batch(examples))
    for row in range(3):
        alone = margins(net, one_batch(pairs([CHOSEN[row]], [REJECTED[row]], WORDS, 64)))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-9)
    examples.FILL = {"labels": -100}  # the broken variant: rejected answers padded with token 0
    assert not torch.allclose(margins(net, one_batch(examples)), together)


@pytest.mark.parametrize("pair_count", [1, 3, 8])
def test_its_gradient_by_finite_differences(pair_count):
    generator = torch.Generator().manual_seed(pair_count)
    ours, reference = torch.randn(2, pair_count, generator=generator, dtype=torch.float64)
    ours.requires_grad_()
    loss_sum, _ = dpo_loss(ours, reference, 0.5)
    (autograd,) = torch.autograd.grad(loss_sum, ours)
    hand = -0.5 * torch.sigmoid(-0.5 * (ours - reference))
    torch.testing.assert_close(autograd, hand, rtol=0, atol=1e-12)
    step = 1e-6
    for i in range(pair_count):
        moved = torch.zeros(pair_count, dtype=torch.float64)
        moved[i] = step
        high, low = (dpo_loss(ours + s * moved, reference, 0.5)[0] for s in (1, -1))
        assert abs(float(high - low) / (2 * step) - float(autograd[i])) < 1e-8


def test_the_first_model_has_log_2_everywhere_and_extremes_are_finite():
    net = model()
    batch = one_batch(with_reference(net, pairs(CHOSEN, REJECTED, WORDS, 64)))
    loss_sum, n = dpo()(net, batch)
    assert abs(float(loss_sum / n) - math.log(2)) < 1e-6
    far = torch.tensor([1e5, -1e5], dtype=torch.float64)
    loss_sum, _ = dpo_loss(far, torch.zeros(2, dtype=torch.float64), 1.0)
    assert float(loss_sum) == pytest.approx(1e5)


def test_log_probs_are_of_supervised_tokens_only():
    logits = torch.zeros(1, 4, 5)
    labels = torch.tensor([[-100, -100, 3, 1]])
    assert float(answer_log_probs(logits, labels)) == pytest.approx(-2 * math.log(5))


def test_fit_raises_the_chosen_over_the_rejected():
    net = model().float()
    examples = with_reference(net, pairs(CHOSEN, REJECTED, WORDS, 64))
    before = margins(net, one_batch(examples)).detach()
    state = fit(net, Batches(examples, 3), dpo(), epochs=8, lr=1e-3, precision="fp32")
    after = margins(net, one_batch(examples)).detach()
    assert state.losses[-1] < math.log(2) and bool((after > before).all())


def test_what_is_refused():
    with pytest.raises(EncodeError, match="3 chosen and 2 rejected"):
        pairs(CHOSEN, REJECTED[:2], WORDS, 64)
    with pytest.raises(EncodeError, match="pair 0 has two different prompts"):
        pairs(CHOSEN, REJECTED[::-1], WORDS, 64)
    with pytest.raises(EncodeError, match="Give a max_length above 30"):
        pairs(CHOSEN, REJECTED, WORDS, 30)
    with pytest.raises(ParameterError, match="beta=0"):
        dpo(0)
    with pytest.raises(ParameterError, match="Call losses_preference.with_reference"):
        dpo()(model(), one_batch(pairs(CHOSEN, REJECTED, WORDS, 64)))


@pytest.mark.parametrize(
    ("one", "other", "which"),
    [
        (talk("how?", "fine", "good"), talk("how?", "fine", "bad"), "chosen"),
        (CHOSEN[0], [*CHOSEN[0][:-1], {"role": "user", "content": "no"}], "rejected"),
        (CHOSEN[0], [*CHOSEN[0][:-1], REJECTED[0][-1] | {"weight": 0}], "rejected"),
        ([], [], "chosen"),
    ],
)
def test_pairs_that_do_not_end_in_answers_are_refused(one, other, which):
    """Without this, the answers before are compared: with themselves."""
    with pytest.raises(EncodeError, match=f"pair 1, {which}: the last turn is no answer"):
        pairs([CHOSEN[0], one], [REJECTED[0], other], WORDS, 64)


def test_a_model_in_bfloat16_gives_sums_in_float32():
    net = model().float()
    half = llama(vocab=len(WORDS)).to(torch.bfloat16)
    examples = with_reference(half, pairs(CHOSEN, REJECTED, WORDS, 64))
    found = torch.as_tensor(examples.columns["reference_chosen"])
    assert found.dtype == torch.float32
    logits = 4 * torch.randn(2, 400, 30, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, 400, dtype=torch.long)
    rounded = logits.to(torch.bfloat16)
    exact = answer_log_probs(rounded.double(), labels)
    assert torch.allclose(answer_log_probs(rounded, labels).double(), exact, rtol=1e-5)
    assert with_reference(net, examples).columns["reference_chosen"].dtype == "float32"


def test_pairs_need_no_padding_token():
    words = tokenizer()
    words.pad_token = None
    net, batch = model(), one_batch(pairs(CHOSEN, REJECTED, words, 64))
    expected = one_batch(pairs(CHOSEN, REJECTED, WORDS, 64))
    assert torch.equal(margins(net, batch), margins(net, expected))
