"""Cheap dropout: the right shares, the right expectation, the same attention as torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sftkit import losses
from sftkit.batches import Batches
from sftkit.fit import fit
from sftkit.models import dropout as cheap
from tests.engine import tiny


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1e-6])
def test_share_and_expectation(p):
    torch.manual_seed(0)
    mask = cheap.keep_mask(torch.Size((1001, 777)), p)
    dropped = (mask == 0).double().mean().item()
    assert dropped == pytest.approx(round(p * 65536) / 65536, abs=0.002)
    assert mask.mean(dtype=torch.float64).item() == pytest.approx(1, abs=0.01)
    kept = mask[mask > 0]
    assert kept.min() == kept.max() == pytest.approx(1 / (1 - p), rel=2e-4)


def test_every_position_and_neighbour_is_drawn_by_itself():
    """Broken variant: draws without the sign bit leave every fourth element always kept."""
    torch.manual_seed(0)

    def shares_by_position(draw):
        dropped = torch.stack([(draw() == 0) for _ in range(4000)]).double()
        return dropped.mean(dim=0), torch.corrcoef(dropped.T)

    mean, together = shares_by_position(lambda: cheap.keep_mask(torch.Size((13,)), 0.25))
    assert (mean - 0.25).abs().max() < 0.04
    assert (together - torch.eye(13)).abs().max() < 0.08

    def without_sign():
        bits = torch.empty(4, dtype=torch.int64).random_().view(torch.int16)[:13]
        return (bits >= 0.25 * 65536 - 32768).double()

    mean, _ = shares_by_position(without_sign)
    assert (mean - 0.25).abs().max() > 0.2


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 2, 7, 8), (3, 1, 1, 2)])
@pytest.mark.parametrize("kind", ["none", "bool", "additive"])
def test_attention_equals_torch(shape, kind, monkeypatch):
    """With a mask of ones in place of a random one: values and gradients, in float64."""
    torch.manual_seed(sum(shape))
    b, _, t, _ = shape
    q, k, v = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in "qkv")
    mask = torch.rand(b, 1, t, t) > 0.4
    mask[..., 0] = True
    if kind == "additive":
        mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -1e30)
    elif kind == "none":
        mask = None
    monkeypatch.setattr(cheap, "keep_mask", lambda shape, p: torch.ones(shape))
    weights = torch.randn(shape, dtype=torch.float64)
    results = []
    for attend in (
        lambda: functional.scaled_dot_product_attention(q, k, v, mask),
        lambda: cheap.attention(q, k, v, mask, 0.1, None),
    ):
        out = attend()
        results.append((out, *torch.autograd.grad((out * weights).sum(), (q, k, v))))
    for theirs, ours in zip(*results, strict=True):
        assert torch.allclose(theirs, ours, atol=1e-12)


def test_training_with_the_same_masks_is_the_same(monkeypatch):
    """A run with torch's own dropout, its masks made by ours, has the same trajectory."""

    def masks():
        generator = torch.Generator().manual_seed(3)
        return lambda shape, p: (torch.rand(shape, generator=generator) >= p) / (1 - p)

    def train(step):
        model = tiny.model(head="first", dropout=0.2)
        model.set_attn_implementation("eager")  # the same calls, in the same order
        batches = Batches(tiny.examples(24), 8)
        state = fit(model, batches, step, epochs=3, lr=1e-2)
        return state.losses, model.state_dict()

    monkeypatch.setattr(cheap, "keep_mask", masks())
    ours = train(losses.classification())

    draw = masks()

    def torch_dropout(input, p=0.5, training=True, inplace=False):
        return input * draw(input.shape, p) if training and p else input

    monkeypatch.setattr(cheap.CheapDropout, "_dropout", staticmethod(torch_dropout))
    theirs = train(losses.classification())
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
    for name, value in ours[1].items():
        assert torch.allclose(value, theirs[1][name], atol=1e-5)


def test_what_it_takes_over_and_what_it_leaves():
    x = torch.ones(1000)
    with cheap.CheapDropout():
        layer = torch.nn.Dropout(0.5)
        values = set(layer(x).tolist())
        assert values == {0.0, 2.0}
        assert torch.equal(layer.eval()(x), x)
        assert set(functional.dropout(x, 1.0).tolist()) == {0.0}
        torch.manual_seed(0)
        in_place = functional.dropout(x.clone(), 0.5, inplace=True)
        q = torch.randn(1, 2, 5, 4)
        causal = functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    torch.manual_seed(0)
    assert torch.equal(in_place, functional.dropout(x.clone(), 0.5, inplace=True))
    expected = functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert torch.equal(causal, expected)


def test_the_same_seed_gives_the_same_mask():
    def draw():
        torch.manual_seed(5)
        return cheap.keep_mask(torch.Size((3, 70)), 0.3)

    assert torch.equal(draw(), draw())


def test_fit_uses_it(monkeypatch):
    drawn = []
    original = cheap.keep_mask
    monkeypatch.setattr(cheap, "keep_mask", lambda s, p: drawn.append(p) or original(s, p))
    batches = Batches(tiny.examples(8), 8)
    fit(tiny.model(dropout=0.2), batches, losses.classification(), epochs=1)
    # embeddings, and in each of 2 blocks: attention, its output, feed-forward; the head
    assert len(drawn) == 1 + 2 * 3 + 1
