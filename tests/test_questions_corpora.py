"""Docstrings, questions about them, SQuAD files: places, splits, and what is refused."""

from __future__ import annotations

import json
import re

import pytest
from datasets import DatasetDict

from sftkit import corpora
from sftkit.corpora import docstring_questions, docstrings, duplicates, questions, squad
from sftkit.corpora.docstring_questions import (
    Asker,
    default_span,
    names_one,
    some_words,
    type_span,
)
from sftkit.corpora.docstrings import Docstring, entries, sections
from sftkit.errors import CorpusError
from sftkit.files import PACKAGE

EXAMPLE = PACKAGE.parent / "data" / "examples" / "questions.json"
TEXT = """\
Smooth a signal with a moving mean, and return it with as many points as before.

Parameters
----------
values : array_like of shape (n,)
    The input signal. It may hold
    gaps.

    A second paragraph, of no interest.
nan_policy : {'omit', 'raise'}, default: 'omit'
    Whether NaN values are to be ignored.
n_jobs : int, optional
    Number of jobs to run in parallel. The default is 1.
mode: str
    - ``a``: one
    - ``b``: two

Returns
-------
smooth : ndarray
    The smoothed signal.

Raises
------
ValueError
    If the window is longer than the signal.
"""
DOC = Docstring("lib", "lib.smooth", "function", TEXT)


@pytest.fixture(scope="module")
def made():
    return questions.load()


# -- docstrings -----------------------------------------------------------------------------


def test_entries_have_their_places() -> None:
    parts = {s.title: entries(TEXT, s) for s in sections(TEXT)}
    assert list(parts) == ["Parameters", "Returns", "Raises"]
    given = {e.name: e for e in parts["Parameters"]}
    assert list(given) == ["values", "nan_policy", "n_jobs", "mode"]
    body = TEXT[slice(*given["values"].body)]
    assert body == "The input signal. It may hold\n    gaps."
    assert TEXT[slice(*given["values"].type)] == "array_like of shape (n,)"
    assert TEXT[slice(*given["mode"].type)] == "str"
    assert TEXT[slice(*parts["Raises"][0].body)].startswith("If the window")
    assert parts["Raises"][0].type[0] == parts["Raises"][0].type[1]


def test_types_and_defaults_are_found_in_both_places() -> None:
    given = {e.name: e for e in entries(TEXT, sections(TEXT)[0])}
    assert TEXT[slice(*default_span(TEXT, given["nan_policy"]))] == "'omit'"
    assert TEXT[slice(*default_span(TEXT, given["n_jobs"]))] == "1"
    assert default_span(TEXT, given["values"])[0] == default_span(TEXT, given["values"])[1]
    assert TEXT[slice(*type_span(TEXT, given["nan_policy"]))] == "{'omit', 'raise'}"
    assert TEXT[slice(*type_span(TEXT, given["n_jobs"]))] == "int"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("x : int, default=10", "10"),
        ("x : float (default: 0.5)", "0.5"),
        ("x : bool, optional, default is True.", "True"),
        ("x : str, default ''", ""),  # normal form of nothing: no question
        ("x : int\n    The default is over all axes.", ""),
    ],
)
def test_defaults_in_many_forms(line, value) -> None:
    text = f"Do it.\n\nParameters\n----------\n{line}\n"
    (entry,) = entries(text, sections(text)[0])
    assert text[slice(*default_span(text, entry))] == value


def test_reading_a_library_does_not_import_it() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom sftkit.corpora import docstrings\n"
        "print(len(list(docstrings.read('networkx'))) > 500, 'networkx' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_a_library_that_is_not_there_is_said() -> None:
    with pytest.raises(CorpusError, match="not installed"):
        list(docstrings.read("no_such_library"))
    with pytest.raises(CorpusError, match="not installed"):
        docstrings.version("no_such_library")


# -- questions about docstrings ---------------------------------------------------------------


@pytest.mark.parametrize("held", [False, True])
def test_answers_are_what_the_sections_say(held) -> None:
    found = list(Asker(held, ["strange_name"]).questions(DOC, TEXT))
    by_kind: dict[str, list[str | None]] = {}
    for q in found:
        answer = TEXT[q.start : q.end] if q.start >= 0 else None
        by_kind.setdefault(q.kind, []).append(answer)
    known = docstring_questions.SHARES if held else docstring_questions.TRAINED
    assert set(by_kind) <= set(known) and ("in its words" in by_kind) != held
    assert "If the window is longer than the signal." in by_kind["raises"]
    assert by_kind["which error"] == ["ValueError"]
    assert by_kind["returns"] == ["The smoothed signal."]
    assert by_kind["result type"] == ["ndarray"]
    how = {q.meaning: TEXT[q.start : q.end] for q in found if q.kind == "how"}
    assert how["missing_values"].startswith("nan_policy : ")
    assert how["missing_values"].endswith("to be ignored.")
    assert how["parallel"].startswith("n_jobs : int")
    assert set(by_kind["no such name"]) == {None}
    for q in found:
        if q.kind not in docstring_questions.NAMED:
            assert not re.search(r"\b(values|nan_policy|n_jobs|mode)\b", q.text), q


