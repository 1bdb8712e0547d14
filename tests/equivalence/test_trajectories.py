"""Grouping, layout, recomputation and where logits are computed do not change a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import CheckpointError

from sftkit import losses, losses_chunked, losses_lm, losses_seq2seq
from sftkit.batches import IGNORE, Batches, Examples, Ragged
from sftkit.batches_lm import MaskedBatches
from sftkit.models import dropout as dropouts
from sftkit.models.encoder import Encoder, EncoderConfig
from sftkit.packing import PackedBatches
from tests.engine import tiny, tiny_chat, tiny_pairs
from tests.equivalence import OPTIONS, Trajectory, agree, flat, train

ROWS = 22  # in steps of 8: the last step of an epoch has 6


def encoder():
    torch.manual_seed(0)
    model = Encoder(EncoderConfig(50, 16, 2, 2, 32, 40, dropout=0.0), "mlm").double()
    return model


def masked(size: int, **options) -> MaskedBatches:
    """Every token but the first and last of a row may be hidden."""
    examples = tiny.examples(ROWS)
    ids = examples.columns["input_ids"]
    labels = ids.values.copy()
    labels[ids.starts[:-1]] = IGNORE
    known = {"labels": Ragged(labels, ids.lengths)}
    return MaskedBatches(
        Examples(examples.columns | known), size, mask_id=1, tokens=(5, 50), rate=0.4, **options
    )


def classified(size: int, **options) -> Batches:
    return Batches(tiny.examples(ROWS), size, **options)


def continued(size: int, **options) -> Batches:
    return Batches(tiny_chat.examples(ROWS), size, **options)


def translated(size: int, **options) -> Batches:
    return Batches(tiny_pairs.examples(ROWS), size, **options)


TASKS = {
    "BERT": (lambda: tiny.model("first").double(), classified, losses.classification()),
    "encoder": (encoder, masked, losses_lm.masked_lm()),
    "decoder": (tiny_chat.decoder, continued, losses_chunked.causal_lm()),
    "Llama": (tiny_chat.llama, continued, losses_chunked.causal_lm(3)),
    "encoder-decoder": (tiny_pairs.model, translated, losses_seq2seq.sequence_to_sequence(0.1)),
}


@pytest.mark.parametrize("task", TASKS)
def test_8x1_4x2_2x4_1x8(task):
    make, batches, loss = TASKS[task]
    whole = train(make(), batches(8), loss)
    for micro in (1, 2, 4):
        found = train(make(), batches(8, micro_batch_size=micro), loss)
        agree(f"{task}, micro-batches of {micro}", found, whole)


class Unsorted(Batches):
    """The same examples in every step, but in no order of length."""

    def order(self, epoch):
        generator = np.random.default_rng([99, epoch])
        return [generator.permutation(rows) for rows in super().order(epoch)]


class Fixed(Examples):
    """Every row padded to the same length, as tutorials do it."""

    def batch(self, rows):
        batch = super().batch(rows)
        for name, fill in (
            ("input_ids", self.pad_id),
            ("attention_mask", 0),
            ("labels", IGNORE),
        ):
            if batch[name].ndim == 2:
                missing = 20 - batch[name].shape[1]
                batch[name] = functional.pad(batch[name], (0, missing), value=fill)
        return batch


@pytest.mark.parametrize("task", ["BERT", "decoder", "Llama", "encoder-decoder"])
def test_padded_and_bucketed(task):
    make, batches, loss = TASKS[task]
    examples = batches(8).examples
    bucketed = train(make(), Batches(examples, 8, micro_batch_size=2), loss)
    padded = train(make(), Unsorted(examples, 8, micro_batch_size=3), loss)
    agree(f"{task}, padded and bucketed", padded, bucketed)
    fixed = train(make(), Batches(Fixed(examples.columns), 8), loss)
    agree(f"{task}, padded to one length", fixed, bucketed)


@pytest.mark.parametrize("task", ["decoder", "Llama"])
@pytest.mark.parametrize(("row_tokens", "rows"), [(13, 1), (40, 1), (30, 3), (200, 1)])
def test_packed(task, row_tokens, rows):
    make, batches, loss = TASKS[task]
    padded = train(make(), batches(8), loss)
    packed = PackedBatches(
        tiny_chat.examples(ROWS), 8, row_tokens=row_tokens, rows=rows, by_length=True
    )
    agree(f"{task}, {rows} rows of {row_tokens}", train(make(), packed, loss), padded)


def recomputing_changes_nothing(monkeypatch, make, blocks, task, dropout):
    """With dropout too: what is computed again must draw the same numbers.

    ``make`` gives a model, recomputing or not, and ``blocks`` those that are recomputed.
    """

    def run(recompute):
        model, (_, batches, loss) = make(recompute), TASKS[task]
        for block in blocks(model):
            block.register_forward_pre_hook(lambda *_: inside.append(True))
            block.register_forward_hook(lambda *_: inside.clear())
        return train(model, batches(8), loss)

    inside: list[bool] = []
    found = run(True)
    inside.clear()  # the last recomputation stops as soon as it has what it needs
    # Without recomputation, but with torch's own dropout in the blocks, and ours elsewhere.
    monkeypatch.setattr(dropouts, "computed_again", lambda: bool(inside))
    expected = run(False)
    agree(f"{task} recomputed, dropout {dropout}", found, expected)
    if dropout:  # the broken variant: ours in the blocks too, where it cannot be drawn again
        monkeypatch.setattr(dropouts, "computed_again", lambda: False)
        with pytest.raises((AssertionError, CheckpointError)):
            agree("broken", run(True), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_activations_of_bert(monkeypatch, dropout, reentrant):
    def make(recompute):
        model = tiny.model("first", dropout).double()
        if recompute:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        return model

    def blocks(model):
        return model.bert.encoder.layer

    recomputing_changes_nothing(monkeypatch, make, blocks, "BERT", dropout)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_of_our_encoder_decoder(monkeypatch, dropout):
    def make(recompute):
        model = tiny_pairs.model(dropout=dropout)
        if recompute:
            model.activation_checkpointing_enable()
        return model

    def blocks(model):
        return [*model.encoder.blocks, *model.decoder.blocks]

    recomputing_changes_nothing(monkeypatch, make, blocks, "encoder-decoder", dropout)


def test_recomputed_activations_of_llama():
    def run(recompute):
        model = tiny_chat.llama()
        if recompute:
            model.activation_checkpointing_enable()
        packed = PackedBatches(tiny_chat.examples(ROWS), 8, row_tokens=40)
        return train(model, packed, losses_chunked.causal_lm())

    agree("Llama recomputed", run(True), run(False))


@pytest.mark.parametrize("task", ["decoder", "Llama"])
def test_logits_everywhere_where_supervised_and_in_chunks(task):
    make, batches, _ = TASKS[task]
    everywhere = train(make(), batches(8), losses_lm.causal_lm())
    for chunk in (None, 1, 5):
        found = train(make(), batches(8), losses_chunked.causal_lm(chunk))
        agree(f"{task}, chunk {chunk}", found, everywhere)


def test_masked_logits_everywhere_and_where_supervised(monkeypatch):
    some = train(encoder(), masked(8), losses_lm.masked_lm())
    monkeypatch.setattr(Encoder, "takes_places", False)
    agree("encoder, logits", some, train(encoder(), masked(8), losses_lm.masked_lm()))


def test_our_decoder_and_transformers_llama(tmp_path):
    """Two implementations of the model, one loop."""
    from sftkit.models.decoder import Decoder

    theirs = tiny_chat.llama().float()
    theirs.save_pretrained(tmp_path)
    theirs.double()
    ours = Decoder.from_llama(tmp_path).double().train()
    loss = losses_lm.causal_lm()
    found, expected = train(ours, continued(8), loss), train(theirs, continued(8), loss)
    # The parameters come in another order; their sums of squares do not depend on it.
    sizes = [np.array([(t.weights**2).sum()]) for t in (found, expected)]
    agree(
        "our decoder and Llama",
        Trajectory(found.losses, found.norms, sizes[0]),
        Trajectory(expected.losses, expected.norms, sizes[1]),
        largest=1e-5,  # transformers' norms compute in float32 whatever the model's type
        drift=1e-7,
    )


def test_a_hand_loop():
    """Twelve lines of torch, one row at a time, and our loop with everything that it has."""
    examples, batches = tiny_chat.examples(ROWS), continued(8)
    model, seen = tiny_chat.decoder(), []
    vectors = [p for p in model.parameters() if p.ndim == 1]
    matrices = [p for p in model.parameters() if p.ndim == 2]
    groups = [
        {"params": matrices, "weight_decay": 0.01},
        {"params": vectors, "weight_decay": 0},
    ]
    optimizer, steps, warm = torch.optim.AdamW(groups, lr=1e-2), 6, 2
    for step in range(steps):
        rows = [examples.batch([i]) for i in batches.order(step // 3)[step % 3]]
        logits = [model(row["input_ids"]).logits[0, :-1] for row in rows]
        labels = torch.cat([row["labels"][0, 1:] for row in rows])
        loss = functional.cross_entropy(torch.cat(logits), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = (step + 1) / (warm + 1) if step < warm else 1 - (step - warm) / (steps - warm)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * factor
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
    hand = Trajectory(np.array(seen), np.array([]), flat(model))
    packed = PackedBatches(examples, 8, row_tokens=30, by_length=True)
    ours = train(tiny_chat.decoder(), packed, losses_chunked.causal_lm(4))
    agree("hand loop", ours, hand)


def test_a_hand_loop_for_the_encoder_decoder():
    """Twelve lines of torch, one pair at a time without padding, and our loop."""
    examples, batches = tiny_pairs.examples(ROWS), translated(8)
    model, seen = tiny_pairs.model(), []
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": vectors, "weight_decay": 0}]
    groups += [{"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": 0.01}]
    optimizer, steps, warm = torch.optim.AdamW(groups, lr=1e-2), 6, 2
    for step in range(steps):
        rows = [examples.batch([i]) for i in batches.order(step // 3)[step % 3]]
        begin = torch.tensor([[tiny_pairs.BEGIN]])
        given = [torch.cat([begin, row["labels"][:, :-1]], dim=1) for row in rows]
        pairs = zip(rows, given, strict=True)
        logits = [model(row["input_ids"], None, ids).logits[0] for row, ids in pairs]
        labels = torch.cat([row["labels"][0] for row in rows])
        loss = functional.cross_entropy(torch.cat(logits), labels, label_smoothing=0.1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = (step + 1) / (warm + 1) if step < warm else 1 - (step - warm) / (steps - warm)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * factor
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
    hand = Trajectory(np.array(seen), np.array([]), flat(model))
    make, _, loss = TASKS["encoder-decoder"]
    agree("hand loop, pairs", train(make(), translated(8, micro_batch_size=3), loss), hand)


def test_the_comparison_sees_what_it_should():
    """Broken variants: a mean of means, a rate that is off by a millionth, one row twice."""
    make, batches, loss = TASKS["decoder"]
    whole = train(make(), batches(8), loss)

    def mean_first(model, batch):
        loss_sum, n = loss(model, batch)
        return loss_sum / n, torch.ones(())

    class Twice(Batches):
        def order(self, epoch):
            return [np.append(rows[:-1], rows[0]) for rows in super().order(epoch)]

    for found in (
        train(make(), batches(8, micro_batch_size=2), mean_first),
        train(make(), batches(8), loss, lr=OPTIONS["lr"] * (1 + 1e-6)),
        train(make(), Twice(batches(8).examples, 8), loss),
    ):
        with pytest.raises(AssertionError, match="mean drift"):
            agree("broken", found, whole)
