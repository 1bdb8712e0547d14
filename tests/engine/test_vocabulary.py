"""Training only the embeddings that occur gives what training all of them gives."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertForMaskedLM

from sftkit import losses, models
from sftkit.batches import Batches, Examples
from sftkit.errors import ModelError
from sftkit.fit import fit
from sftkit.models.vocabulary import OccurringRows
from tests.engine import tiny


def few_words() -> Examples:
    """Examples that use few of the 50 tokens, and not token 0."""
    examples = tiny.examples(24)
    values = examples.columns["input_ids"].values
    values[:] = 5 + values % 7
    return examples


def train(model: nn.Module, examples: Examples, **more):
    options = {"epochs": 3, "lr": 1e-2, "weight_decay": 0.0} | more
    return fit(model, Batches(examples, 8), losses.classification(), **options)


@pytest.mark.parametrize("head", ["mean", "first"])
def test_the_trajectory_is_that_of_the_whole_table(head):
    whole = tiny.model(head).double()
    compact = copy.deepcopy(whole)
    expected = train(whole, few_words())
    with models.occurring_tokens_only(compact, few_words()):
        table = models.parts.base_of(compact).get_input_embeddings()
        assert table.weight.shape[0] == 8  # seven tokens and padding
        found = train(compact, few_words())
    assert found.losses == pytest.approx(expected.losses, abs=1e-10)
    assert compact.state_dict().keys() == whole.state_dict().keys()
    for (name, a), b in zip(compact.named_parameters(), whole.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-9), name


def test_rows_that_do_not_occur_stay_bit_for_bit_even_with_weight_decay():
    model = tiny.model()
    before = model.encoder.get_input_embeddings().weight.detach().clone()
    with models.occurring_tokens_only(model, few_words()):
        train(model, few_words(), weight_decay=0.5)
    after = model.encoder.get_input_embeddings().weight.detach()
    moved = (before != after).any(dim=1)
    assert moved[5:12].all() and not moved[:5].any() and not moved[12:].any()


def test_a_broken_variant_without_writing_back_is_seen(monkeypatch):
    monkeypatch.setattr(OccurringRows, "write_back", lambda self: self.whole[0])
    model = tiny.model()
    before = copy.deepcopy(model.encoder.get_input_embeddings().weight)
    with models.occurring_tokens_only(model, few_words()):
        train(model, few_words())
    assert torch.equal(before, model.encoder.get_input_embeddings().weight)


def test_other_tokens_get_their_pretrained_embeddings():
    model = tiny.model().eval()
    ids = torch.tensor([[5, 40, 6, 41]])
    expected = model(input_ids=ids).logits
    with models.occurring_tokens_only(model, few_words()):
        assert torch.equal(model(input_ids=ids).logits, expected)


def test_the_table_comes_back_after_an_error_with_what_was_learnt():
    model = tiny.model()
    table = model.encoder.get_input_embeddings()
    with pytest.raises(RuntimeError), models.occurring_tokens_only(model, few_words()):
        model.encoder.get_input_embeddings().weight.data[:] = 3.0
        raise RuntimeError
    assert model.encoder.get_input_embeddings() is table
    assert (table.weight[5:12] == 3).all() and (table.weight[12:] != 3).all()


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    class Interrupt:
        def on_step(self, model, state):
            if state.step == 5:
                raise KeyboardInterrupt

        def on_evaluate(self, model, state): ...

    whole = tiny.model(dropout=0.1)
    parted = copy.deepcopy(whole)
    with models.occurring_tokens_only(whole, few_words()):
        train(whole, few_words())
    options = {"folder": tmp_path, "save_every": 2}
    with pytest.raises(KeyboardInterrupt):
        half = copy.deepcopy(parted)
        with models.occurring_tokens_only(half, few_words()):
            train(half, few_words(), callbacks=[Interrupt()], **options)
    with models.occurring_tokens_only(parted, few_words()):
        state = train(parted, few_words(), resume=True, **options)
    assert state.step == 9
    for a, b in zip(parted.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_embeddings_are_left_alone():
    model = tiny.model()
    models.set_trainable(model, "no-embeddings")
    table = model.encoder.get_input_embeddings()
    with models.occurring_tokens_only(model, few_words()):
        assert model.encoder.get_input_embeddings() is table


def test_a_shared_table_and_examples_without_ids_are_refused():
    shared = BertForMaskedLM(tiny.config())
    with (
        pytest.raises(ModelError, match="shared"),
        models.occurring_tokens_only(shared, few_words()),
    ):
        pass
    bare = Examples({"labels": np.zeros(3, dtype=np.int64)})
    with (
        pytest.raises(ModelError, match="no input_ids"),
        models.occurring_tokens_only(tiny.model(), bare),
    ):
        pass
