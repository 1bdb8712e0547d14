"""Traps of adapters, new tokens and answers' spans: 17, 22 and 23."""

from __future__ import annotations

import torch
from transformers import BertForQuestionAnswering

from sftkit import losses_spans
from tests.engine import tiny
from tests.traps.test_training import sees

# -- trap 23: -1 clamped to position 0 in span losses ------------------------------------------


def an_answer_outside_the_window_teaches_nothing(loss):
    """Neither its gradient nor its count; and the first token when that is stated."""
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 6, dtype=torch.float64, requires_grad=True)
    start, end = torch.tensor([2, -1]), torch.tensor([3, -1])
    loss_sum, n = loss(logits[0], logits[1], start, end)
    (gradient,) = torch.autograd.grad(loss_sum / n, logits)
    alone = logits.detach()[:, :1].requires_grad_()
    loss_sum, n = loss(alone[0], alone[1], start[:1], end[:1])
    (expected,) = torch.autograd.grad(loss_sum / n, alone)
    moved = gradient[:, 1].abs().max()
    assert moved == 0, f"the first token's gradient is {gradient[0, 1, 0]:.2g}"
    assert torch.allclose(gradient[:, :1], expected)


def test_trap_23():
    length = torch.tensor([6, 6])

    def ours(start_logits, end_logits, start, end):
        labels = losses_spans.place_labels(start, end, length[: len(start)])
        return losses_spans.span_cross_entropy(start_logits, end_logits, labels)

    an_answer_outside_the_window_teaches_nothing(ours)
    stated = losses_spans.place_labels(
        torch.tensor([2, -1]), torch.tensor([3, -1]), length, "no answer"
    )
    assert stated.tolist() == [[2, 3], [0, 0]]

    def clamped(start_logits, end_logits, start, end):
        labels = torch.stack([start, end], dim=1).clamp(min=0)
        return losses_spans.span_cross_entropy(start_logits, end_logits, labels)

    sees(lambda: an_answer_outside_the_window_teaches_nothing(clamped))

    def transformers(start_logits, end_logits, start, end):
        """As it ships: the loss inside BertForQuestionAnswering."""
        config = tiny.config()
        config.num_labels = 2
        model = BertForQuestionAnswering(config).double()
        joined = torch.stack([start_logits, end_logits], dim=-1)
        model.qa_outputs.forward = lambda hidden: joined
        ids = torch.ones(start_logits.shape, dtype=torch.long)
        output = model(ids, start_positions=start, end_positions=end)
        return output.loss, torch.ones(())

    sees(lambda: an_answer_outside_the_window_teaches_nothing(transformers))
