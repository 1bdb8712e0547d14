"""Windows, best spans, SQuAD's metrics, baselines, retrieval; broken variants beside them."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from sftkit import assets, encode_spans, models
from sftkit.corpora import questions
from sftkit.course.run import run
from sftkit.errors import EncodeError, ModelError, ParameterError
from sftkit.evaluate import reading, reading_baselines, retrieval
from sftkit.evaluate.reading import Answer
from sftkit.files import PACKAGE
from sftkit.models.load_spans import load_reader
from tests.test_questions_corpora import EXAMPLE, TEXT


@pytest.fixture(scope="module")
def wordpiece():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(assets.path("minilm")))


def rows_of(*triples):
    """A split from (question, context, answer or None)."""
    return Dataset.from_dict(
        {
            "question": [q for q, _, _ in triples],
            "context": [c for _, c, _ in triples],
            "texts": [[a] if a else [] for _, _, a in triples],
            "starts": [[c.index(a)] if a else [] for _, c, a in triples],
        }
    )


# -- windows ----------------------------------------------------------------------------------


def test_labels_decode_to_answers_in_every_window(wordpiece) -> None:
    data = questions.load(limit=40)["train"]
    encoded = encode_spans.encode(data, wordpiece, 96, 60)
    seen: Counter[int] = Counter()
    for row, (first, last), flat in zip(
        encoded["row"], encoded["labels"], encoded["offsets"], strict=True
    ):
        if last:
            text, start = data[row]["texts"][0], data[row]["starts"][0]
            low, high = flat[2 * first], flat[2 * last + 1]
            assert low <= start and high >= start + len(text)
            assert high - low - len(text) < 12  # no more than the rest of a token at each end
            seen[row] += 1
        else:
            assert first == 0
    for row, texts in enumerate(data["texts"]):
        short = texts and len(wordpiece(texts[0])["input_ids"]) < 58
        assert bool(seen[row]) == bool(texts) or not short
    assert max(Counter(encoded["row"]).values()) > 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_token_spans_agree_with_a_search_over_tokens(data) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, 40), min_size=4, max_size=12)))
    pieces = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    offsets = np.array([(-1, -1), *pieces, (-1, -1)])
    start = data.draw(st.integers(0, 39))
    end = data.draw(st.integers(start + 1, 41))
    touching = [
        i for i, (a, b) in enumerate(offsets.tolist()) if a >= 0 and a < end and b > start
    ]
    expected = None
    if touching and offsets[touching[0], 0] <= start and offsets[touching[-1], 1] >= end:
        expected = (touching[0], touching[-1])
    assert encode_spans.token_span(offsets, start, end) == expected


def test_a_window_is_what_the_plain_tokenizer_gives(wordpiece) -> None:
    """Who loads a saved reader need not know of this package: no input is special."""
    question, context = "What is the tea like?", "The tea is hot. Is it?"
    (row,) = encode_spans.encode(rows_of((question, context, "hot")), wordpiece, 64, 20)
    plain = wordpiece(question, context)
    assert plain["token_type_ids"][-2:] == [1, 1]
    for name in ("input_ids", "token_type_ids"):
        assert row[name] == plain[name]


def test_line_breaks_are_read_and_places_stay(wordpiece) -> None:
    context = "axis : int\n    Along which.\ntol : float\n\tHow close."
    assert encode_spans.visible_breaks(context) == (
        "axis : int¶    Along which.§tol : float¶\tHow close."
    )
    encoded = encode_spans.encode(rows_of(("What?", context, "tol")), wordpiece, 64, 8)
    tokens = wordpiece.convert_ids_to_tokens(encoded["input_ids"][0])
    assert [t for t in tokens if t in "¶§"] == ["¶", "§", "¶"]
    (first, last), flat = encoded["labels"][0], encoded["offsets"][0]
    assert tokens[first - 1] == "§" and context[flat[2 * first] : flat[2 * last + 1]] == "tol"


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("a\n \t§¶"), max_size=30))
def test_visible_breaks_change_line_breaks_only(text) -> None:
    seen = encode_spans.visible_breaks(text)
    assert len(seen) == len(text) and "\n" not in seen
    assert all(a == b for a, b in zip(text, seen, strict=True) if a != "\n")


def test_an_answer_cut_by_a_window_is_no_label_there(wordpiece) -> None:
    context = " ".join(f"word{i}" for i in range(60)) + " the very end."
    part = rows_of(("Where?", context, "the very end"), ("Who?", context, None))
    encoded = encode_spans.encode(part, wordpiece, 64, 20)
    labels = {
        row: [x for r, x in zip(encoded["row"], encoded["labels"], strict=True) if r == row]
        for row in (0, 1)
    }
    assert labels[0][:-1] == [[0, 0]] * (len(labels[0]) - 1) and labels[0][-1] != [0, 0]
    assert labels[1] == [[0, 0]] * len(labels[1]) and all(encoded["cut"])
    fewer = encode_spans.encode(part, wordpiece, 64, 20, others=0.0)
    assert Counter(fewer["row"]) == {0: 1, 1: 1} and list(fewer["labels"])[1] == [0, 0]


def test_what_cannot_be_encoded_is_said_with_its_row(wordpiece) -> None:
    fine = ("What is hot?", "Tea is hot.", "Tea")
    long = ("What? " * 60, "Tea is hot.", "Tea")
    with pytest.raises(EncodeError, match="train, row 1: its question has 120 tokens"):
        encode_spans.encode(rows_of(fine, long), wordpiece, 128, 20, name="train")
    moved = rows_of(fine).to_dict() | {"starts": [[1]]}
    with pytest.raises(EncodeError, match="row 0: the answer 'Tea' is not at 1"):
        encode_spans.encode(Dataset.from_dict(moved), wordpiece, 64, 20)
    with pytest.raises(EncodeError, match="max_length=9000"):
        encode_spans.encode(rows_of(fine), wordpiece, 9000, 20)
    with pytest.raises(EncodeError, match="others=2"):
        encode_spans.questions({}, wordpiece, others=2)  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match="no offsets"):
        encode_spans.encode(rows_of(fine), object(), 64, 20)
    with pytest.raises(ModelError, match="not in the catalogue"):
        load_reader("no-such-model")


# -- the best span ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 14), st.integers(0, 10_000))
def test_the_best_span_is_that_of_all_pairs(tokens, longest, seed) -> None:
    dice = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, 3, tokens, generator=dice)
    allowed = torch.rand(3, tokens, generator=dice) < 0.7
    first, last, score = reading.best_spans(start, end, allowed, longest)
    for b in range(3):
        pairs = {
            (i, j): float(start[b, i] + end[b, j])
            for i in range(tokens)
            for j in range(i, min(i + longest, tokens))
            if allowed[b, i] and allowed[b, j]
        }
        if not pairs:
            assert score[b] == -torch.inf
            continue
        assert max(pairs, key=pairs.__getitem__) == (int(first[b]), int(last[b]))
        assert float(score[b]) == pytest.approx(max(pairs.values()))


class Fixed(torch.nn.Module):
    """Scores that are written in advance: a peak where a token has this id."""

    def __init__(self, wanted: int, lift: torch.Tensor) -> None:
        super().__init__()
        self.wanted, self.lift = wanted, torch.nn.Parameter(lift)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        peak = 4.0 * (input_ids == self.wanted) + 0.5 * torch.arange(input_ids.shape[1]) / 100
        # Each window's scores all rise by something that depends on its second token's place.
        rise = self.lift * (input_ids * torch.arange(input_ids.shape[1])).sum(1, keepdim=True)
        from types import SimpleNamespace

        return SimpleNamespace(start_logits=peak + rise, end_logits=peak + rise)


def test_windows_are_compared_by_margins_not_by_scores(wordpiece) -> None:
    context = " ".join(["alpha"] * 40 + ["tea"] + ["beta"] * 90)
    part = rows_of(("What?", context, "tea"))
    encoded = encode_spans.encode(part, wordpiece, 48, 8)
    tea = wordpiece.convert_tokens_to_ids("tea")
    for lift in (0.0, 1e-2, -1e-2):
        model = Fixed(tea, torch.tensor([lift]))
        (found,) = reading.read(model, encoded, [context], wordpiece.pad_token_id)
        assert found.text == "tea" and found.start == context.index("tea")
        assert found.margin == pytest.approx(8.4, abs=0.6)
    # By their scores, the lifted windows would win, whatever is in them.
    examples = reading.examples_of(encoded, 0)
    batch = examples.batch(range(len(examples)))
    del batch["labels"], batch["row"], batch["cut"]
    with torch.inference_mode():
        scores = Fixed(tea, torch.tensor([1e-2]))(**batch).start_logits.amax(dim=1)
    has_tea = (batch["input_ids"] == tea).any(dim=1)
    assert not has_tea[scores.argmax()]


# -- metrics ----------------------------------------------------------------------------------


def second_normal(text: str) -> list[str]:
    """The rules of SQuAD's evaluation script again, character by character and word by word."""
    kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
    parts = re.split(r"\b(?:a|an|the)\b", kept)
    return [word for part in parts for word in part.split()]


