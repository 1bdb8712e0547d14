"""Distillation equals a hand computation; its gradients keep their size at any temperature."""

from __future__ import annotations

import math

import pytest
import torch

from sftkit.batches import IGNORE, Batches
from sftkit.errors import ParameterError
from sftkit.fit import fit
from sftkit.losses_chunked import causal_lm
from sftkit.losses_distillation import distillation, distillation_loss
from sftkit.packing import PackedBatches
from tests.engine import tiny_chat

SHAPES = [(1, 5), (4, 17), (9, 3)]
TEMPERATURES = [0.7, 1.0, 4.0]


def drawn(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64) * 2


def softmax(row, temperature):
    powers = [math.exp(x / temperature) for x in row]
    return [x / sum(powers) for x in powers]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_it_equals_a_hand_computation(shape, temperature):
    logits, wanted = drawn(shape)
    expected = 0.0
    for z, v in zip(logits.tolist(), wanted.tolist(), strict=True):
        p, q = softmax(v, temperature), softmax(z, temperature)
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    loss_sum, n = distillation_loss(logits, wanted, temperature)
    assert float(loss_sum) == pytest.approx(temperature**2 * expected, abs=1e-12)
    assert int(n) == shape[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_its_gradient_by_hand_and_by_finite_differences(shape, temperature):
    logits, wanted = drawn(shape, seed=1)
    logits.requires_grad_()
    loss_sum, _ = distillation_loss(logits, wanted, temperature)
    (autograd,) = torch.autograd.grad(loss_sum, logits)
    p, q = ((x / temperature).softmax(-1) for x in (wanted, logits))
    torch.testing.assert_close(autograd, (temperature * (q - p)).detach(), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda z: distillation_loss(z, wanted, temperature)[0], logits
    )


def test_the_factor_keeps_gradients_of_one_size():
    """At high temperature the gradient goes to the centred difference of logits over V."""
    logits, wanted = drawn((6, 11), seed=2)
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(distillation_loss(logits, wanted, 1e4)[0], logits)
    difference = (logits - wanted).detach()
    expected = (difference - difference.mean(-1, keepdim=True)) / 11
    torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-4)


def one_batch(packed=False):
    examples = tiny_chat.examples(9)
    batches = (
        PackedBatches(examples, 9, row_tokens=40, rows=2) if packed else Batches(examples, 9)
    )
    return next(batches.epoch(0))[0]


@pytest.mark.parametrize("make", [tiny_chat.decoder, tiny_chat.llama])
def test_supervised_places_count_packed_or_padded(make):
    teacher, student = make(seed=1).eval(), make()
    found = [distillation(teacher, 2.0)(student, one_batch(packed)) for packed in (False, True)]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-9, atol=0)
    batch = one_batch()
    n = int((batch["labels"][:, 1:] != IGNORE).sum())
    assert int(found[0][1]) == int(found[1][1]) == n
    chosen = batch["labels"][:, 1:] != IGNORE
    ids = batch["input_ids"]
    ours, theirs = (m(input_ids=ids).logits[:, :-1][chosen] for m in (student, teacher))
    expected, _ = distillation_loss(ours, theirs, 2.0)
    torch.testing.assert_close(found[0][0], expected, rtol=1e-9, atol=0)


def test_a_model_is_its_own_best_student_and_share_mixes():
    teacher, student, batch = tiny_chat.llama(1).eval(), tiny_chat.llama(), one_batch()
    assert abs(distillation(teacher)(teacher, batch)[0].item()) < 1e-9
    soft, hard = distillation(teacher)(student, batch), causal_lm()(student, batch)
    mixed = distillation(teacher, share=0.3)(student, batch)
    torch.testing.assert_close(mixed[0], 0.3 * soft[0] + 0.7 * hard[0], rtol=1e-9, atol=0)
    assert int(soft[1]) == int(hard[1]) == int(mixed[1])
    hard_only = distillation(teacher, share=0.0)(student, batch)[0]
    torch.testing.assert_close(hard_only, hard[0], rtol=1e-9, atol=0)


def test_the_teacher_learns_nothing_and_the_student_comes_closer():
    teacher, student = tiny_chat.decoder(1).float().eval(), tiny_chat.decoder().float()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    batches = Batches(tiny_chat.examples(12), 6)
    options = dict(epochs=15, lr=1e-2, precision="fp32")
    losses = fit(student, batches, distillation(teacher, 2.0), **options).losses
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


def test_nothing_supervised_is_a_zero_that_can_be_propagated():
    batch, student = one_batch(), tiny_chat.decoder()
    batch["labels"][:] = IGNORE
    loss_sum, n = distillation(tiny_chat.decoder(1).eval())(student, batch)
    loss_sum.backward()
    assert float(loss_sum) == 0 and int(n) == 0


def test_what_is_refused():
    teacher = tiny_chat.decoder().eval()
    for options in ({"temperature": 0}, {"temperature": math.inf}, {"share": -1}, {"share": 2}):
        with pytest.raises(ParameterError, match=next(iter(options))):
            distillation(teacher, **options)
    with pytest.raises(ParameterError, match="Call teacher.eval"):
        distillation(tiny_chat.decoder().train())(teacher, one_batch())
    with pytest.raises(ParameterError, match="50 logits a token, the teacher 60"):
        distillation(tiny_chat.decoder(vocab=60).eval())(teacher, one_batch())