def test_some_words_of_a_description_are_telling_and_its_own() -> None:
    first = "The size of the moving window, which is given in samples"
    made = {some_words(f"{first}. Nothing of this.", str(i)) for i in range(50)}
    telling = ["size", "moving", "window", "samples"]
    for words in made:
        place = telling.index(words.split()[0])
        assert words.split() == telling[place : place + len(words.split())]
        assert 2 <= len(words.split()) <= 4
    assert len(made) > 3 and some_words(first, "salt") == some_words(first, "salt")
    assert some_words("If true.", "salt") == some_words("", "salt") == ""


def test_two_parameters_of_one_meaning_make_no_question() -> None:
    twice = TEXT.replace("mode: str\n", "workers : int\n    Number of workers.\nmode: str\n")
    found = Asker(True, ["strange_name"]).questions(DOC, twice)
    assert "parallel" not in {q.meaning for q in found if q.kind == "how"}


def test_a_wording_that_names_a_parameter_is_not_used(monkeypatch) -> None:
    text = TEXT.replace("values : array", "cores : array")
    given = entries(text, sections(text)[0])
    assert names_one("I have eight cores.", given) and not names_one("In short?", given)
    asker = Asker(True, ["strange_name"])
    asked = [q.text for q in asker.questions(DOC, text) if q.meaning == "parallel"]
    assert asked and all("cores" not in t for t in asked)
    # Without the test on names, this docstring gets the question with its name.
    monkeypatch.setattr(docstring_questions, "names_one", lambda question, given: False)
    every = [q.text for name in "abcdef" for q in asker.questions(
        Docstring("lib", name, "function", text), text) if q.meaning == "parallel"]  # fmt: skip
    assert any("cores" in t for t in every)


def test_wordings_are_on_one_side() -> None:
    known = docstring_questions.wordings()
    sides: dict[str, set[str]] = {"train": set(), "held": set()}
    for part in [*known["frames"].values(), *known["means"].values()]:
        for side, texts in sides.items():
            texts |= {*part.get(side, []), *part.get(f"default_{side}", [])}
    assert len(sides["train"]) > 450 and len(sides["held"]) > 100
    assert not sides["train"] & sides["held"]


