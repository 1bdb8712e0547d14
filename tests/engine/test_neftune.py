"""Noise on the embeddings: its size by the formula, in training alone, and without a trace."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.integrations.neftune import neftune_post_forward_hook

from sftkit.batches import Batches
from sftkit.errors import ModelError, ParameterError
from sftkit.fit import fit
from sftkit.losses_chunked import causal_lm
from sftkit.models import lora
from sftkit.models.neftune import noisy_embeddings
from sftkit.packing import PackedBatches
from tests.engine import tiny_chat

MAKERS = [tiny_chat.decoder, tiny_chat.llama]


def embedded(model, ids, mask=None):
    """What the table of embeddings gives to the model, ``(B, T, D)``."""
    seen = []
    hook = model.get_input_embeddings().register_forward_hook(lambda *a: seen.append(a[2]))
    model(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask)
    hook.remove()
    return seen[0].detach()


def noise_of(model, ids, mask=None, alpha=5.0, seed=0):
    before = embedded(model, ids, mask)
    with noisy_embeddings(model, alpha, seed):
        return embedded(model, ids, mask) - before


def batch_of(rows, tokens):
    return torch.randint(0, 50, (rows, tokens), generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("rows", "tokens"), [(1, 7), (64, 20), (200, 33)])
def test_bounds_and_scale_are_those_of_the_formula(make, rows, tokens):
    noise = noise_of(make().train(), batch_of(rows, tokens), alpha=7.0)
    bound = 7.0 / math.sqrt(tokens * 16)
    assert 0.9 * bound < noise.abs().max() <= bound
    spread = 4 / math.sqrt(noise.numel())  # four standard errors, and more
    assert abs(noise.mean() / bound) < spread
    assert abs((noise / bound).square().mean() - 1 / 3) < spread
    # The squared length of a whole row's noise is alpha**2 / 3, whatever L and D.
    assert abs(noise.square().sum() / rows / (49 / 3) - 1) < 3 * spread


def test_padding_does_not_make_the_noise_smaller():
    ids, model = batch_of(40, 30), tiny_chat.llama().train()
    mask = torch.ones_like(ids)
    mask[::2, 6:] = 0
    noise = noise_of(model, ids, mask)
    bounds = (5 / math.sqrt(6 * 16), 5 / math.sqrt(30 * 16))
    for begin, bound in enumerate(bounds):
        assert 0.95 * bound < noise[begin::2].abs().max() <= bound
    # The broken variant: the padded length for all.
    assert noise_of(model, ids)[::2].abs().max() < 0.6 * bounds[0]


def test_without_padding_it_is_the_noise_of_transformers():
    model, ids = tiny_chat.llama().float().train(), batch_of(3, 9)
    ours = noise_of(model, ids, seed=3)
    table = model.get_input_embeddings()
    before = embedded(model, ids)
    table.neftune_noise_alpha = 5.0
    hook = table.register_forward_hook(neftune_post_forward_hook)
    torch.manual_seed(3)
    theirs = embedded(model, ids) - before
    hook.remove()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", MAKERS)
def test_no_noise_in_evaluation_without_alpha_and_afterwards(make):
    ids, model = batch_of(2, 5), make()
    assert not noise_of(model.eval(), ids).any()
    assert not noise_of(model.train(), ids, alpha=0.0).any()
    modules = [model, getattr(model, "base_model", model), model.get_input_embeddings()]
    with pytest.raises(ZeroDivisionError), noisy_embeddings(model, 5.0):
        assert any(m._forward_hooks for m in modules)
        raise ZeroDivisionError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def test_it_repeats_itself_and_leaves_the_global_random_state_alone():
    ids, model = batch_of(2, 5), tiny_chat.decoder().train()
    state = torch.get_rng_state()
    first = noise_of(model, ids, seed=4)
    assert torch.equal(first, noise_of(model, ids, seed=4))
    assert not torch.equal(first, noise_of(model, ids, seed=5))
    assert torch.equal(state, torch.get_rng_state())
    before = embedded(model, ids)
    with noisy_embeddings(model, 5.0) as noise:
        twice = [embedded(model, ids) - before for _ in range(2)]
    assert not torch.equal(*twice) and noise.rows == 4


def test_a_frozen_table_under_adapters_gets_noise():
    model = tiny_chat.llama().float()
    lora.add(model, rank=2)
    batches = Batches(tiny_chat.examples(8), 4)
    watch = Watch()
    with noisy_embeddings(model, 5.0) as noise:
        callbacks = [noise, watch]
        noisy = fit(
            model, batches, causal_lm(), epochs=1, precision="fp32", callbacks=callbacks
        )
    assert noise.rows == 8
    # The libraries look at the table's mode, and `fit` keeps that of a part that cannot learn.
    assert watch.modes == [(True, False)] * 2
    clean = tiny_chat.llama().float()
    lora.add(clean, rank=2)
    quiet = fit(clean, batches, causal_lm(), epochs=1, precision="fp32")
    assert noisy.losses[0] != quiet.losses[0]


def test_a_run_that_goes_on_is_the_unbroken_one(tmp_path):
    def run(folder, steps, resume=False, alpha=5.0):
        model, batches = tiny_chat.decoder().float(), Batches(tiny_chat.examples(12), 4)
        options = dict(epochs=2, precision="fp32", save_every=1, folder=folder, resume=resume)
        with noisy_embeddings(model, alpha) as noise:
            watching = [noise, Watch(steps)]
            losses = fit(model, batches, causal_lm(), callbacks=watching, **options).losses
        return losses, model.state_dict()

    whole, weights = run(None, 99)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 4)
    losses, again = run(tmp_path, 99, resume=True)
    assert losses == whole and all(torch.equal(weights[k], again[k]) for k in weights)
    with pytest.raises(ParameterError, match=r"alpha=5.0, this one 6.0"):
        run(tmp_path, 99, resume=True, alpha=6.0)


class Watch:
    """Sees the modes of model and table after each step; interrupts a run."""

    def __init__(self, steps=99):
        self.steps, self.modes = steps, []

    def on_step(self, model, state):
        self.modes.append((model.training, model.get_input_embeddings().training))
        if state.step == self.steps:
            raise KeyboardInterrupt

    def on_evaluate(self, model, state):
        pass


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_refused(make):
    model = make().train()
    packed = next(PackedBatches(tiny_chat.examples(9), 9, row_tokens=40, rows=2).epoch(0))[0]
    with noisy_embeddings(model, 5.0), pytest.raises(ModelError, match="packed rows"):
        causal_lm()(model, packed)
    for alpha in (-1, math.nan, "5"):
        with pytest.raises(ParameterError, match="alpha="), noisy_embeddings(model, alpha):
            pass
    with pytest.raises(ParameterError, match="seed=-1"), noisy_embeddings(model, 5.0, -1):
        pass
