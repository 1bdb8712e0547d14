"""Weights of prompts: 0 is the mask, 1 is no mask, and between them the formula by hand."""

from __future__ import annotations

import math

import pytest
import torch

from sftkit import losses_weighted
from sftkit.batches import IGNORE, Batches
from sftkit.errors import ParameterError
from sftkit.fit import fit
from sftkit.losses_chunked import causal_lm
from sftkit.losses_weighted import prompt_weighted, token_weights, weighted_cross_entropy
from sftkit.packing import PackedBatches
from tests.engine import tiny_chat

MAKERS = [tiny_chat.decoder, tiny_chat.llama]


def batch_of(rows=9, seed=0):
    return next(Batches(tiny_chat.examples(rows, seed), rows).epoch(0))[0]


def with_gradients(model, batch, loss):
    model.zero_grad()
    loss_sum, n = loss(model, batch)
    (loss_sum / n).backward()
    return loss_sum, n, [p.grad.clone() for p in model.parameters()]


def no_mask(batch):
    real = batch["attention_mask"].bool()
    return batch | {"labels": batch["input_ids"].masked_fill(~real, IGNORE)}


def agree(found, expected):
    assert float(found[1]) == float(expected[1]) > 10
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=0)
    for ours, theirs in zip(found[2], expected[2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", MAKERS)
def test_0_is_the_mask_and_1_is_no_mask(make):
    model, batch = make(), batch_of()
    masked = with_gradients(model, batch, causal_lm())
    agree(with_gradients(model, batch, prompt_weighted(0.0)), masked)
    near = with_gradients(model, batch, prompt_weighted(1e-14))  # the other path, to the mask
    torch.testing.assert_close(near[0], masked[0], rtol=1e-12, atol=0)
    whole = with_gradients(model, no_mask(batch), causal_lm())
    agree(with_gradients(model, batch, prompt_weighted(1.0)), whole)
    assert whole[1] > masked[1]


def by_hand(model, batch, weight):
    """Row by row without padding, token by token, in Python's floats."""
    total = count = 0.0
    rows = zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
    for ids, labels, mask in rows:
        n = int(mask.sum())
        scores = model(input_ids=ids[None, :n]).logits[0].tolist()
        for t in range(1, n):
            m = 1.0 if labels[t] != IGNORE else weight
            log_sum = math.log(sum(math.exp(s) for s in scores[t - 1]))
            total += m * (log_sum - scores[t - 1][int(ids[t])])
            count += m
    return total, count


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("rows", "weight"), [(1, 0.5), (4, 0.1), (9, 0.5)])
def test_between_them_by_hand(make, rows, weight):
    model, batch = make(), batch_of(rows, seed=rows)
    total, count = by_hand(model, batch, weight)
    loss_sum, n = prompt_weighted(weight)(model, batch)
    # Rotary angles are float32, and padding changes the order of sums.
    assert abs(loss_sum.item() - total) < 1e-6 * total and abs(float(n) - count) < 1e-12


def test_packed_documents_do_not_predict_each_others_first_token():
    model, examples = tiny_chat.decoder(), tiny_chat.examples(9)
    padded = next(Batches(examples, 9).epoch(0))[0]
    packed = next(PackedBatches(examples, 9, row_tokens=40, rows=2).epoch(0))[0]
    loss = prompt_weighted(0.3)
    agree(with_gradients(model, packed, loss), with_gradients(model, padded, loss))
    broken = {k: v for k, v in packed.items() if k != "document"}  # the boundaries are unknown
    assert token_weights(broken, 0.3)[:, 1:].sum() > token_weights(packed, 0.3)[:, 1:].sum() + 1


@pytest.mark.parametrize(("rows", "tokens", "vocab"), [(1, 3, 5), (2, 7, 11), (3, 4, 30)])
def test_its_gradient_by_hand_and_by_finite_differences(rows, tokens, vocab):
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, tokens, vocab, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    ids = torch.randint(0, vocab, (rows, tokens), generator=generator)
    weights = torch.rand(rows, tokens, generator=generator, dtype=torch.float64)
    loss_sum, n = weighted_cross_entropy(logits, ids, weights)
    (autograd,) = torch.autograd.grad(loss_sum / n, logits)
    right = torch.nn.functional.one_hot(ids, vocab)
    hand = weights[..., None] / weights.sum() * (logits.softmax(-1) - right)
    torch.testing.assert_close(autograd, hand.detach(), rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(lambda z: weighted_cross_entropy(z, ids, weights), logits)


def test_sums_and_counts_do_not_depend_on_the_grouping():
    model, examples = tiny_chat.decoder(), tiny_chat.examples(8)
    sums = []
    for size in (8, 3, 1):
        parts = [
            prompt_weighted(0.2)(model, batch)
            for step in Batches(examples, 8, micro_batch_size=size).epoch(0)
            for batch in step
        ]
        sums.append([sum(column).item() for column in zip(*parts, strict=True)])
    for other in sums[1:]:
        assert other == pytest.approx(sums[0], rel=1e-6)


def test_fit_learns_with_it():
    batches = Batches(tiny_chat.examples(12), 6)
    options = dict(epochs=10, lr=1e-2, precision="fp32")
    model = tiny_chat.decoder().float()
    losses = fit(model, batches, prompt_weighted(0.3), **options).losses
    assert losses[-1] < 0.8 * losses[0]


def test_what_is_refused(monkeypatch):
    for weight in (-0.1, 1.1, math.nan, "1"):
        with pytest.raises(ParameterError, match="weight="):
            prompt_weighted(weight)
    # A broken shift is seen.
    expected = with_gradients(tiny_chat.decoder(), no_mask(batch_of()), causal_lm())
    monkeypatch.setattr(losses_weighted, "next_token", lambda logits, labels: (logits, labels))
    found = with_gradients(tiny_chat.decoder(), batch_of(), prompt_weighted(1.0))
    assert abs(float(found[0] - expected[0])) > 1e-3
