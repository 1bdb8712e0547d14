"""Encoding, the conditional random field, taggers, entity F1; broken variants beside them."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

from sftkit import assets, encode_tags, models
from sftkit.batches import Batches, Examples
from sftkit.corpora import redaction, spans, tagged
from sftkit.encode_lm import char_tokenizer
from sftkit.errors import EncodeError, ModelError, ParameterError
from sftkit.evaluate import tagging
from sftkit.fit import fit
from sftkit.losses_tags import tagging as tag_loss
from sftkit.models import feature_crf
from sftkit.models.crf import LinearChainCrf, forbidden_pairs, supervised_first, viterbi
from sftkit.models.encoder import EncoderConfig
from sftkit.models.load_tags import character_model, load_tagger, new_encoder
from sftkit.models.tagger import Tagger, TaggerConfig, tagger_from

NAMES = spans.tag_names(["LOC", "PER"])
LETTERS = char_tokenizer(list("abcdefghijklmnopqrstuvwxyz .王明北京"), 64)


def data_of(*sentences):
    rows = {"tokens": [list(t) for t, _ in sentences], "tags": [list(g) for _, g in sentences]}
    return DatasetDict(train=Dataset.from_dict(rows))


@pytest.fixture(scope="module")
def wordpiece():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(assets.path("minilm")))


# -- encoding -------------------------------------------------------------------------------


def by_word_ids(tokenizer, sentence, numbers):
    """Another way to the same: all words at once, and the tokenizer's own alignment."""
    whole = tokenizer(sentence, is_split_into_words=True)
    words = whole.word_ids()
    labels = [-100 if w is None or w in words[:i] else numbers[w] for i, w in enumerate(words)]
    return whole["input_ids"], labels


def test_ids_and_labels_agree_with_the_tokenizers_own_alignment(wordpiece) -> None:
    names = spans.tag_names(redaction.types())
    number = {name: i for i, name in enumerate(names)}
    for split in ("train", "validation", "test"):
        some = redaction.sentences(split, 80, seed=3)
        part = DatasetDict(some=tagged.from_sentences(some))
        encoded = encode_tags.tags(part, wordpiece, names)["some"]
        for row, sentence in zip(encoded, some, strict=True):
            expected = by_word_ids(
                wordpiece, sentence.tokens, [number[t] for t in sentence.tags]
            )
            assert (row["input_ids"], row["labels"]) == expected


def test_labels_by_position_are_caught(wordpiece, monkeypatch) -> None:
    """The broken variant: one label per token, as if every word were one piece."""

    def broken(sentences, tokenizer):
        pieces = pieces_before(sentences, tokenizer)
        return {word: ids[:1] for word, ids in pieces.items()}

    pieces_before = encode_tags._pieces
    monkeypatch.setattr(encode_tags, "_pieces", broken)
    with pytest.raises(AssertionError):
        test_ids_and_labels_agree_with_the_tokenizers_own_alignment(wordpiece)


def test_all_pieces_continue_the_span(wordpiece) -> None:
    data = data_of((["Okonkwo", "left"], ["B-PER", "O"]))
    (row,) = encode_tags.tags(data, wordpiece, NAMES, label="all")["train"]
    named = [NAMES[x] for x in row["labels"] if x != -100]
    assert named[0] == "B-PER" and set(named[1:-1]) == {"I-PER"} and named[-1] == "O"
    assert len(named) == len(row["input_ids"]) - 2 > 3


def test_a_word_that_the_tokenizer_drops_keeps_its_label(wordpiece) -> None:
    data = data_of((["Ann", "\u200b", "left"], ["B-PER", "I-PER", "O"]))
    (row,) = encode_tags.tags(data, wordpiece, NAMES)["train"]
    assert [x for x in row["labels"] if x != -100] == [
        NAMES.index(t) for t in data["train"][0]["tags"]
    ]
    assert wordpiece.unk_token_id in row["input_ids"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=60),
    st.integers(6, 30),
    st.integers(0, 5),
)
def test_every_word_is_labelled_once_and_read_with_its_neighbours(
    lengths, room, shared
) -> None:
    cut = encode_tags.windows(lengths, room, shared)
    labelled = [word for _, _, low, high in cut for word in range(low, high)]
    assert labelled == list(range(len(lengths)))
    for start, end, low, high in cut:
        assert start <= low <= high <= end and sum(lengths[start:end]) <= room
    for before, after in itertools.pairwise(cut):
        assert sum(lengths[after[0] : before[1]]) <= shared and before[0] < after[0]


