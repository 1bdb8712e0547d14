"""Traps of the loop, the optimizer and of evaluation: 10, 12, 14, 15, 18, 19 and 24."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sftkit import evaluate, losses
from sftkit.batches import IGNORE, Batches
from sftkit.checks.optimizers import decayed_vectors
from sftkit.errors import FitError
from sftkit.evaluate.language import language_evaluation
from sftkit.fit import fit
from sftkit.optim import Schedule, parameter_groups
from tests.engine import tiny

FIT = sys.modules["sftkit.fit"]  # the module: `sftkit.fit` may be the function
COMPARE = sys.modules["sftkit.evaluate.compare"]


class PerToken(torch.nn.Module):
    """Logits per token, from the token alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(50, tiny.CLASSES)

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=self.table(input_ids))


def sees(detector) -> None:
    """The detector must fail here."""
    with pytest.raises(AssertionError):
        detector()


# -- trap 10: every label masked --------------------------------------------------------------


def an_error_names_the_rows():
    examples = tiny.examples(6, per_token=True)
    examples.columns["labels"].values[:] = IGNORE
    try:
        fit(PerToken(), Batches(examples, 3), losses.classification(), epochs=1)
    except FitError as error:
        assert "no label is supervised, rows" in str(error)
    else:
        raise AssertionError("trained on nothing")


def test_trap_10(monkeypatch):
    an_error_names_the_rows()
    whole = losses.cross_entropy

    def safe(logits, labels, **options):  # "safe" division: a loss of 0.0, and no warning
        loss_sum, n = whole(logits, labels, **options)
        return loss_sum, n.clamp(min=1)

    monkeypatch.setattr(losses, "cross_entropy", safe)
    sees(an_error_names_the_rows)


# -- trap 12: metrics averaged over uneven batches --------------------------------------------


def metrics_are_the_same_for_any_batch_size(loss):
    examples, found = tiny.examples(23, per_token=True), []
    for size in (1, 7, 23):
        batches = Batches(examples, size, shuffle=False)
        found.append(language_evaluation(batches, loss)(PerToken())["loss"])
    assert max(found) - min(found) < 1e-5, found


def test_trap_12():
    whole = losses.classification()
    metrics_are_the_same_for_any_batch_size(whole)

    def mean_of_the_batch(model, batch):
        loss_sum, n = whole(model, batch)
        return loss_sum / n, torch.ones(())

    sees(lambda: metrics_are_the_same_for_any_batch_size(mean_of_the_batch))


# -- trap 14: the schedule --------------------------------------------------------------------

