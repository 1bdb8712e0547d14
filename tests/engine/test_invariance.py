"""What must not change: each number is 0 on our code, and above it on a broken variant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sftkit import check_run, losses
from sftkit.batches import IGNORE, Batches, Examples, Ragged
from sftkit.checks import (
    first_difference,
    influence,
    layouts,
    layouts_table,
    leak,
    spread,
    token_influence,
)
from sftkit.errors import FitError, ModelError, ParameterError
from sftkit.fit import fit
from sftkit.losses_lm import causal_inputs, causal_lm, next_token
from sftkit.packing import PackedBatches
from tests.engine import tiny, tiny_chat

LOSS = causal_lm()


def test_examples_of_tokens_are_those_of_flat_arrays():
    rows = [[4, 5, 6], [7], [8, 9]]
    found = Examples.of_tokens(rows, [[IGNORE, 5, 6], [IGNORE], [8, 9]], pad_id=3)
    batch = found.batch([0, 2, 1])
    assert batch["input_ids"].tolist() == [[4, 5, 6], [8, 9, 3], [7, 3, 3]]
    assert batch["labels"].tolist() == [[IGNORE, 5, 6], [8, 9, IGNORE], [IGNORE] * 3]
    assert batch["row"].tolist() == [0, 2, 1]
    own = Examples.of_tokens(rows).columns["labels"]
    assert isinstance(own, Ragged) and own.values.tolist() == [4, 5, 6, 7, 8, 9]


# -- layouts ----------------------------------------------------------------------------------


def mean_of_means(model, batch):
    loss_sum, n = LOSS(model, batch)
    return loss_sum / n, torch.ones(())


def counted_before_the_shift(model, batch):
    loss_sum, _ = LOSS(model, batch)
    return loss_sum, (batch["labels"] != IGNORE).sum()


def every_token_labelled(rows):
    ids = tiny_chat.examples(rows).columns["input_ids"]
    return Examples({"input_ids": ids, "labels": Ragged(ids.values, ids.lengths)})


@pytest.mark.parametrize("rows", [1, 5, 8])
def test_a_right_loss_is_the_same_in_every_layout(rows):
    model = tiny_chat.decoder().train()
    found = layouts(model, every_token_labelled(rows), LOSS, row_tokens=20)
    assert spread(found) < 1e-12 and found[-1].name == "packed"
    assert len({layout.n for layout in found}) == 1
    assert model.training and all(p.grad is None for p in model.parameters())
    assert "cosine" in repr(layouts_table(found))


def test_layouts_see_a_mean_of_means_and_a_count_before_the_shift():
    found = layouts(tiny_chat.decoder(), every_token_labelled(8), mean_of_means)
    assert [layout.name for layout in found] == ["1 × 8", "2 × 4", "4 × 2", "8 × 1"]
    assert spread(found) > 0.01
    found = layouts(
        tiny_chat.decoder(), every_token_labelled(8), counted_before_the_shift, row_tokens=20
    )
    assert spread(found[:-1]) < 1e-12 < 0.01 < spread(found), "only packing shows it"


def test_a_layout_is_the_step_that_fit_takes():
    examples = tiny_chat.examples(8)
    state = fit(tiny_chat.decoder(), Batches(examples, 8), LOSS, max_steps=1, precision="fp32")
    found = layouts(tiny_chat.decoder(), examples, LOSS)[0]
    ours, theirs = [found.loss, found.norm, found.n], state.history[0]
    assert ours == pytest.approx([theirs[k] for k in ("loss", "gradient_norm", "n")], rel=1e-9)


# -- leaks ------------------------------------------------------------------------------------


def ignores_documents(model, batch):
    return losses.cross_entropy(
        *next_token(model(**losses.model_inputs(batch)).logits, batch["labels"])
    )


def packed(**options):
    return PackedBatches(tiny_chat.examples(12), 12, row_tokens=30, **options)


@pytest.mark.parametrize("make", [tiny_chat.decoder, tiny_chat.llama])
def test_nothing_leaks_by_our_loss(make):
    assert leak(make().eval(), next(packed().epoch(0))[0], LOSS) == 0.0


def test_a_leak_is_seen_and_the_run_refused():
    model = tiny_chat.llama().eval()
    assert leak(model, next(packed().epoch(0))[0], ignores_documents) > 0.01
    with pytest.raises(FitError, match="packed documents see each other"):
        check_run(model, packed(), ignores_documents, lr=1e-3)
    report = check_run(model, packed(), LOSS, lr=1e-3)
    assert [f.verdict for f in report.findings if f.check == "packing"] == ["ok"]


def test_a_row_of_one_document_cannot_leak():
    batches = PackedBatches(tiny_chat.examples(2), 1, row_tokens=30)
    assert leak(tiny_chat.llama(), next(batches.epoch(0))[0], ignores_documents) == 0.0
    with pytest.raises(ModelError, match="does not say where its embeddings are"):
        leak(torch.nn.Linear(2, 2), next(packed().epoch(0))[0], LOSS)


def test_influence_is_a_jacobian_and_causal_for_a_decoder():
    weight = torch.tensor([[1.0, 0, 0], [2, 3, 0], [0, 0, 4]])
    found = influence(lambda x: weight @ x, torch.ones(3, 1))
    direction = found[0, 0]  # of one number: all entries are scaled alike
    assert torch.allclose(found, weight * direction)
    model, batch = tiny_chat.llama().eval(), next(packed().epoch(0))[0]
    inside = batch["document"][0][:, None] == batch["document"][0][None]
    right = token_influence(model, causal_inputs(model, batch))
    wrong = token_influence(model, losses.model_inputs(batch))
    assert (right.triu(1) == 0).all() and (right.diagonal() > 0).all()
    assert (right[~inside] == 0).all() and (wrong.tril()[~inside] > 0).any()


# -- records of two runs ----------------------------------------------------------------------


def test_the_first_difference_names_step_and_columns():
    def history(**options):
        batches = Batches(tiny.examples(16), 8)
        settings = {"epochs": 2, "precision": "fp32"} | options
        return fit(tiny.model(), batches, losses.classification(), **settings).history

    one = history()
    assert first_difference(one, history()) is None  # although the times differ
    step, names = first_difference(one, history(schedule="constant"))
    assert step == 3 and "lr" in names and "loss" not in names
    changed = [dict(row) for row in one]
    changed[2]["loss"] = np.nextafter(changed[2]["loss"], 9)
    assert first_difference(one, changed) == (3, ["loss"])
    with pytest.raises(ParameterError, match="4 steps and 3 steps"):
        first_difference(one, one[1:])
