"""What a head does not read is not computed, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertModel

from sftkit import losses, models
from sftkit.batches import Batches
from sftkit.fit import fit
from sftkit.models.unread import FirstTokenLayer, skip_unread
from tests.engine import tiny


def pair(dropout: float = 0.0):
    """A stock model in float64, and its copy that skips what is not read."""
    stock = tiny.model("first", dropout, layers=3).double()
    fast = copy.deepcopy(stock)
    assert skip_unread(fast)
    return stock, fast


def batch(rows: int = 7):
    return tiny.examples(rows).batch(range(rows))


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_logits_and_gradients_are_those_of_the_stock_model(rows):
    gradients = []
    for model in pair():
        loss_sum, _ = losses.classification()(model, batch(rows))
        loss_sum.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        assert torch.allclose(gradients[1][name], expected, atol=1e-12), name


def test_a_broken_variant_that_reads_the_second_token_is_seen():
    stock, fast = pair()
    inputs = losses.model_inputs(batch())
    inputs["input_ids"] = inputs["input_ids"].roll(1, dims=1)
    right = stock(**losses.model_inputs(batch())).logits
    assert not torch.allclose(fast(**inputs).logits, right, atol=1e-3)


def test_training_follows_the_same_trajectory():
    found = []
    for model in pair():
        batches = Batches(tiny.examples(24), 8, micro_batch_size=3)
        state = fit(model, batches, losses.classification(), epochs=2, lr=1e-2)
        found.append(state.losses)
    assert found[1] == pytest.approx(found[0], abs=1e-10)


def test_the_last_block_costs_a_fraction():
    inputs = losses.model_inputs(batch())
    flops = []
    for model in pair():
        with FlopCounterMode(display=False) as counter:
            model(**inputs)
        flops.append(counter.get_total_flops())
    block = flops[0] / 3  # about: the head is small
    assert flops[0] - flops[1] > 0.5 * block


def test_the_encoder_alone_and_asked_for_states_gives_everything():
    stock, fast = pair()
    inputs = losses.model_inputs(batch())
    stock.eval(), fast.eval()
    assert torch.equal(fast.bert(**inputs).last_hidden_state, stock.bert(**inputs)[0])
    states = fast(**inputs, output_hidden_states=True).hidden_states
    assert states[-1].shape == states[0].shape
    fast(**inputs)
    assert fast.bert(**inputs).last_hidden_state.shape == states[-1].shape


def test_an_error_in_the_middle_leaves_the_encoder_whole():
    _, fast = pair()
    with pytest.raises(IndexError):
        fast(input_ids=torch.full((1, 3), 10_000))
    assert fast.bert(input_ids=torch.ones(1, 3, dtype=torch.long))[0].shape[1] == 3


def test_recomputation_of_activations_gives_the_same_gradients():
    stock, fast = pair()
    fast.activation_checkpointing_enable()
    fast.train()
    gradients = []
    for model in (stock, fast):
        losses.classification()(model, batch())[0].backward()
        gradients.append(model.bert.embeddings.word_embeddings.weight.grad)
    assert torch.allclose(*gradients, atol=1e-12)


def test_other_models_stay_as_they_are():
    assert not skip_unread(tiny.model("mean"))
    assert not skip_unread(BertModel(tiny.config()))
    _, fast = pair()
    assert skip_unread(fast)  # twice is once
    assert len(fast._forward_pre_hooks) == 1


def test_load_gives_such_a_model_and_its_folder_is_an_ordinary_one(tmp_path):
    from transformers import AutoModelForSequenceClassification

    model, words = models.load("minilm", ["bad", "good"], head="first")
    assert isinstance(model.bert.encoder.layer[-1], FirstTokenLayer)
    models.save(model, words, tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    inputs = words(["one", "and a longer text"], padding=True, return_tensors="pt")
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, stock(**inputs).logits, atol=1e-5)
    again, _ = models.load(str(tmp_path))
    assert isinstance(again.bert.encoder.layer[-1], FirstTokenLayer)
