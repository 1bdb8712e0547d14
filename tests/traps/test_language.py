"""Traps of language models: 2, 6 and 13."""

from __future__ import annotations

import pytest
import torch

from sftkit import losses, losses_chunked, losses_lm
from sftkit.batches import Batches, Examples, Ragged
from sftkit.errors import ModelError
from sftkit.fit import fit
from sftkit.models import blocks
from sftkit.models.decoder import Decoder
from sftkit.packing import PackedBatches
from tests.engine import tiny_chat
from tests.traps.test_training import sees

# -- trap 2: the denominator counts labels before the shift ------------------------------------


def every_grouping_gives_one_loss_and_one_gradient(loss):
    """Every token is labelled, as transformers' collator does it: the first as well."""
    examples = tiny_chat.examples(8)
    ids = examples.columns["input_ids"]
    examples = Examples(examples.columns | {"labels": Ragged(ids.values, ids.lengths)})
    groupings = [Batches(examples, 8, micro_batch_size=size) for size in (1, 2, 4, 8)]
    groupings.append(PackedBatches(examples, 8, row_tokens=20))
    found = []
    for batches in groupings:
        state = fit(tiny_chat.decoder(), batches, loss, max_steps=1, precision="fp32")
        found.append([state.history[0][name] for name in ("loss", "gradient_norm")])
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-9), found


@pytest.mark.parametrize("module", [losses_lm, losses_chunked])
def test_trap_2(module):
    whole = module.causal_lm()
    every_grouping_gives_one_loss_and_one_gradient(whole)

    def counted_before_the_shift(model, batch):
        loss_sum, _ = whole(model, batch)
        return loss_sum, losses_lm.supervised(batch["labels"]).sum()

    sees(lambda: every_grouping_gives_one_loss_and_one_gradient(counted_before_the_shift))


# -- trap 6: packed examples see each other ----------------------------------------------------


def packed_batch(rows: int = 1):
    batches = PackedBatches(tiny_chat.examples(12), 12, row_tokens=30, rows=rows, seed=3)
    return next(batches.epoch(0))[0]


def logits_of(model, batch):
    with torch.no_grad():
        return model(**losses_lm.causal_inputs(model, batch)).logits


def a_document_is_as_if_alone(model):
    batch = packed_batch(rows=2)
    together = logits_of(model, batch)
    for row in range(2):
        for number in range(int(batch["document"][row].max()) + 1):
            here = batch["document"][row] == number
            with torch.no_grad():
                alone = model(batch["input_ids"][row : row + 1, here]).logits[0]
            error = (together[row, here] - alone).abs().max()
            assert error < 1e-5, f"document {number} of row {row}: {error:.2g}"


def a_document_does_not_feel_another(model):
    batch = packed_batch()
    first, second = (batch["document"][0] == number for number in (0, 1))
    before = logits_of(model, batch)[0]
    ids = batch["input_ids"].clone()
    ids[0, first] = (ids[0, first] + 1) % 50
    after = logits_of(model, batch | {"input_ids": ids})[0]
    assert (before[first] - after[first]).abs().max() > 1e-3, "nothing was changed"
    moved = (before[second] - after[second]).abs().max()
    assert moved < 1e-9, f"document 1 moved by {moved:.2g} when document 0 changed"


PROBES = [a_document_is_as_if_alone, a_document_does_not_feel_another]


@pytest.mark.parametrize("probe", PROBES, ids=lambda f: f.__name__)
def test_trap_6(monkeypatch, probe):
    """Positions restart in the broken variant too: they alone isolate nothing."""
    probe(tiny_chat.decoder())
    monkeypatch.setattr(
        blocks,
        "attend_by_document",
        tiny_chat.attend_across_documents,
    )
    sees(lambda: probe(tiny_chat.decoder()))


@pytest.mark.parametrize("probe", PROBES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_trap_6_in_transformers(monkeypatch, probe, attention):
    model = tiny_chat.llama().eval()
    model.set_attn_implementation(attention)
    probe(model)
    # The broken variant: ids, restarting positions and a mask of ones, as many trainers do.
    monkeypatch.setattr(losses_lm, "causal_inputs", lambda _, batch: losses.model_inputs(batch))
    sees(lambda: probe(model))


# -- trap 13: padding on the left --------------------------------------------------------------


def padding_on_the_left_changes_nothing_or_is_refused(model):
    ids = torch.tensor([[7, 7, 7, 11, 12, 13], [21, 22, 23, 24, 25, 26]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    try:
        together = model(ids, mask).logits
    except ModelError:
        # With documents it is allowed, and right.
        together = model(ids, mask, document=mask - 1).logits
    error = (together[0, 3:] - model(ids[:1, 3:]).logits[0]).abs().max()
    assert error < 1e-5, f"{error:.2g}"


def test_trap_13(monkeypatch):
    padding_on_the_left_changes_nothing_or_is_refused(tiny_chat.decoder())
    forward = Decoder.forward
    monkeypatch.setattr(
        Decoder, "forward", lambda self, ids, mask=None, **more: forward(self, ids, **more)
    )
    sees(lambda: padding_on_the_left_changes_nothing_or_is_refused(tiny_chat.decoder()))
