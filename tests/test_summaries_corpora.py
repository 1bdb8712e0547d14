"""Texts with summaries: docstrings by library, the user's own tables, what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from sftkit import corpora
from sftkit.corpora import duplicates, summaries, summary_texts
from sftkit.corpora.docstrings import Docstring
from sftkit.errors import CorpusError
from sftkit.evaluate.summarizing import words
from sftkit.files import PACKAGE

EXAMPLE = PACKAGE.parent / "data" / "examples" / "summaries.csv"


@pytest.fixture(scope="module")
def embedded():
    return summaries.load()


def doc(text: str) -> Docstring:
    return Docstring("a", "a.b", "function", text)


REST = "Values are read from the left to the right, one after the other. " * 5


def test_the_first_paragraph_is_the_summary_and_marks_are_taken_out() -> None:
    found = summary_texts.of_docstring(doc(f"Give back the\n:class:`~a.B` of `c`.\n\n{REST}"))
    assert found and found.summary == "Give back the a.B of c."
    assert found.text == REST.strip("\n") and found.title == "a.b"


def test_a_summary_that_the_text_repeats_is_taken_out_of_the_text() -> None:
    again = "give BACK  the\n   value of c"
    found = summary_texts.of_docstring(doc(f"Give back the value of c.\n\n{again}. {REST}"))
    assert found and "value of c" not in " ".join(found.text.split()).lower()
    assert found.text.strip() == REST.strip("\n").strip()


@pytest.mark.parametrize(
    "text",
    [
        "Give back the value of it.",  # nothing to summarize
        f"Give back.\n\n{REST}",  # too short
        f"{'word ' * 31}.\n\n{REST}",  # too long
        f"Give back the value of it\n\n{REST}",  # no sentence
        f"func(a, b) gives back the value.\n\n{REST}",  # a signature
        f".. note:: gives back the value.\n\n{REST}",  # a directive
        "Give back the value of it.\n\nIt is short.",
        f"Give back the value of it.\n\nTo *give back* the 'value' of it. {REST}",
    ],
)
def test_other_docstrings_are_left_out(text: str) -> None:
    assert summary_texts.of_docstring(doc(text)) is None


def test_no_library_text_or_summary_is_on_two_sides(embedded) -> None:
    for first, second in (("train", "test"), ("train", "validation"), ("validation", "test")):
        a, b = embedded[first], embedded[second]
        assert not set(a["library"]) & set(b["library"])
        for column in ("text", "summary"):
            sides = [{duplicates.normal_form(t) for t in part[column]} for part in (a, b)]
            assert not sides[0] & sides[1]
    groups = duplicates.near_groups([*embedded["train"]["text"], *embedded["test"]["text"]])
    n = len(embedded["train"])
    assert not set(groups[:n].tolist()) & set(groups[n:].tolist())


def test_no_text_holds_its_summary(embedded) -> None:
    for part in embedded.values():
        for text, line in zip(part["text"], part["summary"], strict=True):
            assert " ".join(words(line)) not in " ".join(words(text))


def test_there_are_enough_and_the_notes_say_of_which_versions(embedded) -> None:
    assert len(embedded["train"]) > 4_000 and len(embedded["test"]) > 1_000
    notes = "\n".join(corpora.notes(embedded))
    assert all(library in notes for names in summaries.LIBRARIES.values() for library in names)


def test_a_smaller_limit_is_a_part_of_a_larger_one() -> None:
    small, large = (set(summaries.load(limit=n, seed=3)["train"]["title"]) for n in (40, 90))
    assert small < large
    assert small != set(summaries.load(limit=40, seed=4)["train"]["title"])


def test_our_example_goes_through() -> None:
    data = summaries.load(EXAMPLE)
    assert sum(map(len, data.values())) == 20
    assert min(map(len, data.values())) >= 2


def rows(n: int = 14) -> list[dict[str, str]]:
    def said(start: int, count: int) -> str:
        letters = random.Random(start)
        return " ".join("".join(letters.choices("aeioulmnrst", k=6)) for _ in range(count))

    return [{"article": said(i, 20), "head": said(i, 4)} for i in range(1, n + 1)]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "disk"])
def test_tables_of_all_kinds_and_columns_by_name(tmp_path: Path, kind: str) -> None:
    from datasets import Dataset, DatasetDict

    table, path = Dataset.from_list(rows()), tmp_path / f"mine.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows()))
    elif kind == "parquet":
        table.to_parquet(str(path))
    elif kind == "disk":
        DatasetDict(train=table).save_to_disk(str(path))
    else:
        table.to_csv(str(path), sep="\t" if kind == "tsv" else ",", index=False)
    data = summaries.load(path, text="article", summary="head")
    assert sum(map(len, data.values())) == 14
    assert {row["summary"] for part in data.values() for row in part} == {
        row["head"] for row in rows()
    }


BAD = {
    "no such column": ("a,b\n1,2\n", {}, "no column 'text'"),
    "the other column": ("text,headline\nx,y\n", {}, "no column 'summary'"),
    "empty summary": (
        "text,summary\n" + "some text,a line\n" * 3 + "some text,\n",
        {},
        "row 5: 'summary' is empty",
    ),
    "empty text": ("text,summary\n ,a line\n", {}, "row 2: 'text' is empty"),
    "only a header": ("text,summary\n", {}, "no rows"),
    "one column twice": ("text\nx\n", {"summary": "text"}, "the same column"),
    "too few": ("text,summary\nsome text,a line\n", {}, "too few"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_told_with_its_place(tmp_path: Path, case: str) -> None:
    content, options, said = BAD[case]
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(CorpusError, match=said):
        summaries.load(path, **options)


def test_a_wrong_encoding_and_a_missing_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes("text,summary\ncaf\u00e9 in town,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(CorpusError, match="encoding"):
        summaries.load(path)
    with pytest.raises(CorpusError, match="no file"):
        summaries.load(tmp_path / "nothing.csv")
    with pytest.raises(CorpusError, match="limit=0"):
        summaries.load(limit=0)