def second_f1(guess: str, answers: list[str]) -> tuple[float, float]:
    best = (0.0, 0.0)
    for answer in answers or [""]:
        a, b = second_normal(guess), second_normal(answer)
        left, shared = list(b), 0
        for word in a:
            if word in left:
                left.remove(word)
                shared += 1
        if a and b and shared:
            precision, recall = shared / len(a), shared / len(b)
            value = 2 * precision * recall / (precision + recall)
        else:
            value = float(a == b)
        best = (max(best[0], float(a == b)), max(best[1], value))
    return best


WORDS = st.lists(
    st.sampled_from(["The", "a", "an", "kite", "red", "x=1", "-1", "it's", "An,", "  ", "é"]),
    max_size=6,
).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(WORDS, st.lists(WORDS, max_size=3))
def test_metrics_agree_with_a_second_implementation(guess, answers) -> None:
    ours = (reading.exact_match(guess, answers), reading.f1(guess, answers))
    assert ours == pytest.approx(second_f1(guess, answers))


@pytest.mark.parametrize(
    ("guess", "answers", "exact", "f1"),
    [
        ("The Norman dynasty", ["Norman dynasty"], 1, 1),
        ("1,000", ["1000"], 1, 1),
        ("in France today", ["France"], 0, 0.5),
        ("red red kite", ["red kite kite"], 0, 2 / 3),
        ("theatre", ["atre"], 0, 0),  # articles are words, not letters
        ("", [], 1, 1),
        ("France", [], 0, 0),
        ("", ["France"], 0, 0),
        ("b", ["a", "b"], 1, 1),
        ("the", [""], 1, 1),
    ],
)
def test_metrics_worked_by_hand(guess, answers, exact, f1) -> None:
    assert reading.exact_match(guess, answers) == exact
    assert reading.f1(guess, answers) == pytest.approx(f1)


