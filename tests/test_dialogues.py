"""Conversations: forms, malformed rows with their place, copies, splits."""

from __future__ import annotations

import csv
import json
from collections import Counter

import pytest

from sftkit import assets, corpora
from sftkit.corpora import chat_formats, dialogues, duplicates, split
from sftkit.errors import AssetError, CorpusError
from sftkit.files import project_folder

U, A, S = ({"role": role} for role in ("user", "assistant", "system"))
WORDS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
]


def turns(question, answer):
    return [U | {"content": question}, A | {"content": answer}]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def everything(data):
    return [row for part in split.SPLITS for row in data[part]]


@pytest.fixture(scope="module")
def embedded():
    try:
        return dialogues.load("dialogues")
    except AssetError as problem:
        pytest.skip(f"chatterbot-corpus has not been fetched: {problem}")


def test_the_embedded_dialogues_are_talks(embedded):
    rows = everything(embedded)
    assert len(rows) > 1_000
    for row in rows:
        assert chat_formats.checked(row["messages"], row["place"]) == row["messages"]
        assert row["messages"][-1]["role"] == "assistant"
    assert max(Counter(map(repr, (row["messages"] for row in rows))).values()) == 1
    # Lists of answers to one question are no turns; a quiz is no conversation.
    assert {len(r["messages"]) for r in rows if r["topic"] in ("emotion", "trivia")} == {2}
    assert any(len(row["messages"]) > 2 for row in rows if row["topic"] == "conversations")
    assert any("copies and left out" in note for note in corpora.notes(embedded))


def asked_on_both_sides(data):
    """Questions of test or validation that training has too, but for case and marks."""
    asked = {
        part: {
            duplicates.normal_form(dialogues.first_question(m)) for m in data[part]["messages"]
        }
        for part in split.SPLITS
    }
    return asked["train"] & (asked["test"] | asked["validation"])


def test_no_question_is_asked_on_both_sides(embedded, monkeypatch):
    assert not asked_on_both_sides(embedded)
    ungrouped = {"train": list(range(100_000))}
    monkeypatch.setattr(
        dialogues, "_groups", lambda parts: {"train": ungrouped["train"][: len(parts["train"])]}
    )
    assert asked_on_both_sides(dialogues.load("dialogues")), (
        "the detector must see a plain split"
    )


def test_a_limit_takes_a_part_of_a_larger_one(embedded):
    small = dialogues.load("dialogues", limit=20)
    assert small["train"]["messages"] == embedded["train"]["messages"][:20]
    assert small["test"]["messages"] == embedded["test"]["messages"]
    other = dialogues.load("dialogues", seed=1)
    assert other["test"]["messages"] != embedded["test"]["messages"]


def test_topics(embedded):
    some = dialogues.load("dialogues", topics=["coding", "tech_support"])
    assert {row["topic"] for row in everything(some)} == {"coding", "tech_support"}
    with pytest.raises(CorpusError, match="no topics 'cooking'"):
        dialogues.load("dialogues", topics=["cooking"])


FORMS = {
    "messages": lambda q, a: {"messages": turns(q, a)},
    "ShareGPT": lambda q, a: {
        "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]
    },
    "Alpaca": lambda q, a: {"instruction": q, "input": "", "output": a},
    "Dolly": lambda q, a: {"instruction": q, "context": None, "response": a},
    "prompt": lambda q, a: {"prompt": q, "completion": a},
    "prompt lists": lambda q, a: {
        "prompt": [U | {"content": q}],
        "completion": [A | {"content": a}],
    },
    "question": lambda q, a: {"question": q, "answer": a},
}
PAIRS = [(f"what is {word}?", f"it is {at}") for at, word in enumerate(WORDS)]


KINDS = ("jsonl", "csv", "parquet", "disk")
# A list within a cell of CSV cannot be told from a text.
POSSIBLE = [(k, f) for k in KINDS for f in FORMS if (k, f) != ("csv", "prompt lists")]


