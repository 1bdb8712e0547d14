"""Packed batches: by eye, every example once, and resumed at every step."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from sftkit import losses_lm, packing
from sftkit.batches import IGNORE, Batches, Examples, Ragged, padding_share
from sftkit.errors import CheckpointError, EncodeError, ModelError, ParameterError
from sftkit.fit import fit
from sftkit.models.blocks import restarting_positions
from sftkit.packed_attention import document_lengths
from sftkit.packing import PackedBatches, first_fit_decreasing
from tests.engine import tiny, tiny_chat


def test_first_fit_by_hand():
    # 7 opens a bin of 10 and 6 another; 3 fits with 7, 3 with 6, 2 opens the third
    assert first_fit_decreasing([3, 7, 3, 6, 2], 10) == [[1, 0], [3, 2], [4]]
    assert first_fit_decreasing([5, 5, 5], 5) == [[0], [1], [2]]
    assert first_fit_decreasing([], 5) == []


def test_a_packed_batch_by_eye():
    ids = Ragged(np.array([7, 8, 9, 5, 6, 4], dtype=np.int32), np.array([3, 2, 1]))
    labels = Ragged(np.array([7, 8, 9, IGNORE, 6, 4], dtype=np.int32), np.array([3, 2, 1]))
    examples = Examples({"input_ids": ids, "labels": labels, "row": np.array([10, 11, 12])}, 2)
    batches = PackedBatches(examples, 3, row_tokens=5, rows=2, shuffle=False)
    ((batch,),) = batches.epoch(0)
    assert batch["input_ids"].tolist() == [[7, 8, 9, 5, 6], [4, 2, 2, 2, 2]]
    assert batch["labels"].tolist() == [[-100, 8, 9, -100, 6], [-100] * 5]
    assert batch["document"].tolist() == [[0, 0, 0, 1, 1], [0, -1, -1, -1, -1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 0, 0, 0, 0]]
    assert batch["row"].tolist() == [10, 11, 12]
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert padding_share(batches) == pytest.approx(4 / 10)


def test_helpers_of_the_model_by_eye():
    document = torch.tensor([[0, 0, 1, 1, 1, -1], [-1, 0, 0, 0, 0, 0]])
    assert document_lengths(document) == [2, 3, 1, 1, 5]
    assert restarting_positions(document).tolist() == [[0, 1, 0, 1, 2, 0], [0, 0, 1, 2, 3, 4]]
    mask = losses_lm.document_mask(torch.tensor([[0, 0, 1]]))
    assert mask[0, 0].tolist() == [
        [True, False, False],
        [True, True, False],
        [False] * 2 + [True],
    ]


def test_the_examples_of_a_step_are_those_of_padded_batches():
    examples = tiny_chat.examples(50)
    packed = PackedBatches(examples, 8, row_tokens=32, by_length=True, seed=4)
    padded = Batches(examples, 8, seed=4)
    for epoch in (0, 3):
        for rows, step in zip(padded.order(epoch), packed.epoch(epoch), strict=True):
            found = torch.cat([batch["row"] for batch in step])
            assert sorted(found.tolist()) == sorted(rows.tolist())
            assert all(batch["input_ids"].numel() <= 32 for batch in step)
    assert padding_share(packed) == 0.0  # one row at a time: nothing is padded


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_share_of_padding_is_that_of_the_batches(rows):
    """Counted in what a model is given. By examples, as if padded, it would be far off."""
    examples = tiny_chat.examples(50)
    packed = PackedBatches(examples, 16, row_tokens=40, rows=rows, seed=2)
    plain = Batches(examples, 16, micro_batch_size=5, by_length=False, seed=2)
    for batches in (packed, plain):
        for epoch in (0, 1):
            masks = [batch["attention_mask"] for step in batches.epoch(epoch) for batch in step]
            padding = sum(int((mask == 0).sum()) for mask in masks)
            counted = padding / sum(mask.numel() for mask in masks)
            assert padding_share(batches, epoch) == pytest.approx(counted, abs=1e-12)
    as_if_padded = Batches.layout(packed, 0)
    real, places = zip(*((sum(t), max(t) * len(t)) for t in as_if_padded), strict=True)
    assert 1 - sum(real) / sum(places) > padding_share(packed) + 0.1


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_resume_is_exact(tmp_path, stop):
    """20 rows in steps of 8, three packed rows or so a step: also in the middle of an epoch."""

    def run(folder, resume=False, until=None, batches=None):
        model, state = tiny_chat.decoder(), None

        class Stop:
            def on_step(self, model, state):
                if state.step == until:
                    raise KeyboardInterrupt

            def on_evaluate(self, model, state): ...

        batches = batches or PackedBatches(tiny_chat.examples(20), 8, row_tokens=24, rows=2)
        with contextlib.suppress(KeyboardInterrupt):
            state = fit(
                model,
                batches,
                losses_lm.causal_lm(),
                folder=folder,
                resume=resume,
                callbacks=[Stop()],
                epochs=3,
                lr=1e-2,
                save_every=1,
                precision="fp32",
            )
        return model, state

    whole, expected = run(tmp_path / "a")
    run(tmp_path / "b", until=stop)
    again, found = run(tmp_path / "b", resume=True)
    assert found.losses == expected.losses
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    # Another layout adds up in another order: it is another run, and is refused.
    other = PackedBatches(tiny_chat.examples(20), 8, row_tokens=25, rows=2)
    with pytest.raises(CheckpointError, match="row_tokens was 24 and is 25"):
        run(tmp_path / "b", resume=True, batches=other)


def test_resume_sees_an_order_with_a_memory(tmp_path):
    """The broken variant: an order from a generator that nobody saves."""

    class Forgetful(PackedBatches):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.generator = np.random.default_rng(self.seed)

        def order(self, epoch):
            rows = self.generator.permutation(len(self.examples))
            return self._cut(rows)

    def run(kind, resume=False, steps=None):
        batches = kind(tiny_chat.examples(20), 8, row_tokens=24)
        options = {"max_steps": 6, "schedule": "constant", "save_every": 3, "precision": "fp32"}
        folder = tmp_path / kind.__name__
        state = fit(
            tiny_chat.decoder(), batches, losses_lm.causal_lm(), folder=folder, resume=resume,
            **options,
        )  # fmt: skip
        if not resume:  # as if killed after the first checkpoint
            import shutil

            shutil.rmtree(folder / "step-00000006")
        return state.losses

    assert run(PackedBatches) == run(PackedBatches, resume=True)
    assert run(Forgetful) != run(Forgetful, resume=True)


def test_what_cannot_be_packed_is_refused():
    examples = tiny_chat.examples(20)
    longest = int(examples.lengths.max())
    with pytest.raises(EncodeError, match=f"has {longest} tokens, and a row holds 5"):
        PackedBatches(examples, 4, row_tokens=5)
    with pytest.raises(EncodeError, match="no labels per token"):
        PackedBatches(tiny.examples(4), 4)
    with pytest.raises(ParameterError, match="rows=0"):
        PackedBatches(examples, 4, rows=0)
    batch = next(PackedBatches(examples, 8).epoch(0))[0]
    with pytest.raises(ParameterError, match="packed rows cannot be given to a Linear"):
        losses_lm.causal_inputs(torch.nn.Linear(2, 2), batch)
    model = tiny_chat.decoder()
    kept = model(batch["input_ids"][:, :2], keep=True).cache
    with pytest.raises(ModelError, match="cannot go on from a cache"):
        model(batch["input_ids"][:, 2:4], cache=kept, document=batch["document"][:, 2:4])


def test_rows_may_be_longer_than_the_model_has_positions_but_documents_may_not():
    model = tiny_chat.decoder(max_length=13)
    batch = next(PackedBatches(tiny_chat.examples(20), 20, row_tokens=100).epoch(0))[0]
    assert batch["input_ids"].shape[1] > 13
    model(**losses_lm.causal_inputs(model, batch))
    longer = tiny_chat.decoder(max_length=12)
    with pytest.raises(ModelError, match="13 tokens"):
        longer(**losses_lm.causal_inputs(longer, batch))


def test_the_module_has_no_state_of_its_own():
    """Order and layout follow from seed and epoch: two objects agree, asked in any order."""
    a, b = (PackedBatches(tiny_chat.examples(30), 8, row_tokens=30) for _ in range(2))
    list(a.epoch(0))
    for mine, other in zip(a.epoch(2), b.epoch(2), strict=True):
        for x, y in zip(mine, other, strict=True):
            assert all(torch.equal(x[name], y[name]) for name in x)
    assert packing.PackedBatches.__doc__
