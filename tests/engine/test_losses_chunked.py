"""The loss in chunks gives the sums and gradients of the whole one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sftkit import losses_chunked, losses_lm
from sftkit.batches import IGNORE, Batches
from sftkit.errors import ParameterError
from sftkit.packing import PackedBatches
from tests.engine import tiny_chat

CHUNKS = [None, 1, 3, 1000]


def gradients(model, batch, loss):
    model.zero_grad()
    loss_sum, n = loss(model, batch)
    (loss_sum / n).backward()
    return loss_sum, n, [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("make", [tiny_chat.decoder, tiny_chat.llama])
def test_sums_and_gradients_are_those_of_the_whole(make, packed, chunk):
    examples = tiny_chat.examples(9)
    batches = (
        PackedBatches(examples, 9, row_tokens=40, rows=2) if packed else Batches(examples, 9)
    )
    batch = next(batches.epoch(0))[0]
    model = make()
    expected = gradients(model, batch, losses_lm.causal_lm())
    found = gradients(model, batch, losses_chunked.causal_lm(chunk))
    assert found[1] == expected[1] and found[1] > 10
    assert torch.allclose(found[0], expected[0], rtol=1e-12)
    for ours, theirs in zip(found[2], expected[2], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("n", "width", "vocab"), [(1, 3, 5), (7, 4, 11), (20, 6, 3)])
@pytest.mark.parametrize("chunk", [1, 6, 50])
def test_against_torch_and_finite_differences(n, width, vocab, chunk):
    torch.manual_seed(n)
    hidden = torch.randn(n, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocab, width, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, vocab, (n,))

    def ours(h, w):
        return losses_chunked.linear_cross_entropy(h, w, labels, chunk)

    expected = functional.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    assert torch.allclose(ours(hidden, weight), expected, rtol=1e-13)
    assert torch.autograd.gradcheck(ours, (hidden, weight))
    hidden.requires_grad_(False)  # a frozen body, or a frozen table
    assert torch.autograd.gradcheck(lambda w: ours(hidden, w), (weight,))


def test_a_broken_shift_and_a_broken_slope_are_seen(monkeypatch):
    batch = next(Batches(tiny_chat.examples(9), 9).epoch(0))[0]
    expected = gradients(tiny_chat.decoder(), batch, losses_lm.causal_lm())
    with monkeypatch.context() as broken:
        broken.setattr(losses_chunked, "next_token", lambda hidden, labels: (hidden, labels))
        loss_sum, *_ = gradients(tiny_chat.decoder(), batch, losses_chunked.causal_lm())
        assert abs(loss_sum - expected[0]) > 1e-3
    monkeypatch.setattr(torch.Tensor, "scatter_add_", lambda self, *_: self)
    *_, slopes = gradients(tiny_chat.decoder(), batch, losses_chunked.causal_lm())
    assert not torch.allclose(slopes[0], expected[2][0], atol=1e-6)


def test_nothing_supervised_is_a_zero_that_can_be_propagated():
    batch = next(Batches(tiny_chat.examples(3), 3).epoch(0))[0]
    batch["labels"][:] = IGNORE
    for chunk in CHUNKS:
        model = tiny_chat.decoder()
        loss_sum, n = losses_chunked.causal_lm(chunk)(model, batch)
        loss_sum.backward()
        assert loss_sum == 0 and n == 0
        assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_half_precision_sums_in_full():
    model, batch = (
        tiny_chat.decoder().float(),
        next(Batches(tiny_chat.examples(9), 9).epoch(0))[0],
    )
    expected = gradients(model, batch, losses_lm.causal_lm())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(model, batch, losses_chunked.causal_lm(4))
        whole = gradients(model, batch, losses_lm.causal_lm())
    assert found[0].dtype == torch.float32
    assert torch.allclose(found[0], whole[0], rtol=1e-3)
    for a, b, exact in zip(found[2], whole[2], expected[2], strict=True):
        scale = exact.abs().max()
        assert a.dtype == torch.float32
        assert (a - exact).abs().max() < max(2 * (b - exact).abs().max(), 0.02 * scale)


def test_no_gradients_are_made_where_none_are_wanted():
    model, batch = tiny_chat.decoder(), next(Batches(tiny_chat.examples(9), 9).epoch(0))[0]
    with torch.no_grad():
        found, _ = losses_chunked.causal_lm()(model, batch)
        expected, _ = losses_lm.causal_lm()(model, batch)
    assert not found.requires_grad and torch.allclose(found, expected)


def test_models_of_another_kind_give_all_logits():
    """GPT-2's is a plain head too, but not one that we have looked at."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=40)
    model = GPT2LMHeadModel(config).double().eval()
    batch = next(Batches(tiny_chat.examples(5), 5).epoch(0))[0]
    found, expected = (m.causal_lm()(model, batch)[0] for m in (losses_chunked, losses_lm))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("call", [losses_chunked.causal_lm, lambda c: linear(c)])
def test_an_impossible_chunk_is_refused(call):
    with pytest.raises(ParameterError, match="chunk=0"):
        call(0)


def linear(chunk):
    hidden, weight = torch.zeros(1, 2), torch.zeros(3, 2)
    return losses_chunked.linear_cross_entropy(hidden, weight, torch.zeros(1).long(), chunk)


def test_gradients_under_autocast_are_added_up_in_float32():
    """In bfloat16 the sum over many chunks would stop growing."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(8192, 16, generator=generator)
    weight = torch.randn(40, 16, generator=generator).requires_grad_()
    labels = torch.randint(0, 40, (8192,), generator=generator)
    functional.cross_entropy(hidden @ weight.T, labels, reduction="sum").backward()
    exact, weight.grad = weight.grad, None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses_chunked.linear_cross_entropy(
            hidden.bfloat16(), weight.bfloat16(), labels, 64
        )
    loss.backward()
    assert float((weight.grad - exact).norm() / exact.norm()) < 4e-3