def test_long_sentences_come_back_whole() -> None:
    tokens = list("wang ming went from bejing to paris" * 9)
    tags = spans.from_spans([("PER", 0, 9), ("LOC", 60, 66), ("LOC", 200, 203)], len(tokens))
    data = data_of((tokens, tags), (list("ab"), ["O", "O"]))
    tokens = [t if t.strip() else "." for t in tokens]
    data = data_of((tokens, tags), (list("ab"), ["O", "O"]))
    for scheme in ("BIO", "BIOES"):
        names = spans.tag_names(["LOC", "PER"], scheme)
        encoded = encode_tags.tags(data, LETTERS, names, 32)["train"]
        assert max(map(len, encoded["input_ids"])) <= 32 and encoded["cut"][0]
        assert encoded["row"][-1] == 1 and not encoded["cut"][-1]
        there = tagging.true_tags(Examples.of(encoded), names)
        assert there == [spans.convert(tags, scheme), ["O", "O"]]


@pytest.mark.parametrize(
    ("tokens", "tags", "words"),
    [
        (["a", "b"], ["O"], "train, row 1: 2 tokens, but 1 tags"),
        (["a"], ["B-ORG"], "train, row 1: the tag 'B-ORG' is unknown"),
        (["a", "b"], ["O", "I-PER"], "train, row 1, token 1: the tag 'I-PER' does not go on"),
        (["a", " "], ["O", "O"], "train, row 1: no tokens, or an empty one"),
        ([], [], "train, row 1: no tokens"),
    ],
)
def test_bad_sequences_are_refused_with_their_row(tokens, tags, words) -> None:
    with pytest.raises(EncodeError, match=words):
        encode_tags.tags(data_of((["a"], ["O"]), (tokens, tags)), LETTERS, NAMES)


def test_limits_are_checked() -> None:
    data = data_of((["a"], ["O"]))
    for length in (3, 65):
        with pytest.raises(EncodeError, match="max_length"):
            encode_tags.tags(data, LETTERS, NAMES, length)
    with pytest.raises(EncodeError, match="label='last'"):
        encode_tags.tags(data, LETTERS, NAMES, 16, label="last")
    with pytest.raises(EncodeError, match="row 0"):
        encode_tags.tokens([[]], LETTERS)


# -- the field ------------------------------------------------------------------------------


def field_and_scores(T, K_types=1, seed=0, scheme="BIO"):
    names = spans.tag_names([f"T{i}" for i in range(K_types)], scheme)
    generator = torch.Generator().manual_seed(seed)
    field = LinearChainCrf(names).double()
    for parameter in field.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return field, torch.randn(3, T, len(names), dtype=torch.float64, generator=generator), names


def enumerated(field, e):
    """Every sequence of tags and its score, written out."""
    A, K = field.transitions.detach(), e.shape[1]
    for path in itertools.product(range(K), repeat=len(e)):
        total = sum(e[t, k] for t, k in enumerate(path))
        total = total + sum(A[j, k] for j, k in itertools.pairwise(path))
        yield path, total + field.start[path[0]] + field.end[path[-1]]


@pytest.mark.parametrize(
    ("T", "kinds", "scheme"), [(1, 1, "BIO"), (5, 1, "BIO"), (4, 1, "BIOES")]
)
def test_partition_loss_and_best_sequence_against_enumeration(T, kinds, scheme) -> None:
    field, emissions, names = field_and_scores(T, kinds, seed=T, scheme=scheme)
    labels = torch.zeros(3, T, dtype=torch.long)
    labels[1, T // 2 + 1 :] = -100
    losses, best = [], []
    for row in range(3):
        named = labels[row] != -100
        scored = list(enumerated(field, emissions[row][named]))
        log_z = torch.logsumexp(torch.stack([s for _, s in scored]), 0)
        losses.append(log_z - dict(scored)[tuple(labels[row][named].tolist())])
        best.append(list(max(scored, key=lambda pair: float(pair[1]))[0]))
    ours = field.negative_log_likelihood(emissions, labels)
    torch.testing.assert_close(ours, torch.stack(losses).sum(), rtol=0, atol=1e-9)
    assert field.decode(emissions, labels) == best
    for path in best:  # what the scheme excludes is never chosen
        for before, after in itertools.pairwise(path):
            assert spans.allowed(names)[before][after]


def test_gradient_of_the_field_against_differences() -> None:
    field, emissions, _ = field_and_scores(4, 1, seed=2)
    labels = torch.tensor([[0, 1, 2, 0], [1, 2, -100, -100], [0, 0, 1, -100]])
    emissions.requires_grad_()
    inputs = (emissions, field.pairs, field.start, field.end)

    def loss(*values):
        return field.negative_log_likelihood(values[0], labels)

    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-6)


