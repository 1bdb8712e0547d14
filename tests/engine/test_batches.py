"""Batches: every row once, the right padding, an order that is a function of the seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sftkit.batches import Batches, Examples, Ragged, padding_share
from sftkit.errors import ParameterError
from tests.engine import tiny


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    by_length=st.booleans(),
    shuffle=st.booleans(),
    epoch=st.integers(0, 5),
)
def test_every_row_exactly_once(rows, batch_size, by_length, shuffle, epoch):
    batches = Batches(
        tiny.examples(rows), batch_size, by_length=by_length, shuffle=shuffle, seed=3
    )
    order = batches.order(epoch)
    assert sorted(np.concatenate(order).tolist()) == list(range(rows))
    assert len(order) == len(batches)
    assert max(map(len, order)) <= batch_size
    assert [part.tolist() for part in order] == [p.tolist() for p in batches.order(epoch)]


def test_epochs_and_seeds_differ():
    examples = tiny.examples(100)
    a, b = Batches(examples, 8, seed=0), Batches(examples, 8, seed=1)
    flat = [np.concatenate(x).tolist() for x in (a.order(0), a.order(1), b.order(0))]
    assert flat[0] != flat[1] and flat[0] != flat[2]


def test_start_skips_steps_without_changing_them():
    batches = Batches(tiny.examples(50), 8, micro_batch_size=3)
    whole = list(batches.epoch(2))
    late = list(batches.epoch(2, start=4))
    assert len(late) == len(whole) - 4
    for expected, found in zip(whole[4], late[0], strict=True):
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_batch_by_eye():
    ids = Ragged(np.array([7, 8, 9, 5, 6], dtype=np.int32), np.array([3, 2]))
    tags = Ragged(np.array([1, 0, 2, 1, 1], dtype=np.int32), np.array([3, 2]))
    batch = Examples({"input_ids": ids, "labels": tags}, pad_id=4).batch([1, 0])
    assert batch["input_ids"].tolist() == [[5, 6, 4], [7, 8, 9]]
    assert batch["labels"].tolist() == [[1, 1, -100], [1, 0, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["input_ids"].dtype == torch.int64


def test_reading_arrow_keeps_every_value():
    from datasets import Dataset

    data = Dataset.from_dict(
        {"input_ids": [[1, 2, 3], [4], [5, 6]], "labels": [0, 2, 1], "row": [10, 11, 12]}
    ).select([2, 0, 1])  # an indices mapping, as after shuffling
    examples = Examples.of(data)
    assert examples.batch([0, 1, 2])["input_ids"].tolist() == [[5, 6, 0], [1, 2, 3], [4, 0, 0]]
    assert examples.columns["labels"].tolist() == [1, 0, 2]
    assert examples.lengths.tolist() == [2, 3, 1]


def test_take():
    examples = tiny.examples(10)
    part = examples.take([7, 2])
    expected = examples.batch([7, 2])
    assert all(torch.equal(expected[name], value) for name, value in part.batch([0, 1]).items())


def test_buckets_pad_less():
    examples = tiny.examples(2000)
    loose = padding_share(Batches(examples, 16, by_length=False))
    tight = padding_share(Batches(examples, 16))
    assert tight < 0.1 * loose


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": 4, "micro_batch_size": 5}]
)
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ParameterError):
        Batches(tiny.examples(4), **options)


def test_lists_of_fractions_stay_fractions():
    from datasets import Dataset

    data = Dataset.from_dict({"input_ids": [[1, 2], [3]], "target": [[0.6, 1.9], [0.25]]})
    examples = Examples.of(data)
    target = examples.columns["target"]
    assert target.values.tolist() == pytest.approx([0.6, 1.9, 0.25])
    assert examples.columns["input_ids"].values.dtype == np.int32