ANSWERS = st.lists(
    st.tuples(st.sampled_from(["tea", "ice", "tea cup"]), st.integers(-3, 3), st.booleans()),
    min_size=1,
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(ANSWERS)
def test_the_threshold_curve_is_what_a_loop_gives(rows) -> None:
    found = [Answer(text, 0, 3, float(margin)) for text, margin, _ in rows]
    truth = [["tea"] if has else [] for _, _, has in rows]
    thresholds, values = reading.threshold_curve(found, truth)

    def mean_at(threshold: float) -> float:
        return reading.scores([x.given(threshold) for x in found], truth)[:, 1].mean()

    assert values.tolist() == pytest.approx([mean_at(t) for t in thresholds])
    best = mean_at(reading.best_threshold(found, truth))
    assert best == pytest.approx(max(mean_at(t) for t in np.arange(-4.5, 4.5, 0.5)))


def test_intervals_draw_contexts_not_questions() -> None:
    truth = [["tea"] if i % 2 else ["ice"] for i in range(40) for _ in range(10)]
    contexts = [f"context {i}" for i in range(40) for _ in range(10)]
    together = reading.reading_report(["tea"] * 400, truth, contexts)
    # The same rows as if each question had a context of its own: three times too sure.
    apart = reading.reading_report(["tea"] * 400, truth, [str(i) for i in range(400)])
    assert together.f1[0] == apart.f1[0] == 0.5
    width, narrow = (r.f1[2] - r.f1[1] for r in (together, apart))
    assert 2.5 < width / narrow < 4.0
    half = together.where(np.arange(400) < 200)
    assert len(half.rows) == 200 and half.f1[0] == 0.5
    nothing = reading.reading_report([""] * 400, truth, contexts)
    points, low, high = reading.gain(together, nothing)
    assert points == pytest.approx(50) and low < 50 < high
    with pytest.raises(ParameterError, match="other questions"):
        reading.gain(together, half)
    with pytest.raises(ParameterError, match="1 guesses for 2"):
        reading.scores(["a"], [["a"], ["b"]])


# -- baselines and retrieval ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is n_jobs for?", "Number of jobs to run in parallel. The default is 1."),
        ("What is the default of nan_policy?", "'omit'"),
        ("What type is n_jobs?", "int"),
        ("When is ValueError raised?", "If the window is longer than the signal."),
        ("What do I get back?", "The smoothed signal."),
        ("Which exception should I catch?", "ValueError"),
        ("What type of object comes back?", "ndarray"),
        ("What can go wrong?", "If the window is longer than the signal."),
        ("How do I use all cores?", None),
    ],
)
def test_rules_find_what_is_named(question, answer) -> None:
    found = reading_baselines.by_rule(question, TEXT)
    assert (found and found.text) == answer
    assert not found or TEXT[found.start : found.end] == answer


@pytest.mark.parametrize("unit", reading_baselines.UNITS)
def test_the_lexical_baseline_takes_the_piece_with_the_shared_words(unit) -> None:
    lexical = reading_baselines.Lexical([TEXT, "other words"], unit)
    found, none = lexical.answers(["How many jobs in parallel?", "zebra"], [TEXT, TEXT])
    assert "Number of jobs" in found.text and found.margin > 0.2 and none.margin == 0
    assert TEXT[found.start : found.end] == found.text
    asked, answers = ["What is n_jobs?", "Parallel?"], [none, found]
    ruled = reading_baselines.ruled(asked, [TEXT] * 2, answers, found.margin - 0.01)
    assert ruled[0].startswith("Number") and ruled[1] == found.text
    assert reading_baselines.ruled(asked, [TEXT] * 2, answers, found.margin)[1] == ""


