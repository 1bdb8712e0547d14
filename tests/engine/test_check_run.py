"""Each check of a run sees the fault that it is for, and is quiet on a sound run."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from torch import nn

from sftkit import check_run, losses, models
from sftkit.batches import IGNORE, Batches, Ragged
from sftkit.errors import FitError, ParameterError
from sftkit.fit import fit
from tests.engine import tiny

STOP = 49


def run(model=None, examples=None, **options):
    examples = examples or tiny.examples(24)
    return check_run(model or tiny.model(), Batches(examples, 8), lr=1e-2, **options)


def verdict(report, check: str) -> str:
    return next(f.verdict for f in report.findings if f.check == check)


@pytest.mark.parametrize("head", ["mean", "first"])
def test_a_sound_run_has_nothing_to_look_at(head):
    model = tiny.model(head, dropout=0.1)
    report = run(model)
    assert {f.verdict for f in report.findings} == {"ok"}
    assert {"first loss", "padding", "neighbours", "one batch"} <= {
        f.check for f in report.findings
    }


def test_the_model_is_left_as_it_was():
    model = tiny.model(dropout=0.1).train()
    model.encoder.eval()
    weights = copy.deepcopy(model.state_dict())
    run(model)
    assert model.training and not model.encoder.training
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def half_precision():
    return {"model": tiny.model().bfloat16()}


def nothing_trained():
    model = tiny.model()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return {"model": model}


def nothing_supervised():
    examples = tiny.examples(24)
    examples.columns["labels"] = np.full(24, IGNORE)
    return {"examples": examples}


def label_out_of_range():
    examples = tiny.examples(24)
    examples.columns["labels"][3] = tiny.CLASSES
    return {"examples": examples}


def id_out_of_range():
    examples = tiny.examples(24)
    examples.columns["input_ids"].values[3] = 50
    return {"examples": examples}


def names_in_another_order():
    model = tiny.model()
    model.config.id2label = {0: "b", 1: "a", 2: "c"}
    return {"model": model, "labels": ["a", "b", "c"]}


def no_stop_token():
    return {"model": PerToken(), "examples": tiny.examples(24, per_token=True), "stop_id": STOP}


def randomness_in_evaluation():
    model = tiny.model()
    model.classifier.register_forward_hook(
        lambda module, args, out: nn.functional.dropout(out, 0.5, training=True)
    )
    return {"model": model}


def padding_is_read():
    model = tiny.model()
    forward = model.forward
    model.forward = lambda input_ids, attention_mask: forward(input_ids)
    return {"model": model}


def rows_leak():
    model = tiny.model()
    model.classifier.register_forward_hook(lambda module, args, out: out - out.mean(0))
    return {"model": model}


def not_a_number():
    model = tiny.model()
    model.classifier.bias.data[:] = float("nan")
    return {"model": model}


class PerToken(nn.Module):
    """Logits per token, from the token alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 50)

    def forward(self, input_ids, attention_mask=None):
        from transformers.modeling_outputs import TokenClassifierOutput

        return TokenClassifierOutput(logits=self.table(input_ids))


WRONG = {
    half_precision: ("precision", "are kept in bfloat16"),
    nothing_trained: ("precision", "no parameter is trained"),
    nothing_supervised: ("labels", "no row is supervised"),
    label_out_of_range: ("labels", "labels run from 0 to 3, but the model has 3 outputs"),
    id_out_of_range: ("ids", "token ids run from 5 to 50, but the model knows 50"),
    names_in_another_order: ("names", "the model's classes are ['b', 'a', 'c']"),
    no_stop_token: ("stop", "would never learn to stop"),
    randomness_in_evaluation: ("repeats", "something is random"),
    padding_is_read: ("padding", "is the mask used?"),
    rows_leak: ("neighbours", "rows leak"),
    not_a_number: ("first loss", "the loss before training is nan"),
}


@pytest.mark.parametrize("broken", WRONG, ids=lambda f: f.__name__)
def test_what_is_certainly_wrong_is_refused(broken):
    check, words = WRONG[broken]
    with pytest.raises(FitError) as caught:
        run(**broken())
    assert words in str(caught.value) and f"override=['{check}'" in str(caught.value)


def test_a_refusal_can_be_overridden_by_name():
    report = run(**rows_leak(), override=["neighbours", "padding", "repeats"])
    assert verdict(report, "neighbours") == "overridden"
    with pytest.raises(ParameterError, match="no such check"):
        run(override=["neighbors"])