@pytest.mark.parametrize(("kind", "form"), POSSIBLE)
def test_every_form_in_every_kind_of_file(tmp_path, form, kind):
    from datasets import Dataset, DatasetDict

    rows = [FORMS[form](q, a) for q, a in PAIRS]
    path = tmp_path / f"talks.{kind}"
    if kind == "jsonl":
        write(path, rows)
    elif kind == "csv":
        with open(path, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            for row in rows:
                cells = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
                writer.writerow(cells)
    elif kind == "parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(path)
    found = [row["messages"] for row in everything(dialogues.load(path))]
    assert sorted(map(repr, found)) == sorted(repr(turns(q, a)) for q, a in PAIRS)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_weights_of_turns_are_kept(tmp_path, kind):
    from datasets import Dataset

    rows = [
        {"messages": [*turns(q, a), U | {"content": "sure?"}, A | {"content": "yes"}]}
        for q, a in PAIRS
    ]
    for row in rows:
        row["messages"][1]["weight"] = 0
    path = tmp_path / f"talks.{kind}"
    if kind == "jsonl":
        write(path, rows)
    else:
        Dataset.from_list(rows).to_parquet(path)
    for row in everything(dialogues.load(path)):
        assert [turn["weight"] for turn in row["messages"]] == [1, 0, 1, 1]
    rows[3]["messages"][1]["weight"] = 0.5
    write(path.with_suffix(".jsonl"), rows)
    with pytest.raises(CorpusError, match=r"line 4, turn 1: the weight is 0.5"):
        dialogues.load(path.with_suffix(".jsonl"))


def test_a_wrong_encoding_is_told_with_its_line(tmp_path):
    path = tmp_path / "talks.csv"
    path.write_bytes("prompt,completion\nwhere?,in the caf\u00e9\n".encode("latin-1"))
    with pytest.raises(CorpusError, match="line 2"):
        dialogues.load(path)


def test_input_system_and_raw_text(tmp_path):
    rows = [
        {"system": "be brief", "instruction": q, "input": "of 3" if at else "", "output": a}
        for at, (q, a) in enumerate(PAIRS)
    ]
    found = [
        r["messages"] for r in everything(dialogues.load(write(tmp_path / "a.jsonl", rows)))
    ]
    assert all(talk[0] == S | {"content": "be brief"} for talk in found)
    assert sum(talk[1]["content"].endswith("\n\nof 3") for talk in found) == len(PAIRS) - 1
    raw = write(tmp_path / "b.jsonl", [{"text": q} for q, _ in PAIRS])
    assert sorted(everything(dialogues.load(raw))[0]) == ["place", "text", "topic"]


def test_given_splits_lose_what_later_ones_have(tmp_path):
    write(tmp_path / "train.jsonl", [FORMS["messages"](*pair) for pair in PAIRS])
    write(tmp_path / "test.jsonl", [FORMS["messages"]("What is ONE", "a number")])
    data = dialogues.load(tmp_path)
    assert data["test"]["messages"] == [turns("What is ONE", "a number")]
    assert not asked_on_both_sides(data)
    assert "train: 1 rows like rows of later splits are left out." in corpora.notes(data)


def test_our_example_loads():
    data = dialogues.load(project_folder() / "data" / "examples" / "chats.jsonl")
    assert sum(map(len, data.values())) == 24
    assert {turn["role"] for row in everything(data) for turn in row["messages"]} == {
        "system", "user", "assistant",
    }  # fmt: skip


def test_conversations_in_memory():
    data = dialogues.of([turns(*pair) for pair in PAIRS])
    assert sorted(r["place"] for r in everything(data))[0] == "row 0"


GOOD = turns("a?", "b")
MALFORMED = {
    "line 2: 'messages' is empty": {"messages": None},
    "line 2: 'messages' holds a text": {"messages": '"hi"'},
    "line 2: nobody answers": {"messages": []},
    "line 2, turn 0: a text instead of an object": {"messages": ["hi"]},
    "line 2, turn 0: the role is 'tool'": {"messages": [{"role": "tool", "content": "x"}]},
    "line 2, turn 1: 'content' is empty": {"messages": [GOOD[0], A | {"content": None}]},
    "line 2, turn 1: 'content' holds a list": {"messages": [GOOD[0], A | {"content": [1]}]},
    "line 2, turn 2: the system speaks after": {"messages": [*GOOD, S | {"content": "x"}]},
    "line 2, turn 0: the assistant speaks before": {"messages": GOOD[1:]},
    "line 2, turn 1: two turns of the user": {"messages": [GOOD[0], *GOOD]},
    "line 2: 'messages' is empty.": {"text": "x"},
}


@pytest.mark.parametrize("says", MALFORMED)
def test_a_malformed_row_is_named(tmp_path, says):
    rows = [FORMS["messages"](*pair) for pair in PAIRS]
    rows.insert(1, MALFORMED[says])
    path = write(tmp_path / "talks.jsonl", rows)
    with pytest.raises(CorpusError) as caught:
        dialogues.load(path)
    assert f"talks.jsonl, {says}" in caught.value.what
    data = dialogues.load(path, drop_malformed=True)
    assert len(everything(data)) == len(PAIRS)
    assert any(f"1 malformed rows left out. The first: talks.jsonl, {says}" in note
               for note in corpora.notes(data))  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"question": "q"}], "the columns 'question' are no known form"),
        ([{"prompt": "q", "completion": ""}], "line 1: 'completion' is empty"),
        ([{"prompt": 3, "completion": "x"}], "line 1: 'prompt' holds a number"),
        ([{"conversations": [{"from": "tool", "value": ""}]}], "it is from 'tool'"),
        ([FORMS["messages"]("a?", "b")] * 20, "1 different conversations are too few"),
        ([{"text": " "}], "line 1: 'text' is empty"),
    ],
)
def test_what_is_refused(tmp_path, rows, says):
    with pytest.raises(CorpusError) as caught:
        dialogues.load(write(tmp_path / "talks.jsonl", rows))
    assert says in str(caught.value)


def test_options_and_paths(tmp_path):
    with pytest.raises(CorpusError, match="limit=0"):
        dialogues.load("dialogues", limit=0)
    with pytest.raises(CorpusError, match="no file or folder 'nothing'"):
        dialogues.load("nothing")
    with pytest.raises(CorpusError, match="only the embedded|Only the embedded"):
        dialogues.load(tmp_path, topics=["coding"])
    with pytest.raises(CorpusError, match="holds no data files"):
        dialogues.load(tmp_path)
    write(tmp_path / "test.jsonl", [FORMS["messages"]("a?", "b")])
    write(tmp_path / "dev.jsonl", [FORMS["messages"]("c?", "d")])
    with pytest.raises(CorpusError, match="has no training file"):
        dialogues.load(tmp_path)


def test_a_yaml_tag_runs_nothing(tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    folder = tmp_path / "english"
    folder.mkdir()
    (folder / "x.yml").write_text(
        f"conversations:\n- - !!python/object/apply:os.system ['touch {ran}']\n  - b\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(assets, "path", lambda name: tmp_path)
    with pytest.raises(Exception, match="could not determine a constructor"):
        dialogues.load("dialogues")
    assert not ran.exists()
