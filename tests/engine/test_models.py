"""What is trained, what is cached, and what is saved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sftkit import losses, models
from sftkit.batches import Batches, Examples, Ragged
from sftkit.errors import ModelError
from sftkit.evaluate import predict
from sftkit.fit import fit
from sftkit.models import head_features
from sftkit.models.parts import last_linear, role
from tests.engine import tiny


def trained_roles(model):
    return sorted({role(model, n) for n, p in model.named_parameters() if p.requires_grad})


@pytest.mark.parametrize("head", ["mean", "first"])
@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("all", ["block 0", "block 1", "embeddings", "head"]),
        ("head", ["head"]),
        ("top-1", ["block 1", "head"]),
        ("top-2", ["block 0", "block 1", "head"]),
        ("no-embeddings", ["block 0", "block 1", "embeddings", "head"]),
    ],
)
def test_what_is_trained(head, what, expected):
    model = tiny.model(head)
    models.set_trainable(model, what)
    assert trained_roles(model) == expected
    words = model.base_model.get_input_embeddings().weight
    assert words.requires_grad == (what == "all")


def test_unknown_choices():
    for what in ("layers", "top-", "top-3", "top--1"):
        with pytest.raises(ModelError):
            models.set_trainable(tiny.model(), what)


def test_parameter_counts_add_up():
    model = tiny.model("first")
    models.set_trainable(model, "top-1")
    rows = models.parameter_counts(model)
    assert [name for name, _, _ in rows] == ["embeddings", "block 0", "block 1", "head"]
    assert sum(n for _, n, _ in rows) == sum(p.numel() for p in model.parameters())
    assert [t > 0 for _, _, t in rows] == [False, False, True, True]


@pytest.mark.parametrize("head", ["mean", "first"])
@pytest.mark.parametrize("what", ["head", "top-1"])
def test_training_on_cached_outputs_equals_training_on_ids(head, what):
    examples = tiny.examples(20)
    examples.columns["token_type_ids"] = Ragged(
        np.zeros_like(examples.columns["input_ids"].values), examples.lengths
    )

    def train(cached):
        model = tiny.model(head)
        models.set_trainable(model, what)
        trained, data = models.cache_frozen(model, examples) if cached else (model, examples)
        state = fit(trained, Batches(data, 8), losses.classification(), epochs=2, lr=1e-2)
        return model, state

    plain, expected = train(False)
    fast, found = train(True)
    assert found.losses == pytest.approx(expected.losses, abs=1e-5)
    for a, b in zip(plain.parameters(), fast.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert np.allclose(
        predict(plain, examples).logits, predict(fast, examples).logits, atol=1e-4
    )


def test_nothing_frozen_nothing_cached():
    for what in ("all", "no-embeddings", "top-2"):
        model = tiny.model()
        models.set_trainable(model, what)
        if what == "top-2":
            continue  # embeddings alone are frozen: no block to cache
        with pytest.raises(ModelError, match="nothing to cache"):
            models.cache_frozen(model, tiny.examples(4))


def test_head_features_are_what_the_head_sees():
    model, examples = tiny.model("mean", dropout=0.5), tiny.examples(9)
    features = head_features(model, examples, 3)
    layer = last_linear(model, 3)
    logits = features @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    assert np.allclose(logits, predict(model, examples).logits, atol=1e-5)


def test_features_are_kept_and_found_again_only_for_the_same_weights_and_ids(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SFTKIT_CACHE", str(tmp_path))
    model, examples = tiny.model(), tiny.examples(9)
    first = head_features(model, examples, 3)
    runs = []
    model.encoder.register_forward_hook(lambda *_: runs.append(1))
    assert np.array_equal(head_features(model, examples, 3), first) and not runs
    head_features(model, examples.take([0, 1, 2]), 3)
    assert runs, "other examples"
    runs.clear()
    with torch.no_grad():
        model.encoder.encoder.layer[1].output.dense.bias[0] += 1e-3
    assert not np.array_equal(head_features(model, examples, 3), first) and runs
    runs.clear()
    with torch.no_grad():
        model.classifier.weight += 1  # after the features
    head_features(model, examples, 3)
    assert not runs


@pytest.mark.parametrize("classes", [2, 3])
def test_a_fitted_head_gives_scikit_learns_probabilities(classes):
    from sklearn.linear_model import LogisticRegression

    torch.manual_seed(0)
    config = tiny.config()
    config.num_labels = classes
    from transformers import BertModel

    model = models.MeanPoolClassifier(BertModel(config, add_pooling_layer=False))
    examples = tiny.examples(60)
    examples.columns["labels"] = examples.columns["labels"] % classes
    features = models.fit_head(model, examples)
    regression = LogisticRegression(max_iter=2000).fit(features, examples.columns["labels"])
    expected = regression.predict_proba(features)
    assert np.allclose(predict(model, examples).probs, expected, atol=1e-4)


def tokenizer():
    from transformers import AutoTokenizer

    from sftkit import assets

    return AutoTokenizer.from_pretrained(assets.path("minilm"))


@pytest.fixture(scope="module")
def minilm_mean():
    return models.load("minilm", ["bad", "good", "mixed"], head="mean")


def test_a_stock_head_is_an_ordinary_folder(tmp_path):
    from transformers import pipeline

    model, words = models.load("minilm", ["bad", "good"], head="first")
    models.save(model, words, tmp_path / "out")
    classify = pipeline("text-classification", model=str(tmp_path / "out"))
    (found,) = classify("A fine day.", top_k=None)[:1] or [None]
    from sftkit.evaluate import classify as ours

    (probs,) = ours(model, words, ["A fine day."])
    assert set(probs) == {"bad", "good"}
    assert found["score"] == pytest.approx(probs[found["label"]], abs=1e-5)


def test_a_mean_head_is_refused_by_transformers_and_loads_with_ours(tmp_path, minilm_mean):
    from transformers import AutoModelForSequenceClassification

    model, words = minilm_mean
    folder = models.save(model, words, tmp_path / "out")
    again, _ = models.load(str(folder))
    ids = words(
        ["One text.", "Another one, a little longer."], padding=True, return_tensors="pt"
    )
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(**ids).logits, again(**ids).logits)
    assert again.config.id2label == {0: "bad", 1: "good", 2: "mixed"}
    with pytest.raises((OSError, ValueError)):
        AutoModelForSequenceClassification.from_pretrained(folder)
    assert "transformers has no such head" in (folder / "README.md").read_text()


def test_saving_over_something_else_is_refused(tmp_path, minilm_mean):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="does not hold a model"):
        models.save(*minilm_mean, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: models.load("minilmm", ["a", "b"]), "not in the catalogue"),
        (lambda: models.load("minilm", ["a", "a"]), "different names"),
        (lambda: models.load("minilm", ["a"]), "different names"),
        (lambda: models.load("minilm", ["a", "b"], head="last"), "mean and first"),
        (lambda: models.load("minilm", ["a", "b"], train="top-9"), "6 blocks"),
    ],
)
def test_bad_requests_get_a_sentence(call, words):
    with pytest.raises(ModelError, match=words):
        call()


def test_a_broken_folder_gets_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="could not be loaded"):
        models.load(str(tmp_path), ["a", "b"])


def test_the_new_head_is_fixed_by_its_seed_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, _ = models.load("minilm", ["x", "y"], seed=1)
    assert torch.equal(torch.rand(3), expected)
    b, _ = models.load("minilm", ["x", "y"], seed=1)
    c, _ = models.load("minilm", ["x", "y"], seed=2)
    assert torch.equal(a.classifier.weight, b.classifier.weight)
    assert not torch.equal(a.classifier.weight, c.classifier.weight)


def test_padding_changes_nothing(minilm_mean):
    model, _ = minilm_mean
    generator = np.random.default_rng(0)
    lengths = np.array([5, 17, 30, 9])
    ids = Ragged(generator.integers(1000, 20000, lengths.sum()).astype(np.int32), lengths)
    examples = Examples({"input_ids": ids, "labels": np.zeros(4, dtype=np.int64)})
    alone = predict(model, examples, batch_size=1).logits
    together = predict(model, examples, batch_size=4).logits
    assert np.allclose(alone, together, atol=1e-5)
