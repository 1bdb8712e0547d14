"""Steps by tokens: each row once, within the budget, as many each epoch, the same gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sftkit.batches import Batches, Examples, padding_share
from sftkit.batches_tokens import TokenBatches
from sftkit.errors import CheckpointError, EncodeError
from sftkit.fit import fit
from sftkit.losses_chunked import causal_lm
from tests.engine.tiny_chat import decoder


def examples(rows=60, longest=40, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, longest + 1, rows)
    return Examples.of_tokens([generator.integers(1, 30, n).tolist() for n in lengths])


@pytest.mark.parametrize("tokens", [40, 97, 640])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_row_once_and_within_the_budget(tokens, shuffle):
    data = examples()
    batches = TokenBatches(data, tokens, seed=3, shuffle=shuffle)
    orders = [batches.order(epoch) for epoch in range(4)]
    for steps in orders:
        assert sorted(np.concatenate(steps).tolist()) == list(range(len(data)))
        assert len(steps) == len(batches)
        places = [len(step) * data.lengths[step].max() for step in steps]
        assert max(places) <= tokens
    assert (str(orders[0]) != str(orders[1])) == shuffle
    assert str(orders[0]) == str(TokenBatches(data, tokens, seed=3, shuffle=shuffle).order(0))


def test_the_budget_is_used():
    """A step that could have taken the next example would have gone over the budget."""
    data = examples()
    steps = TokenBatches(data, 160, shuffle=False).order(0)
    for step, later in zip(steps, steps[1:], strict=False):
        assert (len(step) + 1) * data.lengths[later[0]] > 160
    count = Batches(data, 4, by_length=False)
    assert padding_share(TokenBatches(data, 160)) < padding_share(count)


def test_forward_passes_keep_their_own_budget_and_the_gradients():
    data = examples(rows=12, longest=9)
    whole, parts = TokenBatches(data, 60), TokenBatches(data, 60, micro_tokens=12)
    assert max(max(t) * len(t) for t in parts.layout(0)) <= 12
    assert [len(step) for step in parts.epoch(0, start=1)] != [1] * (len(parts) - 1)
    losses = []
    for batches in (whole, parts):
        torch.manual_seed(0)
        model = decoder()
        losses.append(fit(model, batches, causal_lm(), epochs=2, lr=1e-3).losses)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_run_that_goes_on_is_the_unbroken_one(tmp_path):
    stop = len(TokenBatches(examples(), 200)) + 2  # in the second epoch

    class Stop:
        def on_step(self, model, state):
            if state.step == stop:
                raise KeyboardInterrupt

        def on_evaluate(self, model, state): ...

    def trained(folder, tokens=200, **options):
        model, batches = decoder(), TokenBatches(examples(), tokens, seed=1)
        options = {"epochs": 3, "lr": 1e-3, "save_every": 1} | options
        fit(model, batches, causal_lm(), folder=folder, **options)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "b", callbacks=[Stop()])
    with pytest.raises(CheckpointError, match=r"batch_tokens was 200 .*is 300"):
        trained(tmp_path / "b", tokens=300, resume=True)
    assert torch.equal(trained(tmp_path / "b", resume=True), trained(tmp_path / "a"))


def test_an_example_that_does_not_fit():
    data = examples()
    longest = int(data.lengths.max())
    for options in ({"tokens": longest - 1}, {"tokens": 999, "micro_tokens": longest - 1}):
        with pytest.raises(EncodeError, match=f"has {longest} tokens, and there is room for"):
            TokenBatches(data, **options)
