"""Tagged sentences: schemes, readers, splits, and what is refused with its line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from sftkit import corpora
from sftkit.corpora import conll, duplicates, pretraining, redaction, spans, tagged
from sftkit.errors import CorpusError
from sftkit.files import PACKAGE

LEGAL = ["B-X", "I-X", "O", "B-Y", "B-Y", "I-Y", "I-Y", "O"]
EXAMPLE = PACKAGE.parent / "data" / "examples" / "entities.conll"


@st.composite
def some_spans(draw):
    """Spans that do not overlap, in a sequence of up to 20 tokens."""
    at, found = 0, []
    while at < 20 and draw(st.booleans()):
        start = draw(st.integers(at, 20))
        end = draw(st.integers(start + 1, start + 4))
        found.append((draw(st.sampled_from(["LOC", "PER"])), start, end))
        at = end
    return found, at + draw(st.integers(0, 3))


@settings(max_examples=100, deadline=None)
@given(some_spans(), st.sampled_from(["BIO", "BIOES"]))
def test_spans_survive_both_schemes(made, scheme) -> None:
    found, length = made
    tags = spans.from_spans(found, length, scheme)
    assert len(tags) == length
    assert spans.to_spans(tags) == sorted(found, key=lambda s: s[1])
    assert spans.problem(tags, scheme) is None
    assert spans.convert(spans.convert(tags, "BIOES"), "BIO") == spans.convert(tags, "BIO")
    before_after = spans.allowed(spans.tag_names(["LOC", "PER"], scheme))
    number = {n: i for i, n in enumerate(spans.tag_names(["LOC", "PER"], scheme))}
    for a, b in zip(tags, tags[1:], strict=False):
        assert before_after[number[a]][number[b]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(spans.tag_names(["A", "B"], "BIOES")), max_size=12))
def test_broken_sequences_are_read_as_seqeval_reads_them(tags) -> None:
    from seqeval.metrics.sequence_labeling import get_entities

    theirs = [(kind, start, end + 1) for kind, start, end in get_entities(tags)]
    assert spans.to_spans(tags) == theirs


@pytest.mark.parametrize(
    ("tags", "scheme", "place", "words"),
    [
        (["O", "I-X"], "BIO", 1, "does not go on"),
        (["B-X", "I-Y"], "BIO", 1, "does not go on"),
        (["B-X", "E-X"], "BIO", 1, "not one of BIO"),
        (["B-X", "PER"], "BIO", 1, "not one of BIO"),
        (["B-X", "B-"], "BIO", 1, "not one of BIO"),
        (["B-X", "O"], "BIOES", 1, "has no end"),
        (["S-X", "B-X"], "BIOES", 1, "has no end"),
        (["S-X", "E-X"], "BIOES", 1, "does not go on"),
    ],
)
def test_illegal_tags_are_found_at_their_place(tags, scheme, place, words) -> None:
    found = spans.problem(tags, scheme)
    assert found is not None and found[0] == place and words in found[1]
    assert spans.problem(LEGAL, "BIO") is None


@pytest.mark.parametrize(
    "wrong", [[("X", 0, 3), ("Y", 2, 4)], [("X", 2, 2)], [("X", 3, 9)], [("X", -1, 2)]]
)
def test_overlapping_and_impossible_spans_are_refused(wrong) -> None:
    with pytest.raises(CorpusError, match="overlap|does not lie"):
        spans.from_spans(wrong, 5)


def write(folder, name, content, encoding="utf-8"):
    path = folder / name
    path.write_bytes(content.encode(encoding))
    return path


def test_conll_files_in_their_variants(tmp_path) -> None:
    text = (
        "\ufeff# by hand\n-DOCSTART- -X- O\n\nAnn NNP B-PER\nsaw VB O\r\n\n\nOslo NNP B-LOC\n"
    )
    found = list(conll.read(write(tmp_path, "a.conll", text)))
    assert [(s.tokens, s.tags, s.place) for s in found] == [
        (["Ann", "saw"], ["B-PER", "O"], "line 4"),
        (["Oslo"], ["B-LOC"], "line 8"),
    ]
    tabs = write(tmp_path, "b.conll", "New York\tS-LOC\n#\tO\n")  # a token may hold a space
    assert next(conll.read(tabs)).tokens == ["New York", "#"]
    assert next(conll.read(tabs)).tags == ["B-LOC", "O"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.conll", "Ann B-PER\nMay\n", "line 2: 1 columns in place of 2"),
        ("a.conll", "Ann\nMay\n", "line 1: one column"),
        ("a.conll", "Ann O\nMay I-PER\n", "line 2: the tag 'I-PER' does not go on"),
        ("a.conll", "Ann O\n\nMay X-PER\n", "line 3: the tag 'X-PER' is not one of BIO"),
        ("a.conll", "Ann\tO\n\tO\n", "line 2: the token or its tag is empty"),
        ("a.conll", "\n\n", "holds no sentence"),
        ("a.csv", "Ann O\n", "end in .csv"),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}\n', "line 1: 2 tokens, but 1 tags"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [3]}\n', "line 1: 'tags' is not a list"),
        ("a.jsonl", '{"words": ["a"]}\n', "line 1: neither"),
        ("a.jsonl", '{"tokens": ["a", " "], "tags": ["O", "O"]}\n', "a token is empty"),
        (
            "a.jsonl",
            '{"text": "Ann May", "entities": [[0, 3, "P"], [0, 7, "Q"]]}\n',
            "line 1: the spans 'P'",
        ),
        ("a.jsonl", '{"text": "Annie", "entities": [[0, 3, "P"]]}\n', "cuts a word"),
        ("a.jsonl", '{"text": "Ann", "entities": [["P"]]}\n', "a list of"),
        ("a.jsonl", '{"text": "Ann", "entities": [[0, 3]\n', "is not JSON"),
    ],
)
def test_bad_files_are_refused_with_their_line(tmp_path, name, content, words) -> None:
    with pytest.raises(CorpusError, match="^" + ".*" + words.replace("[", r"\[")) as error:
        list(conll.read(write(tmp_path, name, content)))
    assert error.value.fix


def test_other_encodings_are_named(tmp_path) -> None:
    path = write(tmp_path, "a.conll", "café O\n", "latin-1")
    with pytest.raises(CorpusError, match="not utf-8"):
        list(conll.read(path))
    assert next(conll.read(path, encoding="cp1252")).tokens == ["café"]
    with pytest.raises(CorpusError, match="UTF-16"):
        list(conll.read(write(tmp_path, "b.conll", "a O\n" * 9, "utf-16")))


def test_repair_reads_the_older_form(tmp_path) -> None:
    path = write(tmp_path, "a.conll", "Ann I-PER\nMay I-PER\nin O\nOslo I-LOC\n")
    assert next(conll.read(path, repair=True)).tags == ["B-PER", "I-PER", "O", "B-LOC"]


def test_spans_of_characters_become_tags(tmp_path) -> None:
    item = {"text": "Dr. Ann-May, 王明 in Oslo", "entities": [[4, 11, "PER"], [13, 15, "PER"]]}
    path = write(tmp_path, "a.jsonl", json.dumps(item) + "\n")
    (found,) = conll.read(path)
    assert found.tokens == ["Dr", ".", "Ann", "-", "May", ",", "王", "明", "in", "Oslo"]
    assert spans.to_spans(found.tags) == [("PER", 2, 5), ("PER", 6, 8)]


def test_the_example_file_goes_through() -> None:
    data = tagged.load(EXAMPLE)
    assert tagged.types(data) == ["LOC", "ORG", "PER"]
    assert sum(map(len, data.values())) == 30 and min(map(len, data.values())) == 3
    assert tagged.load(EXAMPLE, limit=5)["train"].num_rows == 5


def test_own_files_are_split_without_copies(tmp_path) -> None:
    names = [f"{a}{b}" for a in "abcde" for b in "wxyz"]
    rows = [f"{n}a O\nAnn B-PER\n{n}b O\n{n}c O\n{n}d O\n{n}e O\n" for n in names]
    path = write(tmp_path, "a.conll", "\n".join(rows + rows))
    data = tagged.load(path)
    texts = {k: {tagged.text_of(t) for t in v["tokens"]} for k, v in data.items()}
    assert sum(map(len, data.values())) == 40
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
    with pytest.raises(CorpusError, match="too few"):
        tagged.load(write(tmp_path, "b.conll", "\n".join(rows[:5])))
    with pytest.raises(CorpusError, match="copies of each other"):
        tagged.load(write(tmp_path, "c.conll", "\n".join(rows[:1] * 20)))


def test_folders_and_saved_data_sets(tmp_path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for number, name in enumerate(("train", "dev", "test")):
        lines = "\n\n".join(
            f"{name}{'abcdefghijkl'[i]}{number} O\nAnn B-PER" for i in range(12)
        )
        write(folder, f"{name}.conll", lines)
    assert tagged.load(folder).num_rows == {"train": 12, "validation": 12, "test": 12}
    from datasets import ClassLabel, Features, List, Value

    features = Features(
        tokens=List(Value("string")), ner_tags=List(ClassLabel(names=["O", "B-PER"]))
    )
    rows = {"tokens": [[f"a{i}", "b"] for i in range(30)], "ner_tags": [[0, 1]] * 30}
    DatasetDict(train=Dataset.from_dict(rows, features=features)).save_to_disk(tmp_path / "d")
    data = tagged.load(tmp_path / "d")
    assert data["train"][0]["tags"] == ["O", "B-PER"] and tagged.types(data) == ["PER"]


def test_types_are_those_of_all_splits() -> None:
    def part(tag):
        return Dataset.from_dict({"tokens": [["a"]], "tags": [[tag]]})

    assert tagged.types(DatasetDict(train=part("B-PER"), test=part("B-LOC"))) == ["LOC", "PER"]
    with pytest.raises(CorpusError, match="all are O"):
        tagged.types(DatasetDict(train=part("O"), test=part("O")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "names"}, "task='names'"),
        ({"limit": 0}, "limit=0"),
        ({"name_or_path": "nothing.conll"}, "no data set and no file"),
        ({"name_or_path": "redaction", "task": "parts-of-speech"}, "with data 'redaction'"),
    ],
)
def test_bad_options_are_refused(options, words) -> None:
    with pytest.raises(CorpusError, match=words):
        tagged.load(**({"name_or_path": "peoples-daily"} | options))


def test_the_newspaper_is_split_by_time_as_pretraining_holds_it_out() -> None:
    data = tagged.load("peoples-daily")
    whole = [
        "".join(tokens) for part in ("validation", "test") for tokens in data[part]["tokens"]
    ]
    held = set(pretraining.held_out("zh"))
    assert set(whole) <= held  # what notebook 05 leaves out of its texts
    trained = {duplicates.normal_form("".join(tokens)) for tokens in data["train"]["tokens"]}
    assert not trained & {duplicates.normal_form(text) for text in whole}
    kinds = {spans.split_tag(t)[1] for tags in data["test"]["tags"] for t in tags} - {""}
    assert kinds == {"LOC", "ORG", "PER"}
    assert "Sentences: train 15,156" in corpora.notes(data)[0]
    places = [int(place.rsplit(" ", 1)[1]) for place in data["test"]["place"]]
    assert places == sorted(places)


def test_smaller_limits_are_parts_of_larger_ones() -> None:
    few, more = (tagged.load("peoples-daily", limit=n, seed=1)["train"] for n in (50, 200))
    assert few["tokens"][:] == more["tokens"][:50]
    other = tagged.load("peoples-daily", limit=50, seed=2)["train"]
    assert few["tokens"][:] != other["tokens"][:]


def test_parts_of_speech_cover_every_character() -> None:
    data = tagged.load("peoples-daily", task="parts-of-speech", limit=100)
    assert all("O" not in tags for tags in data["train"]["tags"])
    assert {"n", "v", "w"} <= set(tagged.types(data))


def test_synthetic_messages_hold_out_templates_and_repeat() -> None:
    used = [set(part) for part in redaction.TEMPLATES.values()]
    assert not used[0] & used[1] and not used[0] & used[2] and not used[1] & used[2]
    first, again = redaction.sentences("train", 60), redaction.sentences("train", 60)
    assert first == again and redaction.sentences("train", 60, seed=1) != first
    assert {s.place for s in first} == {f"template {i + 1}" for i in range(30)}
    kinds = {kind for s in first for kind, _, _ in spans.to_spans(s.tags)}
    assert kinds == set(redaction.types())
    plain = [s for s in first if not spans.to_spans(s.tags)]
    assert plain, "some messages hold nothing personal"
    for split in ("validation", "test"):
        found = {
            k for s in redaction.sentences(split, 60) for k, _, _ in spans.to_spans(s.tags)
        }
        assert found == set(redaction.types())


def test_display_text_keeps_every_token_in_order() -> None:
    tokens = [
        "It",
        "costs",
        "$",
        "3",
        ".",
        "50",
        ",",
        "王",
        "明",
        "said",
        "on",
        "2020",
        "-",
        "01",
        ".",
    ]
    text = tagged.text_of(tokens)
    assert text == "It costs $3.50,王明said on 2020-01." and np.all([t in text for t in tokens])


def test_one_file_under_two_names_is_refused(tmp_path) -> None:
    """No model is tested on what it was trained on: all kinds of own data share one door."""
    text = "\n".join(f"{n} O\nAnn B-PER\nlives O\nhere O\n" for n in "abcdefghijkl")
    for name in ("train.conll", "test.conll"):
        write(tmp_path, name, text)
    with pytest.raises(CorpusError, match="test.conll and train.conll are the same file"):
        tagged.load(tmp_path)


def test_a_split_of_another_name_is_not_used_and_said(tmp_path) -> None:
    rows = {
        "tokens": [[f"{n}a", "Ann", "lives", f"{n}b"] for n in "abcdefghijklmnopqrst"],
        "tags": [["O", "B-PER", "O", "O"]] * 20,
    }
    parts = {"train": Dataset.from_dict(rows), "extra": Dataset.from_dict(rows)}
    DatasetDict(parts).save_to_disk(str(tmp_path / "two"))
    assert "The split 'extra' is not used." in corpora.notes(tagged.load(tmp_path / "two"))
