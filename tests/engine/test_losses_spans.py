"""The loss of answers' spans: by hand, equal to transformers, and strict about places."""

from __future__ import annotations

import pytest
import torch
from transformers import BertForQuestionAnswering

from sftkit import losses_spans
from sftkit.batches import IGNORE, Batches, Examples, Ragged
from sftkit.errors import ParameterError
from sftkit.fit import fit
from tests.engine import tiny


def logits(rows=3, tokens=5):
    torch.manual_seed(0)
    return torch.randn(2, rows, tokens, dtype=torch.float64)


def test_by_hand():
    start, end = logits()
    labels = torch.tensor([[1, 3], [IGNORE, IGNORE], [0, 0]])
    loss_sum, n = losses_spans.span_cross_entropy(start, end, labels)
    hand = 0.0
    for row, (a, b) in ((0, (1, 3)), (2, (0, 0))):
        for scores, place in ((start[row], a), (end[row], b)):
            hand -= (scores[place].exp() / scores.exp().sum()).log().item() / 2
    assert (loss_sum.item(), int(n)) == (pytest.approx(hand, rel=1e-12), 2)


def test_no_probability_where_no_answer_can_be():
    start, end = logits(2)
    allowed = torch.tensor([[True] * 5, [True, False, True, False, False]])
    labels = torch.tensor([[4, 4], [0, 2]])
    found, _ = losses_spans.span_cross_entropy(start, end, labels, allowed)
    short = losses_spans.span_cross_entropy(
        start[1:, [0, 2]], end[1:, [0, 2]], torch.tensor([[0, 1]])
    )
    first = losses_spans.span_cross_entropy(start[:1], end[:1], labels[:1])
    assert found.item() == pytest.approx((short[0] + first[0]).item(), rel=1e-12)


def test_labels_of_windows():
    start, end = torch.tensor([2, -3, 4, 3, 0]), torch.tensor([4, 1, 5, 3, 9])
    length = torch.tensor([5, 5, 5, 4, 8])
    ignored = losses_spans.place_labels(start, end, length)
    none = [IGNORE, IGNORE]
    assert ignored.tolist() == [[2, 4], none, none, [3, 3], none]
    first = losses_spans.place_labels(start, end, length, "no answer")
    assert first.tolist() == [[2, 4], [0, 0], [0, 0], [3, 3], [0, 0]]
    with pytest.raises(ParameterError, match="There are ignore and no answer"):
        losses_spans.place_labels(start, end, length, "clamp")
    with pytest.raises(ParameterError, match="row 1: the answer ends at 1 and begins at 2"):
        losses_spans.place_labels(torch.tensor([0, 2]), torch.tensor([0, 1]), length[:2])


@pytest.mark.parametrize(
    "places", [[-1, -1], [5, 5], [3, 2], [IGNORE, 2], [2, IGNORE], [-1, 3], [3, 4]]
)
def test_a_place_that_is_none_is_refused(places):
    start, end = logits(2)
    allowed = torch.arange(5).expand(2, 5) < 4
    labels = torch.tensor([[0, 1], places])
    with pytest.raises(
        ParameterError, match="row 1 of the batch: the labels .* among 4 tokens"
    ):
        losses_spans.span_cross_entropy(start, end, labels, allowed)


def questions(rows=24):
    """The answer is where the largest id is, over one or two tokens."""
    examples = tiny.examples(rows)
    ids = examples.columns["input_ids"]
    labels = []
    for begin, length in zip(ids.starts[:-1], ids.lengths, strict=True):
        at = int(ids.values[begin : begin + length].argmax())
        labels += [at, min(at + 1, int(length) - 1)]
    known = {"labels": Ragged(torch.tensor(labels).numpy(), torch.full((rows,), 2).numpy())}
    return Examples(examples.columns | known)


def model():
    torch.manual_seed(0)
    config = tiny.config()
    config.num_labels = 2
    return BertForQuestionAnswering(config)


def test_equal_to_transformers_where_every_place_is_in_the_window():
    batch, head = questions().batch(range(24)), model().double()
    found, n = losses_spans.extractive(mask_padding=False)(head, batch)
    output = head(
        batch["input_ids"],
        batch["attention_mask"],
        start_positions=batch["labels"][:, 0],
        end_positions=batch["labels"][:, 1],
    )
    assert (found / n).item() == pytest.approx(output.loss.item(), rel=1e-12)


def test_fit_learns_where_answers_are():
    head = model()
    state = fit(
        head, Batches(questions(), 8, micro_batch_size=4), losses_spans.extractive(),
        epochs=10, lr=1e-2,
    )  # fmt: skip
    assert state.losses[-1] < 0.6 * state.losses[0]