def test_padding_and_unlabelled_places_change_nothing() -> None:
    field, emissions, _ = field_and_scores(6, 1, seed=5)
    labels = torch.tensor([[-100, 1, -100, 2, 0, -100]])
    alone = field.negative_log_likelihood(emissions[:1, [1, 3, 4]], labels[:, [1, 3, 4]])
    torch.testing.assert_close(
        field.negative_log_likelihood(emissions[:1], labels), alone, rtol=0, atol=1e-12
    )
    empty = torch.full((1, 6), -100)
    assert field.negative_log_likelihood(emissions[:1], empty) == 0
    assert field.decode(emissions[:1], empty) == [[]]
    packed, tags, mask = supervised_first(emissions[:1], labels)
    assert (
        tags.tolist() == [[1, 2, 0]]
        and mask.all()
        and torch.equal(packed, emissions[:1, [1, 3, 4]])
    )


def test_a_field_that_ignores_the_mask_is_caught(monkeypatch) -> None:
    real = LinearChainCrf.log_partition
    monkeypatch.setattr(
        LinearChainCrf,
        "log_partition",
        lambda self, e, mask: real(self, e, torch.ones_like(mask)),
    )
    with pytest.raises(AssertionError):
        test_partition_loss_and_best_sequence_against_enumeration(5, 1, "BIO")


def test_legal_pairs_alone_mend_a_softmax_model() -> None:
    emissions = torch.tensor([[[0.1, 0.0, 1.0], [0.0, 0.2, 1.0], [1.0, 0.0, 0.0]]])
    names = spans.tag_names(["X"])
    free = [names[i] for i in emissions[0].argmax(1).tolist()]
    (path,) = viterbi(emissions, torch.ones(1, 3, dtype=torch.bool), forbidden_pairs(names))
    assert free == ["I-X", "I-X", "O"] and [names[i] for i in path] == ["I-X", "I-X", "O"]
    emissions[0, 0] = torch.tensor([2.0, 0.0, 1.0])
    (path,) = viterbi(emissions, torch.ones(1, 3, dtype=torch.bool), forbidden_pairs(names))
    assert [names[i] for i in path] == ["O", "B-X", "O"]


# -- taggers --------------------------------------------------------------------------------


def small_tagger(**options):
    config = EncoderConfig(len(LETTERS), 16, 1, 2, 32, 64)
    return tagger_from(new_encoder(config), NAMES, **options)