def test_held_wordings_are_no_paraphrases_of_training_wordings() -> None:
    """Of the words that tell something, a held wording shares few with the nearest one."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    def telling(text: str) -> set[str]:
        return set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", "", text.lower()))) - set(
            ENGLISH_STOP_WORDS
        )

    known, nearest = docstring_questions.wordings(), []
    for part in known["means"].values():
        for prefix in ("", "default_"):
            train = [telling(t) for t in part.get(f"{prefix}train", [])]
            for text in part.get(f"{prefix}held", []) if train else []:
                own = telling(text)
                shared = (len(own & t) / max(len(own | t), 1) for t in train)
                nearest.append(max(shared))
    assert max(nearest) < 0.7 and sum(nearest) / len(nearest) < 0.15, nearest


def test_splits_are_by_library_and_share_nothing(made) -> None:
    for name, part in made.items():
        assert set(part["library"]) == set(questions.LIBRARIES[name])
    contexts = {name: sorted(set(part["context"])) for name, part in made.items()}
    flat = [text for texts in contexts.values() for text in texts]
    owner = [name for name, texts in contexts.items() for _ in texts]
    sides: dict[int, set[str]] = {}
    for group, name in zip(duplicates.near_groups(flat).tolist(), owner, strict=True):
        sides.setdefault(group, set()).add(name)
    assert all(len(names) == 1 for names in sides.values())
    plain = {
        name: {q for q, named in zip(part["question"], part["named"], strict=True) if not named}
        for name, part in made.items()
    }
    assert not plain["train"] & (plain["test"] | plain["validation"])


def test_answers_stand_in_their_contexts_and_shares_are_said(made) -> None:
    for part in made.values():
        squad.check_all(questions.items(part), "made")
    test = made["test"]
    unnamed = 1 - sum(test["named"]) / len(test)
    empty = sum(not t for t in test["texts"]) / len(test)
    assert unnamed >= 0.5 and 0.05 < empty < 0.3
    said = " ".join(corpora.notes(made))
    assert f"{100 * unnamed:.0f} % name no parameter" in said
    assert f"{100 * empty:.0f} % have no answer" in said
    for library in ("numpy", "sklearn"):
        assert f"{library} {docstrings.version(library)}" in said
    meanings = [m for m, k in zip(test["meaning"], test["kind"], strict=True) if k == "how"]
    assert len(set(meanings)) > 30 and set(meanings) - set(made["train"]["meaning"])


def test_a_smaller_limit_is_a_part_of_a_larger_one(made) -> None:
    small, large = (questions.load(limit=n)["train"]["id"] for n in (20, 60))
    assert list(large)[:20] == list(small)
    other = questions.load(limit=20, seed=1)
    assert set(other["train"]["id"]) != set(small)
    assert list(other["test"]["id"]) == list(made["test"]["id"])


def test_questions_are_made_alike_every_time() -> None:
    docs = [(DOC, TEXT)]
    assert questions._asked(docs, "test") == questions._asked(docs, "test")


# -- SQuAD files ------------------------------------------------------------------------------


def one(context="Tea is hot.", question="What is hot?", **more):
    qa = {"id": "1", "question": question, "answers": [{"text": "Tea", "answer_start": 0}]}
    paragraph = {"context": context, "qas": [qa | more]}
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [paragraph]}]}


def written(tmp_path, content, name="my.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (one(context=" "), "question 1.*context is empty"),
        (one(question=""), "question 1.*question is empty"),
        (one(answers=[{"text": "hot", "answer_start": 3}]), "'hot' is not at 3"),
        (one(answers=[{"text": "hot", "answer_start": 3}]), "begins at 7"),
        (one(answers=[{"text": "cold", "answer_start": 0}]), "nowhere in the context"),
        (one(answers=[{"text": "Tea", "answer_start": -11}]), "not at -11"),
        (one(answers=[{"text": "Tea", "answer_start": "0"}]), "not at '0'"),
        (one(answers=[{"text": " ", "answer_start": 3}]), "answer is empty"),
        (one(is_impossible=True), "is_impossible, but it has answers"),
        (one(answers=[]), "has no answers"),
        ({"data": []}, "no questions"),
        ({"rows": []}, "not in the form of SQuAD"),
        ({"data": [{"paragraphs": [{"qas": [{}]}]}]}, "question 1: not in the form"),
        ("{'data': 1}", "line 1: not JSON"),
    ],
)
def test_broken_files_are_refused_with_their_place(tmp_path, content, words) -> None:
    with pytest.raises(CorpusError, match=words) as caught:
        squad.read(written(tmp_path, content))
    assert "my.json" in str(caught.value)


def test_an_id_that_is_there_twice_is_refused(tmp_path) -> None:
    content = one()
    content["data"].append(content["data"][0])
    with pytest.raises(CorpusError, match="question 2: the id '1' is there twice"):
        squad.read(written(tmp_path, content))


def test_another_encoding_is_said(tmp_path) -> None:
    path = tmp_path / "latin.json"
    text = json.dumps(one(context="Tea is hot, café."), ensure_ascii=False)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CorpusError, match=r"byte \d+ is not utf-8"):
        squad.read(path)
    assert squad.read(path, encoding="latin-1")[0].context.endswith("café.")


def test_files_are_written_as_they_were_read(tmp_path) -> None:
    items = squad.read(EXAMPLE)
    squad.write(items, tmp_path / "again.json")
    assert squad.read(tmp_path / "again.json") == items
    with pytest.raises(CorpusError, match="has no answer"):
        squad.write(items, tmp_path / "old.json", version="1.1")
    answered = [item for item in items if item.texts]
    squad.write(answered, tmp_path / "old.json", version="1.1")
    assert "is_impossible" not in (tmp_path / "old.json").read_text()
    assert squad.read(tmp_path / "old.json") == answered


def test_the_example_is_split_by_context(tmp_path) -> None:
    data = questions.load(EXAMPLE)
    contexts = [set(part["context"]) for part in data.values()]
    assert all(contexts) and sum(map(len, contexts)) == len(set().union(*contexts))
    assert sum(map(len, data.values())) == 22
    data.save_to_disk(str(tmp_path / "saved"))
    again = questions.load(tmp_path / "saved")
    assert list(again["test"]["id"]) == list(data["test"]["id"])
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, part in data.items():
        squad.write(questions.items(part), folder / f"{name}-v2.0.json")
    again = questions.load(folder)
    assert {k: set(v["id"]) for k, v in again.items()} == {
        k: set(v["id"]) for k, v in data.items()
    }


def test_squad_as_the_hub_has_it_is_read(tmp_path) -> None:
    from datasets import Dataset

    rows = {
        "id": ["a", "b"],
        "title": ["", ""],
        "context": ["Tea is hot in the morning.", "Ice is cold in winter, says Ann."],
        "question": ["What is hot?", "What is cold?"],
        "answers": [{"text": ["Tea"], "answer_start": [0]}, {"text": [], "answer_start": []}],
    }
    parts = {"test": Dataset.from_dict(rows)}
    others = {"train": "North of here lies a town.", "validation": "Deep snow fell all night."}
    for name, text in others.items():
        first = {"text": [text.split()[0]], "answer_start": [0]}
        more = {"context": [text, text], "answers": [first, first]}
        parts[name] = Dataset.from_dict(rows | more)
    DatasetDict(parts).save_to_disk(str(tmp_path / "hub"))
    data = questions.load(tmp_path / "hub")
    assert list(data["test"]["texts"]) == [["Tea"], []]


def test_too_few_contexts_and_missing_files_are_said(tmp_path) -> None:
    with pytest.raises(CorpusError, match="1 different contexts are too few"):
        questions.load(written(tmp_path, one()))
    with pytest.raises(CorpusError, match="no file or folder"):
        questions.load("no-such-file.json")
    with pytest.raises(CorpusError, match="limit=0"):
        questions.load(EXAMPLE, limit=0)