def a_large_head():
    model = tiny.model()
    model.classifier.weight.data *= 300
    return {"model": model}


def a_rate_that_is_too_small():
    return {"lr": 1e-9}


def many_rows_cut():
    examples = tiny.examples(24)
    examples.columns["cut"] = np.arange(24) % 2 == 0
    return {"examples": examples}


def some_rows_unsupervised():
    examples = tiny.examples(24)
    examples.columns["labels"][[3, 5]] = IGNORE
    return {"examples": examples}


def some_without_stop():
    examples = tiny.examples(24, per_token=True)
    column = examples.columns["labels"]
    column.values[column.starts[1:] - 1] = STOP
    column.values[column.starts[3] - 1] = 7
    return {"model": PerToken(), "examples": examples, "stop_id": STOP, "overfit_steps": 0}


def names_unsorted():
    model = tiny.model()
    model.config.id2label = {0: "b", 1: "a", 2: "c"}
    return {"model": model, "labels": ["b", "a", "c"]}


def an_unused_part():
    model = tiny.model()
    model.spare = nn.Linear(3, 3)
    return {"model": model}


def copies_across_splits():
    def split(*texts):
        return Dataset.from_dict({"text": list(texts), "label": [0] * len(texts)})

    same = "the very same sentence about a delayed flight"
    corpus = DatasetDict(train=split(same, "another one entirely"), test=split(same))
    return {"corpus": corpus}


LOOK = {
    a_large_head: ("first loss", "The head starts too large"),
    a_rate_that_is_too_small: ("one batch", "is lr=1e-09 right?"),
    many_rows_cut: ("cut", "cuts 50.0% of the rows"),
    some_rows_unsupervised: ("labels", "2 rows have no supervised label (rows 3, 5)"),
    some_without_stop: ("stop", "1 rows (4.2%) do not end with the stop token"),
    names_unsorted: ("names", "not sorted"),
    an_unused_part: ("gradients", "2 trained parameters get no gradient, as spare.weight"),
    copies_across_splits: ("splits", "1 of test in train"),
}


@pytest.mark.parametrize("doubtful", LOOK, ids=lambda f: f.__name__)
def test_what_is_doubtful_is_shown(doubtful):
    check, words = LOOK[doubtful]
    options = doubtful()
    if "lr" in options:
        report = check_run(tiny.model(), Batches(tiny.examples(24), 8), **options)
    else:
        report = run(**options)
    found = next(f for f in report.findings if f.check == check and f.verdict == "look")
    assert words in found.message
    assert [f.check for f in report.findings if f.verdict == "look"] == [check]


def test_the_report_reads_as_text_and_as_an_escaped_table():
    model = tiny.model()
    model.config.id2label = {0: "c", 1: "<b>", 2: "a"}
    report = run(model, labels=["c", "<b>", "a"])
    text = repr(report)
    assert text.splitlines()[2].startswith("! look") and "✓ ok" in text
    page = report.table()._repr_html_()
    assert "&lt;b&gt;" in page and "<b>" not in page


def test_a_run_that_passes_can_be_trained():
    model, examples = tiny.model(), tiny.examples(24)
    batches = Batches(examples, 8)
    check_run(model, batches, losses.classification(), lr=1e-2)
    assert fit(model, batches, losses.classification(), epochs=1, lr=1e-2).step == 3


def test_a_row_without_any_token_label_is_named():
    examples = tiny.examples(4, per_token=True)
    column = examples.columns["labels"]
    column.values[column.starts[2] : column.starts[3]] = IGNORE
    assert isinstance(column, Ragged)
    report = run(PerToken(), examples)
    found = next(f for f in report.findings if f.check == "labels" and f.verdict == "look")
    assert "(rows 2)" in found.message


def test_cached_features_and_real_models_pass():
    model, words = models.load("minilm", ["bad", "good"])
    from sftkit import encode
    from sftkit.batches import Examples

    data = DatasetDict(
        train=Dataset.from_dict(
            {"text": ["a bad film", "a good and long film"] * 4, "label": [0, 1] * 4}
        )
    )
    encoded = encode.classification(data, words, 16)["train"]
    examples = Examples.of(encoded, words.pad_token_id)
    report = check_run(model, Batches(examples, 4), labels=["bad", "good"], overfit_steps=3)
    assert not report.wrong and verdict(report, "padding") == "ok"
    models.set_trainable(model, "head")
    top, cached = models.cache_frozen(model, examples)
    assert not check_run(top, Batches(cached, 4), overfit_steps=3).wrong