GOLDEN = {
    1 / 3: [1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4],
    0: [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
}


def rates_are_those_of_the_list(warmup: float = 1 / 3):
    for micro in (8, 2):
        batches = Batches(tiny.examples(24, per_token=True), 8, micro_batch_size=micro)
        state = fit(
            PerToken(), batches, losses.classification(), epochs=2, lr=0.5, warmup=warmup
        )
        found = [row["lr"] / 0.5 for row in state.history]
        assert found == pytest.approx(GOLDEN[warmup]), f"micro-batches of {micro}: {found}"


class PerMicroBatch(Schedule):
    def factor(self, step):
        return super().factor(4 * step)


class TotalInMicroBatches(Schedule):
    def __init__(self, name, total, warmup=0.0):
        super().__init__(name, 4 * total, warmup)


class FromZero(Schedule):
    def factor(self, step):
        before = step < self.warmup_steps
        return step / self.warmup_steps if before else super().factor(step)


class NoWarmupByDivision(Schedule):
    def factor(self, step):
        return min((step + 1) / self.warmup_steps, super().factor(step))


@pytest.mark.parametrize("broken", [PerMicroBatch, TotalInMicroBatches, FromZero])
def test_trap_14(monkeypatch, broken):
    rates_are_those_of_the_list()
    monkeypatch.setattr(FIT, "Schedule", broken)
    sees(rates_are_those_of_the_list)


def test_trap_14_without_warm_up(monkeypatch):
    rates_are_those_of_the_list(0)
    monkeypatch.setattr(FIT, "Schedule", NoWarmupByDivision)
    with pytest.raises(ZeroDivisionError):
        rates_are_those_of_the_list(0)


# -- trap 15: parameters kept in bf16 ---------------------------------------------------------


def small_steps_move_every_norm(model):
    """40 steps of 2e-5 move a scale of 1.0 by up to 8e-4; bf16 has no number between 1
    and 1.0078."""
    scales = {n: p for n, p in model.named_parameters() if n.endswith("LayerNorm.weight")}
    before = {name: p.detach().double().clone() for name, p in scales.items()}
    batches = Batches(tiny.examples(8), 8)
    options = {"epochs": 40, "lr": 2e-5, "warmup": 0, "schedule": "constant"}
    fit(model, batches, losses.classification(), precision="bf16", **options)
    for name, p in scales.items():
        moved = (p.detach().double() - before[name]).abs().max()
        assert 1e-4 < moved < 1e-2, f"{name} moved by {moved:.2g}"


def test_trap_15():
    small_steps_move_every_norm(tiny.model())
    sees(lambda: small_steps_move_every_norm(tiny.model().bfloat16()))


# -- trap 18: dropout -------------------------------------------------------------------------


def two_evaluations_agree(model):
    first, second = (evaluate.predict(model, tiny.examples()).logits for _ in range(2))
    assert np.array_equal(first, second)


def dropout_is_on_in_every_step():
    modes = []

    def loss(model, batch):
        modes.append(model.training)
        return losses.classification()(model, batch)

    options = {"evaluate": evaluate.evaluation(tiny.examples(4)), "evaluate_every": 1}
    fit(tiny.model().eval(), Batches(tiny.examples(16), 8), loss, epochs=1, **options)
    assert modes == [True, True]


def test_trap_18(monkeypatch):
    model = tiny.model(dropout=0.3).train()
    two_evaluations_agree(model)
    assert all(module.training for module in model.modules())
    dropout_is_on_in_every_step()
    with monkeypatch.context() as broken:
        broken.setattr(model, "eval", lambda: model)
        sees(lambda: two_evaluations_agree(model))
    monkeypatch.setattr(FIT, "train_mode", lambda model: None)
    sees(dropout_is_on_in_every_step)


# -- trap 19: weight decay on biases and norms ------------------------------------------------


def only_matrices_shrink():
    """Without a gradient, weight decay is all that an optimizer does."""
    model = tiny.model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(model, batch):
        loss_sum, n = losses.classification()(model, batch)
        return loss_sum * 0.0, n

    options = {"epochs": 1, "lr": 0.1, "weight_decay": 0.5, "warmup": 0}
    fit(model, Batches(tiny.examples(8), 8), loss, **options)
    for name, p in model.named_parameters():
        matrix = "weight" in name and "LayerNorm" not in name
        if before[name].any():
            assert torch.equal(p, before[name]) != matrix, name


def test_trap_19(monkeypatch):
    only_matrices_shrink()

    def all_decayed(model, weight_decay, *more):
        groups = parameter_groups(model, weight_decay, *more)
        return [group | {"weight_decay": weight_decay} for group in groups]

    monkeypatch.setattr(FIT, "parameter_groups", all_decayed)
    sees(only_matrices_shrink)


def no_vector_is_decayed(groups_of) -> None:
    model = tiny.model()
    optimizer = torch.optim.AdamW(groups_of(model), weight_decay=0.5)
    assert decayed_vectors(model, optimizer) == []


def test_trap_19_as_the_optimizer_tells_it():
    no_vector_is_decayed(lambda model: parameter_groups(model, 0.5))
    sees(lambda: no_vector_is_decayed(lambda model: model.parameters()))
    model = tiny.model()
    found = decayed_vectors(model, torch.optim.AdamW(model.parameters(), weight_decay=0.5))
    assert set(found) == {name for name, p in model.named_parameters() if p.ndim == 1}


# -- trap 24: comparing on one seed -----------------------------------------------------------


def equal_models_are_rarely_told_apart():
    """Fifty pairs of models that are right on 80 % of all examples, each by itself."""
    generator, clear = np.random.default_rng(0), 0
    for _ in range(50):
        labels = np.ones(300, dtype=int)
        first, second = (generator.random((2, 300)) < 0.8).astype(int)
        clear += evaluate.compare(first, second, labels).clear
    assert clear <= 7, f"{clear} of 50 called better: 2 or 3 are to be expected"


def test_trap_24(monkeypatch):
    equal_models_are_rarely_told_apart()
    monkeypatch.setattr(COMPARE, "REPLICATES", 1)  # one draw has no spread
    sees(equal_models_are_rarely_told_apart)