def toy_examples(count=64, seed=0):
    """Sentences in which 王明 is a person and 北京 a place."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        tokens, found = [], []
        for _ in range(generator.integers(1, 4)):
            tokens += list("abcdefgh"[: generator.integers(1, 8)])
            kind = ["PER", "LOC"][generator.integers(2)]
            found.append((kind, len(tokens), len(tokens) + 2))
            tokens += list({"PER": "王明", "LOC": "北京"}[kind])
        made.append((tokens, spans.from_spans(found, len(tokens))))
    return Examples.of(encode_tags.tags(data_of(*made), LETTERS, NAMES, 64)["train"])


@pytest.mark.parametrize(
    "options", [{"crf": True}, {"crf": False}, {"crf": True, "buckets": 512}]
)
def test_fit_trains_taggers_unchanged(options) -> None:
    examples = toy_examples()
    model = small_tagger(**options)
    watch = tagging.tag_evaluation(examples, NAMES)
    assert watch(model)["f1"] < 0.5
    state = fit(
        model, Batches(examples, 8), tag_loss(), evaluate=watch, epochs=8, lr=5e-3, metric="f1"
    )
    assert state.losses[-1] < 0.5 * state.losses[0]
    assert state.best["f1"] > 0.95, state.evaluations


def test_micro_batches_give_one_gradient() -> None:
    examples, grads = toy_examples(8), []
    for size in (8, 3):
        model = small_tagger(buckets=64).double().eval()
        n = 0
        for batch in next(iter(Batches(examples, 8, micro_batch_size=size).epoch(0))):
            loss_sum, count = tag_loss()(model, batch)
            loss_sum.backward()
            n += int(count)
        grads.append(torch.cat([p.grad.flatten() / n for p in model.parameters()]))
    # the field computes in float32, as everywhere
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-6)


def test_ngram_scores_start_at_zero_and_see_two_neighbours() -> None:
    plain, wide = small_tagger().eval(), small_tagger(buckets=4096).eval()
    ids = torch.randint(5, len(LETTERS), (2, 12), generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(ids).logits, wide(ids).logits)
    torch.nn.init.normal_(wide.ngrams.table.weight)
    before = wide.ngrams(ids)
    changed = ids.clone()
    changed[0, 5] += 1 if changed[0, 5] + 1 < len(LETTERS) else -1
    moved = (wide.ngrams(changed) - before).abs().sum(-1) > 0
    assert moved[0].nonzero().flatten().tolist() == [3, 4, 5, 6, 7] and not moved[1].any()


def test_taggers_are_saved_whole(tmp_path) -> None:
    model = small_tagger(crf=True, buckets=128)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.eval().save(tmp_path / "m", LETTERS)
    loaded, tokenizer = load_tagger(str(tmp_path / "m"))
    assert isinstance(loaded, Tagger) and loaded.tags == NAMES and not loaded.training
    examples = toy_examples(6)
    found = [tagging.predict_tags(m, examples, NAMES) for m in (model, loaded)]
    assert found[0] == found[1]
    assert tokenizer("王a")["input_ids"] == LETTERS("王a")["input_ids"]
    files = {path.name for path in (tmp_path / "m").iterdir()}
    assert {"sftkit.json", "sftkit.safetensors"} <= files
    assert json.loads((tmp_path / "m" / "sftkit.json").read_text())["config"]["tags"] == NAMES


def test_impossible_taggers_are_refused(tmp_path) -> None:
    sizes = EncoderConfig(9, 8, 1, 1, 8, 8)
    for wrong in ({"tags": ("O",)}, {"tags": ("O", "O")}, {"tags": NAMES, "buckets": -1}):
        with pytest.raises(ModelError):
            TaggerConfig(sizes, **wrong)
    with pytest.raises(ModelError, match="catalogue"):
        load_tagger("nothing", NAMES)
    encoder, tokenizer = character_model(["abc", "abd"])
    encoder.save(tmp_path / "e", tokenizer)
    with pytest.raises(ModelError, match="no tagger"):
        load_tagger(str(tmp_path / "e"))
    model, _ = load_tagger(str(tmp_path / "e"), NAMES, crf=False)
    same, _ = load_tagger(str(tmp_path / "e"), NAMES, crf=False)
    fresh, _ = load_tagger(str(tmp_path / "e"), NAMES, crf=False, pretrained=False, seed=7)
    word = "body.blocks.0.query.weight"
    a, b, c = (m.state_dict()[word] for m in (model, same, fresh))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_transformers_tagger_loads_in_a_pipeline_with_its_names(tmp_path) -> None:
    from transformers import AutoModelForTokenClassification, pipeline

    model, tokenizer = load_tagger("minilm", NAMES, seed=3)
    torch.nn.init.normal_(model.classifier.weight, std=1.0)  # so that labels differ
    models.save(model.eval(), tokenizer, tmp_path / "m")
    again = AutoModelForTokenClassification.from_pretrained(tmp_path / "m")
    assert again.config.id2label == dict(enumerate(NAMES))
    sentence = ["Ann", "Okonkwo", "moved", "to", "Harlington", "."]
    encoded = Examples.of(encode_tags.tokens([sentence], tokenizer))
    (ours,) = tagging.predict_tags(model, encoded, NAMES)
    tag = pipeline("token-classification", model=str(tmp_path / "m"), ignore_labels=[])
    text, at, starts = " ".join(sentence), 0, []
    for word in sentence:
        starts.append(text.index(word, at))
        at = starts[-1] + 1
    theirs = {r["start"]: r["entity"] for r in tag(text)}
    assert [theirs[start] for start in starts] == ours and len(set(ours)) > 1


# -- entity F1 ------------------------------------------------------------------------------


def random_tags(generator, count=40):
    return [
        generator.choice(NAMES, size=generator.integers(1, 15)).tolist() for _ in range(count)
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_f1_is_that_of_seqeval(seed) -> None:
    generator = np.random.default_rng(seed)
    truth = [spans.convert(tags, "BIO") for tags in random_tags(generator)]
    found = [
        [t if generator.random() < 0.6 else generator.choice(NAMES) for t in tags]
        for tags in truth
    ]
    report = tagging.tag_report(truth, found, ["LOC", "PER"])
    theirs = classification_report(truth, found, output_dict=True)
    assert report.f1[0] == pytest.approx(theirs["micro avg"]["f1-score"], abs=1e-12)
    for kind, precision, recall, f1, n in report.per_type:
        assert precision == pytest.approx(theirs[kind]["precision"], abs=1e-12)
        assert recall == pytest.approx(theirs[kind]["recall"], abs=1e-12)
        assert f1[0] == pytest.approx(theirs[kind]["f1-score"], abs=1e-12)
        assert n == theirs[kind]["support"]
    assert report.f1[1] < report.f1[0] < report.f1[2]
    legal = [
        spans.convert(tags, "BIO") for tags in found
    ]  # strict reading agrees on legal tags
    strict = classification_report(truth, legal, output_dict=True, mode="strict", scheme=IOB2)
    ours = tagging.tag_report(truth, legal, ["LOC", "PER"]).f1[0]
    assert ours == pytest.approx(strict["micro avg"]["f1-score"], abs=1e-12)


def test_comparisons_are_paired() -> None:
    generator = np.random.default_rng(0)
    truth = [spans.convert(tags, "BIO") for tags in random_tags(generator, 60)]
    good = [t if i % 3 else ["O"] * len(t) for i, t in enumerate(truth)]
    bad = [t if i % 2 else ["O"] * len(t) for i, t in enumerate(truth)]
    sums = [tagging.counts(truth, found, ["LOC", "PER"]) for found in (good, bad)]
    gain = tagging.compare_tags(*sums)
    back = tagging.compare_tags(*reversed(sums))
    assert gain.points == pytest.approx(-back.points) and gain.points > 0
    assert tagging.compare_tags(sums[0], sums[0]).high == 0 and "points" in str(gain)


def test_another_number_of_tags_is_refused() -> None:
    with pytest.raises(ParameterError, match="sentence 1: 1 labelled and 2 predicted"):
        tagging.counts([["O"], ["O"]], [["O"], ["O", "O"]], ["X"])
    with pytest.raises(ParameterError, match="2 labelled and 1 predicted sentences"):
        tagging.counts([["O"], ["O"]], [["O"]], ["X"])


# -- the baseline ---------------------------------------------------------------------------


def test_the_baseline_learns_names_and_is_chosen_on_validation() -> None:
    made = redaction.sentences("train", 150)
    tokens, tags = [s.tokens for s in made], [s.tags for s in made]
    items = feature_crf.prepared(tokens)
    model, scores = feature_crf.tuned(
        items[:100], tags[:100], items[100:], tags[100:], [(0.1, 0.01), (50.0, 1.0)], 40
    )
    assert (model.c1, model.c2) == (0.1, 0.01) and scores[0][2] > 0.5 > scores[1][2]
    report = tagging.tag_report(tags[100:], model.predict(items[100:]), redaction.types())
    assert report.f1[0] == pytest.approx(scores[0][2])
    with pytest.raises(ParameterError, match="1 sentences and 2"):
        feature_crf.train(items[:1], tags[:2])


def test_features_see_two_neighbours_to_each_side() -> None:
    tokens = list("abcdefg")
    before = feature_crf.features(tokens)
    after = feature_crf.features([*tokens[:3], "x", *tokens[4:]])
    changed = [i for i in range(7) if before[i] != after[i]]
    assert changed == [1, 2, 3, 4, 5] and "0,1=c d" in before[2]
    assert "kind=9" in feature_crf.features(["3"])[0]
    assert "kind=Aa+" in feature_crf.features(["Anna"])[0]
