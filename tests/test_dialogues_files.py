"""Broken files of conversations: what is refused, what is left out, and where it is."""

from __future__ import annotations

import json

import pytest

from sftkit import corpora, data_report
from sftkit.corpora import chat_formats, dialogues, split
from sftkit.errors import CorpusError
from tests.engine.tiny_chat import talk, tokenizer

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
    "ash",
    "oak",
]
PAIRS = [{"prompt": f"what is {word}?", "completion": f"it is {word}"} for word in WORDS]
CSV = [f"what is {word}?,it is {word}" for word in WORDS]
DEEP = "[" * 100_000


def written(path, lines):
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def everything(data):
    return [row for part in split.SPLITS for row in data[part]]


def refused(path, **options):
    with pytest.raises(CorpusError) as caught:
        dialogues.load(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("value", [21, 2.5, ["b", "a"], {"x": 1}, True])
@pytest.mark.parametrize(
    ("column", "answer"), [("input", "output"), ("context", "response"), ("system", "output")]
)
def test_a_side_column_is_never_lost(tmp_path, column, answer, value):
    rows = [{"instruction": f"do {word}", column: "", answer: word} for word in WORDS]
    rows[3][column] = value
    path = written(tmp_path / "talks.jsonl", rows)
    assert f"talks.jsonl, line 4: {column!r} holds" in refused(path)
    assert len(everything(dialogues.load(path, drop_malformed=True))) == len(WORDS) - 1
    for missing in (None, float("nan"), "", " \n", "\u200b"):
        rows[3][column] = missing
        (turns,) = (
            row["messages"]
            for row in everything(dialogues.load(written(path, rows)))
            if row["messages"][-1]["content"] == "four"
        )
        assert [turn["content"] for turn in turns] == ["do four", "four"]


def test_a_side_column_beside_turns_is_refused(tmp_path):
    row = {"instruction": talk("hi"), "input": "x", "output": talk("hi", "ho")[1:]}
    path = written(tmp_path / "talks.jsonl", [row])
    assert "line 1: 'input' stands beside a list of turns" in refused(path)


@pytest.mark.parametrize("empty", ["\u200b", "\ufeff \u200b", "\x00\x01"])
def test_what_is_empty_once_it_is_clean_is_empty(tmp_path, empty):
    path = written(tmp_path / "a.jsonl", [*PAIRS, PAIRS[0] | {"completion": empty}])
    assert "a.jsonl, line 13: 'completion' is empty" in refused(path)
    data = dialogues.load(path, drop_malformed=True)
    assert len(everything(data)) == len(PAIRS)
    assert any("1 malformed rows left out" in note for note in corpora.notes(data))
    path = written(tmp_path / "b.jsonl", [{"text": word} for word in [empty, *WORDS]])
    assert "b.jsonl, line 1: 'text' is empty" in refused(path)
    with pytest.raises(CorpusError, match="row 0, turn 1: 'content' is empty"):
        dialogues.of([talk("hi", empty)])


def test_contents_are_cleaned():
    (question, answer) = chat_formats.checked(talk("a\u200bb", "e\u0301 \ncode"), "x")
    assert (question["content"], answer["content"]) == ("ab", "\u00e9 \ncode")


@pytest.mark.parametrize("raw", ["train", "test"])
def test_raw_texts_beside_conversations_are_refused(tmp_path, raw):
    other = {"train": "test", "test": "train"}[raw]
    written(tmp_path / f"{raw}.jsonl", [{"text": f"about {word}"} for word in WORDS])
    written(tmp_path / f"{other}.jsonl", PAIRS)
    says = f"{raw}.jsonl, line 1 is a raw text, {other}.jsonl, line 1 a conversation"
    assert says in refused(tmp_path)


def test_the_report_names_raw_texts(tmp_path):
    raw = written(tmp_path / "raw.jsonl", [{"text": f"all about {word}"} for word in WORDS])
    with pytest.raises(CorpusError, match="The train split holds raw texts") as caught:
        data_report(dialogues.load(raw), tokenizer(), 64)
    assert "encode_lm.causal" in caught.value.fix


HEADERS = {
    "blank lines before it": ["", "", "prompt,completion", *CSV],
    "semicolons after a blank line": [
        "",
        "prompt;completion",
        *(row.replace(",", ";") for row in CSV),
    ],
    "a line break in a cell": ['"no\nte",prompt,completion', *(f"x,{row}" for row in CSV)],
    "semicolons after a line break": [
        '"no\nte";prompt;completion',
        *(f"x;{row}".replace(",", ";") for row in CSV),
    ],
    "two columns that are not read": ["x,x,prompt,completion", *(f"1,2,{row}" for row in CSV)],
}  # fmt: skip


@pytest.mark.parametrize("what", HEADERS)
def test_headers_are_read_as_the_rows_are(tmp_path, what):
    path = written(tmp_path / "talks.csv", HEADERS[what])
    found = [row["messages"] for row in everything(dialogues.load(path))]
    assert sorted(turns[1]["content"] for turns in found) == sorted(f"it is {w}" for w in WORDS)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "a.csv is empty"),
        ("a.csv", b"\n\n", "a.csv is empty"),
        ("a.csv", b'prompt,"completion\na,b\n', "a quotation mark is opened and never closed"),
        ("a.csv", b'prompt,"completion\n' + b"a,b\n" * 50_000, "opened and never closed"),
        ("a.csv", b"prompt,completion,prompt\na,b,c\n", "there are 2 columns 'prompt'"),
        ("a.parquet", b"", "a.parquet cannot be read as Parquet"),
        ("a.parquet", b"PAR1 but no more", "a.parquet cannot be read as Parquet"),
        ("a.jsonl", '{"prompt": "x"}\n'.encode("utf-16"), "a.jsonl is written in UTF-16"),
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl", b'"abc"\n"d"\n', "a.jsonl, line 1: str instead of an object"),
        ("a.jsonl", b"{oops\n", "a.jsonl, line 1 is not JSON"),
        ("a.json", b"[]", "a.json is empty"),
        ("a.json", b'\n[\n\n"abc"]', "a.json, item 1: str instead of an object"),
        ("a.json", DEEP.encode(), "it is nested too deeply"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    assert says in refused(tmp_path / name)
    assert says in refused(tmp_path / name, drop_malformed=True)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [pa.array(WORDS), pa.array(WORDS), pa.array(WORDS)]
    pq.write_table(
        pa.table(columns, ["prompt", "completion", "prompt"]), tmp_path / "a.parquet"
    )
    assert "a.parquet: there are 2 columns 'prompt'" in refused(tmp_path / "a.parquet")
    path = written(tmp_path / "b.csv", ["text,label,text", *(f"{w},x,y" for w in WORDS)])
    with pytest.raises(CorpusError, match=r"b.csv: there are 2 columns 'text'"):
        corpora.load(path)


def test_the_items_of_a_list_are_no_lines(tmp_path):
    rows = [*PAIRS[:2], {"prompt": "x", "completion": 3}, *PAIRS[2:]]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    assert "a.json, item 3: 'completion' holds a number" in refused(path)
    assert (
        everything(dialogues.load(path, drop_malformed=True))[0]["place"][:12] == "a.json, item"
    )
    written(path, rows)
    assert "a.json, line 3: 'completion' holds a number" in refused(path)
    path.write_text(json.dumps([{"text": "a", "label": "b"}, 3]), encoding="utf-8")
    with pytest.raises(CorpusError, match="a.json, item 2: int instead of an object"):
        corpora.load(path)
    path.write_text(json.dumps([{"text": "a", "label": None}]), encoding="utf-8")
    with pytest.raises(CorpusError, match="a.json, item 1"):
        corpora.load(path)


BROKEN = {
    "from a list": (
        {"conversations": [{"from": ["human"], "value": "x"}]},
        "it is from a list",
    ),
    "a deep list in a text": ({"conversations": DEEP}, "holds a text, not a list of turns"),
    "a deep line": ('{"conversations": ' + DEEP, "is not JSON: it is nested too deeply"),
    "half a line": ("{oops", "is not JSON"),
    "a list": ("[1]", "list instead of an object"),
    "a text": ('"hi"', "str instead of an object"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_lines_are_named_or_left_out(tmp_path, what):
    line, says = BROKEN[what]
    rows = [
        {"conversations": [{"from": "human", "value": r["prompt"]},
                           {"from": "gpt", "value": r["completion"]}]}
        for r in PAIRS
    ]  # fmt: skip
    path = written(tmp_path / "a.jsonl", [*rows[:4], line, *rows[4:], {"conversations": None}])
    told = refused(path)
    assert "a.jsonl, line 5" in told and says in told and "drop_malformed=True" in told
    data = dialogues.load(path, drop_malformed=True)
    assert len(everything(data)) == len(PAIRS)
    (note,) = (note for note in corpora.notes(data) if "malformed" in note)
    assert "a.jsonl: 2 malformed rows left out. The first: a.jsonl, line 5" in note


def test_rows_of_another_width_or_size_are_left_out(tmp_path):
    rows = ["prompt,completion", *CSV, "x,", "a,b,c", f"{'x' * 1_000_001},y"]
    path = written(tmp_path / "a.csv", [*rows[:3], "a", *rows[3:]])
    assert "a.csv, row 4: too few fields" in refused(path)
    data = dialogues.load(path, drop_malformed=True)
    assert len(everything(data)) == len(CSV)
    says = "a.csv: 4 malformed rows left out. The first: a.csv, row 4: too few fields"
    assert any(says in note for note in corpora.notes(data))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_texts_that_are_too_long_are_left_out(tmp_path, kind):
    from datasets import Dataset

    rows = [*PAIRS[:2], {"prompt": "x" * 1_000_001, "completion": "y"}, *PAIRS[2:]]
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        written(path, rows)
    else:
        Dataset.from_list(rows).to_parquet(path)
    assert "3: column 'prompt' holds more than" in refused(path)
    data = dialogues.load(path, drop_malformed=True)
    assert {row["messages"][1]["content"] for row in everything(data)} == {
        row["completion"] for row in PAIRS
    }
    places = {row["place"].split()[-1] for row in everything(data)}
    assert places == {str(n) for n in range(1, 14)} - {"3"}


@pytest.mark.parametrize("limit", [2.5, "3", True, 0, [1]])
def test_a_limit_is_a_whole_number(limit):
    with pytest.raises(CorpusError, match="^limit="):
        dialogues.load("dialogues", limit=limit)


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (None, "conversations: NoneType instead of a list"),
        ("abc", "conversations: str instead of a list"),
        ([None], "row 0: NoneType instead of a list"),
        ([talk("a", "b"), 5], "row 1: int instead of a list"),
        ([{"role": "user"}], "row 0: dict instead of a list"),
        ([["x"]], "row 0, turn 0: a text instead of an object"),
        ([[{"role": json.loads("[" * 300 + "]" * 300), "content": "x"}]], "the role is a list"),
    ],
)
def test_what_is_no_conversation_in_memory(held, says):
    with pytest.raises(CorpusError, match=says):
        dialogues.of(held)
