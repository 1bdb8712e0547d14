"""Focal loss and losses of numbers, against torch and against formulas written otherwise."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from sftkit import losses
from sftkit.errors import ParameterError
from tests.engine import tiny


def random_batch(seed: int, rows: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, classes, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    labels[2::3] = -100
    return logits, labels


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (7, 3), (12, 9)])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_without_focus_is_cross_entropy(rows, classes, weighted):
    logits, labels = random_batch(rows, rows, classes)
    weights = torch.linspace(0.5, 2, classes, dtype=torch.float64) if weighted else None
    ours = losses.focal(logits, labels, gamma=0, class_weights=weights)
    expected = losses.cross_entropy(logits, labels, class_weights=weights)
    assert torch.allclose(ours[0], expected[0], atol=1e-12)
    assert torch.equal(ours[1], expected[1])


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_of_two_classes_equals_the_sigmoid_form(gamma):
    """With two classes and logits (0, z) it is the paper's form on sigmoid(z)."""
    z, labels = random_batch(3, 20, 1)[0][:, 0], torch.tensor([0, 1] * 10)
    entropy = functional.binary_cross_entropy_with_logits(z, labels.double(), reduction="none")
    right = torch.where(labels == 1, torch.sigmoid(z), torch.sigmoid(-z))
    expected = ((1 - right) ** gamma * entropy).sum()
    ours, n = losses.focal(torch.stack([0 * z, z], dim=1), labels, gamma=gamma)
    assert torch.allclose(ours, expected, atol=1e-12)
    assert n == 20


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_focal_gradients_stay_finite_where_the_model_is_certain(gamma, dtype):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]], dtype=dtype)
    logits.requires_grad_(True)
    loss_sum, _ = losses.focal(logits, torch.tensor([0, 0, 1]), gamma=gamma)
    loss_sum.backward()
    assert torch.isfinite(loss_sum) and torch.isfinite(logits.grad).all()
    assert logits.grad[0].abs().max() == 0 and logits.grad[1, 0] == -1
    half = torch.full((1, 2), 0.0, dtype=dtype, requires_grad=True)
    losses.focal(half, torch.tensor([1]), gamma=gamma)[0].backward()
    assert torch.equal(half.grad[0], logits.grad[2])


def test_the_naive_focal_gradient_is_not_finite():
    """What the clamp is for: without it, a power below 1 gives NaN at p = 1."""
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    p = torch.softmax(logits, dim=-1)[0, 0]
    (-((1 - p) ** 0.5) * torch.log(p)).backward()
    assert torch.isnan(logits.grad).any()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_gradient_equals_finite_differences(gamma):
    logits, labels = random_batch(5, 6, 4)
    weights = torch.tensor([1.0, 0.3, 2.0, 1.0], dtype=torch.float64)
    logits.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda z: losses.focal(z, labels, gamma=gamma, class_weights=weights)[0], (logits,)
    )


def test_focal_sums_add_up_over_micro_batches():
    logits, labels = random_batch(9, 11, 3)
    weights = torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64)
    whole = losses.focal(logits, labels, class_weights=weights)
    parts = [
        losses.focal(a, b, class_weights=weights)
        for a, b in zip(logits.split([1, 4, 6]), labels.split([1, 4, 6]), strict=True)
    ]
    for which in (0, 1):
        assert torch.allclose(sum(part[which] for part in parts), whole[which])
    mean_of_means = sum(loss / n for loss, n in parts) / 3  # the broken version
    assert not torch.allclose(mean_of_means, whole[0] / whole[1], rtol=1e-2)


def test_nothing_supervised_gives_zero_and_zero():
    nothing = torch.tensor([-100, -100])
    for gamma in (0.0, 2.0):
        loss_sum, n = losses.focal(torch.zeros(2, 3), nothing, gamma=gamma)
        assert loss_sum == 0 and n == 0
    loss_sum, n = losses.regression(torch.zeros(2), torch.full((2,), math.nan))
    assert loss_sum == 0 and n == 0


@pytest.mark.parametrize("shape", [(1,), (6,), (4, 3)])
@pytest.mark.parametrize(
    ("options", "mean"),
    [
        ({}, functional.mse_loss),
        ({"kind": "squared"}, functional.mse_loss),
        ({"kind": "absolute"}, functional.l1_loss),
        ({"kind": "huber"}, functional.huber_loss),
        (
            {"kind": "huber", "delta": 0.3},
            lambda a, b: functional.huber_loss(a, b, delta=0.3),
        ),
    ],
)
def test_regression_equals_torchs_means(shape, options, mean):
    torch.manual_seed(len(shape))
    predictions, targets = torch.randn(2, *shape, dtype=torch.float64)
    loss_sum, n = losses.regression(predictions, targets, **options)
    assert torch.allclose(loss_sum / n, mean(predictions, targets), atol=1e-12)
    assert n == predictions.numel()


@pytest.mark.parametrize("kind", ["squared", "absolute", "huber"])
def test_a_missing_target_is_not_supervised(kind):
    predictions = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    targets = torch.tensor([0.5, math.nan, 1.0])
    loss_sum, n = losses.regression(predictions, targets, kind=kind)
    loss_sum.backward()
    assert n == 2 and torch.isfinite(loss_sum)
    assert predictions.grad[1] == 0 and (predictions.grad[[0, 2]] != 0).all()


def test_regression_refuses_shapes_that_torch_would_stretch():
    predictions, targets = torch.zeros(4, 1), torch.arange(4.0)
    with pytest.raises(ParameterError, match="shape"):
        losses.regression(predictions, targets)
    with pytest.warns(UserWarning, match="broadcasting"):  # the broken version: 16 errors
        stretched = functional.mse_loss(predictions, targets, reduction="none")
    assert stretched.numel() == 16


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.focal(torch.zeros(1, 2), torch.tensor([0]), gamma=-1),
        lambda: losses.focal(torch.zeros(1, 2), torch.tensor([0]), gamma=math.nan),
        lambda: losses.regression(torch.zeros(1), torch.zeros(1), kind="cubic"),
        lambda: losses.regression(torch.zeros(1), torch.zeros(1), kind="huber", delta=0),
        lambda: losses.classification(focal_gamma=-0.5),
        lambda: losses.classification(focal_gamma=2.0, label_smoothing=0.1),
    ],
)
def test_bad_settings_are_refused(call):
    with pytest.raises(ParameterError):
        call()


def test_classification_passes_gamma_and_weights_on():
    model, batch = tiny.model().eval(), tiny.examples(rows=6).batch(range(6))
    logits = model(**losses.model_inputs(batch)).logits
    weights = [1.0, 2.0, 3.0]
    found = losses.classification(weights, focal_gamma=2.0)(model, batch)
    expected = losses.focal(logits, batch["labels"], class_weights=torch.tensor(weights))
    assert torch.allclose(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert not torch.allclose(found[0], losses.classification(weights)(model, batch)[0])
