"""check_run on tasks whose labels are not one class per row: packed texts, pairs, spans."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from sftkit import check_run, losses_chunked, losses_lm, losses_seq2seq, losses_spans
from sftkit.batches import IGNORE, Batches, Examples
from sftkit.errors import FitError
from sftkit.models import blocks
from sftkit.packing import PackedBatches
from tests.engine import test_losses_spans, tiny_chat, tiny_pairs


def verdicts(report) -> dict[str, str]:
    return {finding.check: finding.verdict for finding in report.findings}


# -- first tokens and the shift ---------------------------------------------------------------


def not_shifted(model, batch):
    logits = model(**losses_lm.model_inputs(batch)).logits
    return losses_lm.cross_entropy(logits, batch["labels"])


def shifted_twice(model, batch):
    early = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
    return losses_lm.causal_lm()(model, batch | {"labels": early})


class LooksAhead(nn.Module):
    """Every place sees the mean of all tokens of its row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.output = nn.Embedding(50, 8), nn.Linear(8, 50)

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids, attention_mask=None):
        from sftkit.models.blocks import Output

        hidden = self.table(input_ids)
        mask = torch.ones(hidden.shape[:2]) if attention_mask is None else attention_mask
        seen = (hidden * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        hidden = hidden + seen
        return Output(hidden, self.output(hidden))


def chat_batches():
    return Batches(tiny_chat.examples(12), 4)


@pytest.mark.parametrize("make", [tiny_chat.decoder, tiny_chat.llama])
@pytest.mark.parametrize("loss", [losses_lm.causal_lm(), losses_chunked.causal_lm()])
def test_labels_that_are_shifted_once_pass(make, loss):
    report = check_run(make(), chat_batches(), loss, lr=1e-3, overfit_steps=0)
    assert verdicts(report)["shift"] == "ok"


@pytest.mark.parametrize(
    ("make", "loss", "words"),
    [
        (tiny_chat.llama, not_shifted, "from itself"),
        (tiny_chat.llama, shifted_twice, "shifted twice"),
        (LooksAhead, losses_lm.causal_lm(), "looking ahead"),
    ],
)
def test_labels_that_are_shifted_wrongly_are_refused(make, loss, words):
    with pytest.raises(FitError, match=f"shift: .*{words}"):
        check_run(make(), chat_batches(), loss, lr=1e-3, overfit_steps=0)


def test_tags_and_hidden_tokens_are_not_taken_for_shifted_text():
    tags = tiny_chat.examples(12)
    tags.columns["labels"].values[:] = 3
    report = check_run(tiny_chat.llama(), Batches(tags, 4), not_shifted, overfit_steps=0)
    assert "shift" not in verdicts(report)


@pytest.mark.parametrize(("begin", "verdict"), [([1, 1], "look"), ([1], "ok"), ([], None)])
def test_a_doubled_first_token_is_seen(begin, verdict):
    rows = [begin + [5 + i, 9, 7, 8] for i in range(8)]
    batches = Batches(Examples.of_tokens(rows), 4)
    report = check_run(tiny_chat.llama(), batches, losses_lm.causal_lm(), overfit_steps=0)
    assert verdicts(report).get("begin") == verdict


# -- packed rows ------------------------------------------------------------------------------


def packed(rows=12, row_tokens=30):
    return PackedBatches(tiny_chat.examples(rows), rows, row_tokens=row_tokens)


class Summed(nn.Module):
    """A causal model of the reader's own, which does not say where its embeddings are.

    The hidden state is the sum of the tokens before, of all of them or of its document's own.
    """

    takes_documents = True

    def __init__(self, apart: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.output, self.apart = nn.Embedding(50, 8), nn.Linear(8, 50), apart

    def forward(self, input_ids, attention_mask=None, document=None, position_ids=None):
        from sftkit.models.blocks import Output

        mask = torch.ones(input_ids.shape[1], input_ids.shape[1]).tril().bool()
        if document is not None and self.apart:
            mask = losses_lm.document_mask(document)[:, 0]
        hidden = mask.float() @ self.table(input_ids)
        return Output(hidden, self.output(hidden))


@pytest.mark.parametrize("make", [tiny_chat.decoder, tiny_chat.llama, lambda: Summed(True)])
def test_packed_documents_that_are_apart_pass(make):
    report = check_run(make(), packed(), losses_lm.causal_lm(), lr=1e-3, overfit_steps=0)
    assert verdicts(report)["packing"] == "ok"


def decoder_that_ignores_documents(monkeypatch):
    """Positions restart in each document, and attention goes over all of the row."""
    monkeypatch.setattr(
        blocks,
        "attend_by_document",
        tiny_chat.attend_across_documents,
    )
    return tiny_chat.decoder(), losses_chunked.causal_lm()


def loss_that_drops_the_mask(monkeypatch):
    """What a loop does that knows input_ids, attention_mask and position_ids."""

    def loss(model, batch):
        inputs = {k: v for k, v in losses_lm.model_inputs(batch).items() if k != "document"}
        pairs = losses_lm.next_token(model(**inputs).logits, batch["labels"])
        return losses_lm.cross_entropy(*pairs)

    return tiny_chat.llama(), loss


def own_model_that_ignores_documents(monkeypatch):
    return Summed(False), losses_lm.causal_lm()


LEAKS = [
    decoder_that_ignores_documents,
    loss_that_drops_the_mask,
    own_model_that_ignores_documents,
]


@pytest.mark.parametrize("broken", LEAKS, ids=lambda f: f.__name__)
def test_packed_documents_that_see_each_other_are_refused(monkeypatch, broken):
    model, loss = broken(monkeypatch)
    with pytest.raises(FitError, match=r"packed documents see each other: 0\.\d+"):
        check_run(model, packed(), loss, lr=1e-3, overfit_steps=0)
    unpacked = Batches(tiny_chat.examples(12), 12)
    assert "packing" not in verdicts(check_run(model, unpacked, loss, lr=1e-3, overfit_steps=0))


def test_rows_of_one_document_prove_nothing_and_say_so():
    one = PackedBatches(tiny_chat.examples(4), 1, row_tokens=30)
    report = check_run(tiny_chat.decoder(), one, losses_lm.causal_lm(), overfit_steps=0)
    (found,) = [f for f in report.findings if f.check == "packing"]
    assert found.verdict == "look" and "nothing was compared" in found.message


# -- pairs and spans --------------------------------------------------------------------------


def test_a_sound_encoder_decoder_passes():
    model = tiny_pairs.model(dropout=0.1)
    with torch.no_grad():
        model.embeddings.weight *= 0.2  # as a fresh model guesses
    batches = Batches(tiny_pairs.examples(24), 8)
    report = check_run(
        model, batches, losses_seq2seq.sequence_to_sequence(), stop_id=tiny_pairs.STOP, lr=1e-2
    )
    assert {f.verdict for f in report.findings} == {"ok"}
    assert {"padding", "neighbours", "stop", "one batch"} <= set(verdicts(report))


def test_a_broken_encoder_decoder_is_refused():
    batches = Batches(tiny_pairs.examples(24), 8)
    loss = losses_seq2seq.sequence_to_sequence()
    model = tiny_pairs.model()
    read = model.read
    model.read = lambda ids, mask=None: read(ids)  # padding is read
    with pytest.raises(FitError, match="is the mask used"):
        check_run(model, batches, loss, overfit_steps=0)
    silent = tiny_pairs.examples(24)
    column = silent.columns["labels"]
    column.values[column.starts[1:] - 1] = 7  # no target ends with the stop token
    with pytest.raises(FitError, match="would never learn to stop"):
        check_run(
            tiny_pairs.model(), Batches(silent, 8), loss, stop_id=tiny_pairs.STOP,
            overfit_steps=0,
        )  # fmt: skip
    wide = tiny_pairs.examples(24)
    wide.columns["labels"].values[3] = 50
    with pytest.raises(FitError, match="labels run from 2 to 50, but the model has 50 outputs"):
        check_run(tiny_pairs.model(), Batches(wide, 8), loss)


def test_a_sound_model_of_spans_passes():
    batches = Batches(test_losses_spans.questions(), 8)
    report = check_run(test_losses_spans.model(), batches, losses_spans.extractive(), lr=1e-2)
    assert not report.wrong and verdicts(report)["padding"] == "ok"
    assert verdicts(report)["first loss"] == "ok" and verdicts(report)["one batch"] == "ok"


def test_places_outside_their_rows_are_refused():
    examples = test_losses_spans.questions()
    column = examples.columns["labels"]
    column.values[7] = examples.lengths[3]  # the end of row 3
    with pytest.raises(FitError, match=r"row 3 has the places \[\d+, \d+\], outside it"):
        check_run(test_losses_spans.model(), Batches(examples, 8), losses_spans.extractive())
