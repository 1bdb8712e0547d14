"""What can be wrong with a user's data, and what each mistake is answered with."""

import json
import re

import pytest

from sftkit import corpora
from sftkit.errors import CorpusError

GOOD = "".join(f"some text about {a}{b},{a}\n" for a in "xy" for b in "abcdefghijklmnopqrst")


def csv(text, encoding="utf-8", name="data.csv"):
    return {name: text.encode(encoding)}


def jsonl(*lines):
    good = [
        json.dumps({"text": f"text {a}{b} here", "label": a}) for a in "xy" for b in "abcdefgh"
    ]
    return {"data.jsonl": "\n".join([*good, *lines]).encode()}


def splits(train, test, suffix="csv"):
    return {f"train.{suffix}": train.encode(), f"test.{suffix}": test.encode()}


HEAD = "text,label\n"
OTHERS = "".join(f"other words on {b}{b},x\nmore words on {b}{b},y\n" for b in "abcdef")

# name: (files, options, what the message must hold). Of several files, the folder is loaded.
BAD = {
    "utf-16": (csv(HEAD + GOOD, "utf-16"), {}, "UTF-16, not in utf-8|encoding='utf-16'"),
    "utf-16 without mark": (csv(HEAD + GOOD, "utf-16-le"), {}, "UTF-16|encoding='utf-16'"),
    "latin-1": (
        csv(HEAD + GOOD + "caf\xe9 and more,x\n", "latin-1"),
        {},
        "data.csv, line 42: byte 0xE9 at position 854|encoding='cp1252'",
    ),
    "gb18030": (csv(HEAD + GOOD + "今天天气很好,x\n", "gb18030"), {}, "encoding='gb18030'"),
    "latin-1 jsonl": (
        {"data.jsonl": b'{"text": "caf\xe9", "label": "x"}\n'},
        {},
        "data.jsonl, line 1: byte 0xE9 at position 13",
    ),
    "unknown encoding": (csv(HEAD + GOOD), {"encoding": "utf-9"}, "encoding='utf-9'"),
    "missing column": (
        csv("txet,label,id\n" + GOOD.replace("\n", ",1\n")),
        {},
        "no column 'text'|Columns are: 'txet', 'label', 'id'|text='txet'",
    ),
    "missing label": (csv("text,class\n" + GOOD), {}, "no column 'label'|label="),
    "missing group": (csv(HEAD + GOOD), {"group": "user"}, "no column 'user'|group="),
    "missing in jsonl": (
        {"data.jsonl": b'{"body": "a", "label": 1}\n'},
        {},
        "no column 'text'|'body', 'label'",
    ),
    "empty file": (csv(""), {}, "data.csv is empty"),
    "empty jsonl": ({"data.jsonl": b"\n\n"}, {}, "data.jsonl is empty"),
    "header only": (csv(HEAD), {}, "data.csv has no rows"),
    "one class": (csv(HEAD + GOOD.replace(",y", ",x")), {}, "every row has the label 'x'"),
    "labels in test alone": (
        splits(HEAD + GOOD, HEAD + OTHERS.replace(",y", ",Y")),
        {},
        "labels of the test split that no training row has: 'Y'|upper and lower",
    ),
    "too many fields": (
        csv(HEAD + GOOD + "one, two,x\n"),
        {},
        "data.csv, row 42: too many fields, 3 instead of 2",
    ),
    "too few fields": (
        csv(HEAD + GOOD + "one\n"),
        {},
        "row 42: too few fields, 1 instead of 2",
    ),
    "row after a line break": (
        csv(HEAD + '"a\nb",x\n' + "one, two,x\n"),
        {},
        r"row 3 \(line 4\): too many fields",
    ),
    "10 MB in one cell": (
        csv(HEAD + GOOD + "a" * 10_000_000 + ",x\n"),
        {},
        "row 42: column 'text' holds more than",
    ),
    "10 MB in one cell of jsonl": (
        jsonl(json.dumps({"text": "a" * 10_000_000, "label": "x"})),
        {},
        "data.jsonl, line 17: column 'text' holds more",
    ),
    "quotation mark left open": (
        csv(HEAD + GOOD + '"never closed,x\n' + GOOD),
        {},
        "row 42: a quotation mark is opened",
    ),
    "stray quotation mark": (csv(HEAD + GOOD + '"a" b,x\n'), {}, "row 42 is not valid CSV"),
    "empty label": (
        csv(HEAD + GOOD + "more,\n"),
        {},
        "data.csv, row 42: column 'label' is empty|drop_unlabelled=True",
    ),
    "nan label": (csv(HEAD + GOOD + "more,NaN\n"), {}, "row 42: column 'label' is empty"),
    "nan label in jsonl": (
        jsonl('{"text": "more", "label": NaN}'),
        {},
        "line 17: column 'label' is empty",
    ),
    "only empty texts": (csv(HEAD + " ,x\n ,y\n"), {}, "none of its 2 rows has both"),
    "not json": (jsonl('{"text": oops}'), {}, "data.jsonl, line 17 is not JSON"),
    "not an object": (jsonl("[1, 2]"), {}, "data.jsonl, line 17: list instead of an object"),
    "list of labels": (
        jsonl('{"text": "more", "label": ["x", "y"]}'),
        {},
        "line 17: column 'label' holds a list, not one label",
    ),
    "text is an object": (
        jsonl('{"text": {"a": 1}, "label": "x"}'),
        {},
        "line 17: column 'text' holds a dict",
    ),
    "parquet that is none": (
        {"data.parquet": b"PAR1 but no more"},
        {},
        "cannot be read as Parq",
    ),
    "fractions as labels": (
        csv(HEAD + GOOD.replace(",x", ",0.25").replace(",y", ",1.5")),
        {},
        "numbers with fractions, such as 0.25|quantity",
    ),
    "ids as labels": (
        csv(HEAD + "".join(f"some text {at},id{at}\n" for at in range(1500))),
        {},
        "1,500 different labels|column of ids",
    ),
    "too few of a class": (
        csv(HEAD + GOOD + "only one of these,z\n"),
        {},
        r"classes 'z' \(1\) for 3 splits|Merge",
    ),
    "copies are no rows": (
        csv(HEAD + GOOD + "the same text again here,z\n" * 5),
        {},
        r"classes 'z' \(5\) for 3",
    ),
    "too few rows": (csv(HEAD + "a,x\nb,y\n"), {}, "2 rows are too few"),
    "splits larger than all": (csv(HEAD + GOOD), {"test": 39, "validation": 1}, "too few for"),
    "numbers as text": (
        csv("id,text,label\n" + "".join(f"t,{at},{'xy'[at % 2]}\n" for at in range(40))),
        {},
        "column 'text' holds numbers only",
    ),
    "unknown suffix": ({"data.xlsx": b"x"}, {}, "end in .xlsx are not read|.csv, .tsv"),
    "no data files": ({"notes.md": b"x", "b.md": b"y"}, {}, "holds no data files|notes.md"),
    "no training file": (
        {"test.csv": b"x", "dev.csv": b"x"},
        {},
        "has no training file|dev.csv, test.csv",
    ),
    "two training files": (
        {"train.csv": b"x", "train.jsonl": b"x"},
        {},
        "several train files: train.csv, train.jsonl",
    ),
    "train is test": (
        splits(HEAD + GOOD, HEAD + GOOD),
        {},
        "test.csv and train.csv are the same",
    ),
    "broken saved data set": (
        {"dataset_dict.json": b'{"splits": ["train"]}', "a": b""},
        {},
        "cannot be read as a data",
    ),
    "unknown step": (csv(HEAD + GOOD), {"clean": ["lower"]}, "no step 'lower'|html, mojibake"),
    "share of nothing": (csv(HEAD + GOOD), {"test": 0}, "test=0 is not a size"),
    "limit of nothing": (csv(HEAD + GOOD), {"limit": 0}, "not a number of rows"),
    "limit of no split": (csv(HEAD + GOOD), {"limit": {"tset": 3}}, "no split 'tset'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_answered_in_plain_words(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SFTKIT_CACHE", str(tmp_path / "cache"))
    files, options, wanted = BAD[name]
    folder = tmp_path / "mine"
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    path = folder / next(iter(files)) if len(files) == 1 else folder
    with pytest.raises(CorpusError) as caught:
        corpora.load(path, **options)
    for piece in wanted.split("|"):
        assert re.search(piece, str(caught.value)), str(caught.value)
    assert caught.value.fix, "an error says what to do"
    left = [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert not left, "nothing half-made stays in the cache"


def test_a_good_file_of_the_same_kind_is_read(tmp_path, monkeypatch):
    """The table above fails for the reasons it names, not because of its rows."""
    monkeypatch.setenv("SFTKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data.csv").write_text(HEAD + GOOD, encoding="utf-8")
    assert len(corpora.load(tmp_path / "data.csv")["train"]) == 32
    (tmp_path / "data16.csv").write_bytes((HEAD + GOOD).encode("utf-16"))
    assert len(corpora.load(tmp_path / "data16.csv", encoding="utf-16")["train"]) == 32
    (tmp_path / "quotes.csv").write_text(HEAD + GOOD + '"a b c d e f,x\n', encoding="utf-8")
    assert len(corpora.load(tmp_path / "quotes.csv", quotes=False)["train"]) == 33


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("tweet", "Did you mean 'tweets'"),
        ("nowhere/file.csv", "Embedded are: tweets, reuters-r8"),
    ],
)
def test_a_name_that_is_nothing(name, wanted):
    with pytest.raises(CorpusError, match=wanted):
        corpora.load(name)


def test_a_misspelt_path(tmp_path):
    (tmp_path / "reviews.csv").write_text("x", encoding="utf-8")
    with pytest.raises(CorpusError, match="Did you mean .*reviews.csv"):
        corpora.load(tmp_path / "review.csv")


def test_embedded_columns_are_fixed():
    with pytest.raises(CorpusError, match="its columns are fixed"):
        corpora.load("tweets", text="body")
    with pytest.raises(CorpusError, match="no column 'user' to group by"):
        corpora.load("tweets", group="user")