def test_pieces_cover_plain_text_too() -> None:
    text = "Tea is hot. Ice is cold!\n\nA second paragraph"
    found = [text[a:b] for a, b in reading_baselines.pieces(text, "sentence")]
    assert found == ["Tea is hot.", "Ice is cold!", "A second paragraph"]
    assert len(reading_baselines.pieces(text, "block")) == 2


def test_ranks_count_ties_against_the_right_one() -> None:
    similarity = np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert retrieval.ranks(similarity, [0, 1, 2]).tolist() == [1, 2, 3]
    worse = retrieval.reciprocal_ranks(similarity[:1], -similarity[:1])
    assert np.ptp(worse) < 1e-3  # two rankings that contradict each other


def test_embeddings_find_meaning_where_words_differ(wordpiece) -> None:
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(str(assets.path("minilm")), dtype=torch.float32)
    documents = ["The feline slept on the rug.", "Stocks fell sharply on Monday."]
    asked = ["A cat was asleep.", "The market went down."]
    vectors = [retrieval.embed(encoder, wordpiece, t) for t in (asked, documents)]
    assert np.allclose(np.linalg.norm(vectors[0], axis=1), 1, atol=1e-5)
    assert retrieval.ranks(vectors[0] @ vectors[1].T, [0, 1]).tolist() == [1, 1]
    alone = retrieval.embed(encoder, wordpiece, documents[:1])
    assert np.allclose(alone[0], vectors[1][0], atol=1e-5)  # padding is not read
    words = retrieval.word_similarity(["red kite"], ["a red kite", "a kite", "tea"])
    assert words[0].argsort()[::-1].tolist() == [0, 1, 2]


def test_the_baseline_by_meaning_takes_the_block_that_says_it_in_other_words(wordpiece) -> None:
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(str(assets.path("minilm")), dtype=torch.float32)
    means = reading_baselines.Meaning(encoder, wordpiece)
    plain = "Cats sleep all day.\n\nStocks fell sharply.\n\nIt rained in the north."
    asked = ["How did shares do?", "Was the weather bad?", "Anything?"]
    found = means.answers(asked, [plain, plain, ""])
    assert [a.text for a in found] == ["Stocks fell sharply.", "It rained in the north.", ""]
    assert all(plain[a.start : a.end] == a.text for a in found[:2]) and found[2].margin == 0
    asked_vector, block = retrieval.embed(encoder, wordpiece, [asked[0], found[0].text])
    assert found[0].margin == pytest.approx(float(asked_vector @ block), abs=1e-5)


# -- the whole --------------------------------------------------------------------------------


def test_a_saved_reader_answers_alike_in_transformers(tmp_path, wordpiece) -> None:
    from transformers import AutoModelForQuestionAnswering, BertConfig

    sizes: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(wordpiece), hidden_size=16, **sizes)
    folder = models.save(
        AutoModelForQuestionAnswering.from_config(config), wordpiece, tmp_path / "start"
    )
    model, tokenizer = load_reader(str(folder), seed=3)
    assert all(p.requires_grad for p in model.parameters())
    models.save(model, tokenizer, tmp_path / "saved")
    loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "saved")
    part = rows_of(("What is hot?", "Tea is hot, ice is not.", "Tea"))
    encoded = encode_spans.encode(part, tokenizer, 64, 20)
    contexts = list(part["context"])
    ours, theirs = (reading.read(m, encoded, contexts, 0) for m in (model, loaded))
    assert ours == theirs
    evaluate = reading.reading_evaluation(encoded, part, 0)
    assert set(evaluate(model)) == {"f1", "exact_match"}
    fresh, _ = load_reader(str(folder), pretrained=False, train="head")
    names = {name for name, p in fresh.named_parameters() if p.requires_grad}
    assert names == {"qa_outputs.weight", "qa_outputs.bias"}


@pytest.mark.slow
def test_the_notebook_takes_a_squad_file_of_the_readers(tmp_path) -> None:
    parameters = {"data": str(EXAMPLE), "limit": 0, "pool": 4, "generated": 0}
    parameters |= {"validation_rows": 0, "test_rows": 0, "scratch_limit": 4, "max_length": 96}
    done = run("10", parameters | {"overlap": 32}, store=tmp_path)
    assert done.data["metrics"]["test_rows"] >= 2
    assert 0 <= done.data["metrics"]["fine-tuned"]["f1"]["value"] <= 1
    assert (PACKAGE.parent / "data" / "examples" / "questions.json").is_file()
