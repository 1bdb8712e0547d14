"""The loop: against a hand loop, over micro-batches, resumed at every step, and refusing."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.nn import functional

from sftkit import losses
from sftkit.batches import Batches, Examples
from sftkit.errors import CheckpointError, FitError, ParameterError
from sftkit.evaluate import evaluation, predict
from sftkit.fit import fit
from sftkit.optim import Schedule, make_optimizer, parameter_groups
from tests.engine import tiny


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_equals_a_loop_of_a_dozen_lines():
    examples, lr, steps = tiny.examples(20), 1e-2, 9
    batches = Batches(examples, 8)
    hand = tiny.model()
    optimizer = make_optimizer("adamw", parameter_groups(hand), lr)
    schedule = Schedule("linear", steps, 0.1)
    hand.train()
    seen = []
    for epoch in range(3):
        for (batch,) in batches.epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule.factor(len(seen))
            out = hand(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            loss = functional.cross_entropy(out.logits, batch["labels"])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(hand.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seen.append(loss.item())
    ours = tiny.model()
    state = fit(ours, batches, losses.classification(), epochs=3, lr=lr, warmup=0.1)
    assert state.losses == pytest.approx(seen, abs=1e-5)
    for a, b in zip(hand.parameters(), ours.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("micro", [1, 3, 5])
def test_micro_batches_change_nothing(per_token, micro):
    """The last step has 4 examples, so its window is short; rows differ in length."""
    from transformers import BertForTokenClassification

    def train(size):
        torch.manual_seed(0)
        model = BertForTokenClassification(tiny.config()) if per_token else tiny.model()
        batches = Batches(tiny.examples(20, per_token=per_token), 8, micro_batch_size=size)
        state = fit(model.double(), batches, losses.classification(), epochs=2, lr=1e-2)
        return model, state

    whole, expected = train(None)
    parts, found = train(micro)
    assert found.losses == pytest.approx(expected.losses, abs=1e-10)
    assert [r["n"] for r in found.history] == [r["n"] for r in expected.history]
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-8)


def test_the_detector_sees_a_mean_of_means(monkeypatch):
    """Broken variant: each micro-batch's loss is divided by its own count."""

    def mean_first(model, batch):
        loss_sum, n = losses.classification()(model, batch)
        return loss_sum / n, torch.ones(())

    def last_weights(size):
        from transformers import BertForTokenClassification

        torch.manual_seed(0)
        model = BertForTokenClassification(tiny.config()).double()
        batches = Batches(tiny.examples(8, per_token=True), 8, micro_batch_size=size)
        fit(model, batches, mean_first, epochs=1, lr=1e-2, optimizer="sgd", clip=None, warmup=0)
        return model.classifier.weight

    assert not torch.allclose(last_weights(8), last_weights(1), atol=1e-6)


@pytest.mark.parametrize("stop", range(1, 9))
def test_resume_at_every_step_is_exact(tmp_path, stop):
    """With dropout, a schedule, early-stopping memory and the best weights."""

    def start(folder, resume, max_steps=None):
        model = tiny.model(dropout=0.2)
        state = None
        examples = tiny.examples(20)

        class Stop:
            def on_step(self, model, state):
                if max_steps and state.step >= max_steps:
                    raise KeyboardInterrupt

            def on_evaluate(self, model, state):
                pass

        with contextlib.suppress(KeyboardInterrupt):
            state = fit(
                model,
                Batches(examples, 8, micro_batch_size=3),
                losses.classification(),
                evaluate=evaluation(tiny.examples(10, seed=5)),
                folder=folder,
                resume=resume,
                callbacks=[Stop()],
                epochs=3,
                lr=1e-2,
                save_every=1,
                keep_best=True,
                metric="-loss",
                patience=9,
            )
        return model, state

    whole, expected = start(tmp_path / "a", False)
    start(tmp_path / "b", False, max_steps=stop)
    torch.manual_seed(999)  # the resumed process starts from other generators
    resumed, found = start(tmp_path / "b", True)
    assert same(weights(whole), weights(resumed))
    assert found.losses == expected.losses
    assert found.evaluations == expected.evaluations
    assert found.best == expected.best


def test_generators_are_restored_too(tmp_path):
    """Broken variant: without torch's generator, dropout differs and so do the weights."""
    from sftkit import checkpoints

    def go(resume, steps, broken=False):
        model = tiny.model(dropout=0.5)
        batches, loss = Batches(tiny.examples(16), 8), losses.classification()
        options = dict(folder=tmp_path / str(broken), lr=1e-2, epochs=2, save_every=2)
        if broken and resume:
            keep = torch.set_rng_state
            torch.set_rng_state = lambda state: torch.manual_seed(7)
            try:
                fit(model, batches, loss, resume=resume, **options)
            finally:
                torch.set_rng_state = keep
        else:
            fit(model, batches, loss, resume=resume, **options)
        if not resume:  # forget the last checkpoint, as if killed before it
            import shutil

            shutil.rmtree(checkpoints.existing(tmp_path / str(broken))[-1])
        return weights(model)

    assert same(go(False, 4), go(True, 4))
    assert not same(go(False, 4, broken=True), go(True, 4, broken=True))


