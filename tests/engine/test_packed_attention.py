"""Packed rows in transformers' models: attention by document, with the result of a mask."""

from __future__ import annotations

import pytest
import torch

from sftkit import losses_chunked, losses_lm, packed_attention
from sftkit.models import lora
from sftkit.packing import PackedBatches
from tests.engine import tiny_chat
from tests.traps.test_training import sees


def packed_batch(rows: int = 2):
    batches = PackedBatches(tiny_chat.examples(12), 12, row_tokens=40, rows=rows)
    return next(batches.epoch(0))[0]


def gradients(model, loss):
    model.zero_grad()
    loss_sum, n = loss(model, packed_batch())
    (loss_sum / n).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    return [loss_sum.detach(), *(p.grad.clone() for p in trained)]


def the_gradients_are_those_of_a_mask(model):
    expected = gradients(model, losses_lm.causal_lm())
    found = gradients(model, losses_chunked.causal_lm())
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.fixture
def calls(monkeypatch):
    """How often attention by document was asked for."""
    made, attend = [], packed_attention.attend_by_document
    monkeypatch.setattr(
        packed_attention,
        "attend_by_document",
        lambda *given: made.append(given) or attend(*given),
    )
    return made


def with_adapters():
    model = tiny_chat.llama()
    lora.add(model, ["q_proj", "v_proj"], rank=2)
    return model


@pytest.mark.parametrize("make", [tiny_chat.llama, with_adapters])
def test_it_is_used_and_has_the_gradients_of_a_mask(make, calls):
    model = make()
    the_gradients_are_those_of_a_mask(model)
    assert len(calls) == model.config.num_hidden_layers
    assert model.config._attn_implementation == "sdpa"


def test_documents_that_are_not_kept_apart_are_seen(monkeypatch):
    monkeypatch.setattr(
        packed_attention,
        "attend_by_document",
        tiny_chat.attend_across_documents,
    )
    sees(lambda: the_gradients_are_those_of_a_mask(tiny_chat.llama()))


def eager(model):
    model.set_attn_implementation("eager")


def checkpointed(model):
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()


def with_dropout(model):
    model.config.attention_dropout = 0.1
    model.train()


@pytest.mark.parametrize("change", [eager, checkpointed, with_dropout])
def test_elsewhere_the_mask_is_used(change, calls):
    model = tiny_chat.llama()
    change(model)
    if change is not with_dropout:  # whose losses are random
        the_gradients_are_those_of_a_mask(model)
    assert not packed_attention.possible(model) and not calls


def test_the_models_own_attention_is_back_after_an_error():
    model = tiny_chat.llama()
    with (
        pytest.raises(ZeroDivisionError),
        packed_attention.by_document(model, torch.zeros(1, 3)),
    ):
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"
    assert packed_attention.NAME not in str(model.config.to_dict())