def test_early_stopping_and_best_weights():
    model, examples = tiny.model(), tiny.examples(24)
    scores = iter([0.5, 0.9, 0.7, 0.6, 0.8])
    seen = []

    def evaluate(model):
        seen.append(weights(model))
        return {"accuracy": next(scores)}

    state = fit(
        model,
        Batches(examples, 8),
        losses.classification(),
        evaluate=evaluate,
        epochs=5,
        patience=2,
        keep_best=True,
    )
    assert state.stopped and len(state.evaluations) == 4
    assert state.best["accuracy"] == 0.9 and state.best["step"] == 6
    assert same(weights(model), seen[1])


def test_it_learns():
    model, examples = tiny.model(), tiny.examples(60)
    before = predict(model, examples).accuracy
    state = fit(model, Batches(examples, 8), losses.classification(), epochs=60, lr=5e-3)
    assert predict(model, examples).accuracy > 0.95 > before
    assert state.losses[-1] < 0.5 * state.losses[0]


def test_nothing_supervised_names_the_rows():
    examples = tiny.examples(6, per_token=True)
    examples.columns["labels"].values[:] = -100
    from transformers import BertForTokenClassification

    model = BertForTokenClassification(tiny.config())
    with pytest.raises(FitError, match="no label is supervised, rows"):
        fit(model, Batches(examples, 3), losses.classification())


def test_a_bad_loss_stops_before_the_weights_and_names_the_rows():
    model = tiny.model()
    before = weights(model)

    def loss(model, batch):
        loss_sum, n = losses.classification()(model, batch)
        return (loss_sum * float("nan") if 5 in batch["row"] else loss_sum), n

    batches = Batches(tiny.examples(6), 3, shuffle=False, by_length=False)
    with pytest.raises(FitError, match=r"step 1: the loss is nan, rows 3, 4, 5\."):
        fit(model, batches, loss, epochs=1)
    assert not same(weights(model), before)  # step 0 was fine
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())


def test_unknown_and_impossible_options():
    model, batches, loss = tiny.model(), Batches(tiny.examples(6), 3), losses.classification()
    with pytest.raises(ParameterError, match=r"(?s)does not know epoch\..*epochs"):
        fit(model, batches, loss, epoch=3)
    for bad in ({"lr": 0}, {"epochs": -1}, {"precision": "fp8"}, {"clip": 0.0}, {"warmup": 1}):
        with pytest.raises(ParameterError):
            fit(model, batches, loss, **bad)
    with pytest.raises(FitError, match="no training data"):
        fit(model, Batches(tiny.examples(6).take([]), 3), loss)
    with pytest.raises(ParameterError, match="not among"):
        fit(model, batches, loss, evaluate=lambda m: {"f1": 1.0}, epochs=1)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    batches, loss = Batches(tiny.examples(12), 4), losses.classification()
    fit(tiny.model(), batches, loss, folder=tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match="lr was 0.0002 and is 0.01"):
        fit(tiny.model(), batches, loss, folder=tmp_path, epochs=1, lr=0.01, resume=True)
    with pytest.raises(CheckpointError, match="another model"):
        fit(tiny.model(layers=3), batches, loss, folder=tmp_path, epochs=1, resume=True)
    weights_file = sorted(tmp_path.glob("step-*"))[-1] / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        fit(tiny.model(), batches, loss, folder=tmp_path, epochs=1, resume=True)


def test_a_generic_module_of_the_readers_own():
    class Bag(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.EmbeddingBag(50, 8)
            self.out = torch.nn.Linear(8, 3)

    def loss(model, batch):
        return losses.cross_entropy(model.out(model.table(batch["input_ids"])), batch["labels"])

    state = fit(Bag(), Batches(tiny.examples(30), 10), loss, epochs=10, lr=5e-2)
    assert state.losses[-1] < state.losses[0]


def test_dropout_is_off_in_frozen_parts_and_modes_are_restored():
    from sftkit.models import set_trainable

    model = tiny.model(dropout=0.5)
    set_trainable(model, "head")
    modes = []

    def loss(model, batch):
        modes.append((model.encoder.training, model.dropout.training))
        return losses.classification()(model, batch)

    fit(model, Batches(tiny.examples(4), 4), loss, epochs=1)
    assert modes == [(False, True)]
    model.train()
    predict(model, tiny.examples(4))
    assert model.training and model.encoder.training


def test_evaluation_does_not_depend_on_the_batch_size():
    model, examples = tiny.model(dropout=0.5), tiny.examples(23)
    results = [evaluation(examples, size)(model) for size in (1, 7, 23)]
    for result in results[1:]:
        assert result == pytest.approx(results[0], abs=1e-6)


def test_examples_without_a_sequence():
    import numpy as np

    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 4)).astype(np.float32)
    examples = Examples({"x": x, "labels": (x[:, 0] > 0).astype(np.int64)})
    model = torch.nn.Linear(4, 2)

    def loss(model, batch):
        return losses.cross_entropy(model(batch["x"]), batch["labels"])

    state = fit(model, Batches(examples, 10), loss, epochs=20, lr=0.1)
    assert state.losses[-1] < 0.3
