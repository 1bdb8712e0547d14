"""The documentation assistant's questions and the tasks in French and Chinese."""

from __future__ import annotations

import pytest

from sftkit.corpora import docstrings, documentation, languages
from sftkit.corpora.chat_formats import checked
from sftkit.corpora.checked_tasks import Task
from sftkit.corpora.documentation import Call
from sftkit.corpora.questions import LIBRARIES
from sftkit.errors import CorpusError

SOURCE = '''"""A library."""
class Model:
    """Fit a line."""
    def __init__(self, rate=0.1, *, steps: int = 3) -> None:
        pass
    def fit(self, x: list, y=None, **options):
        """Fit the line to points."""
    @staticmethod
    def load(path, /):
        """Load a model from a file."""
    @classmethod
    def of(cls, rows):
        """Create it from rows."""
    @property
    def slope(self):
        """Get the slope."""
class Heir(Model):
    """Inherits how it is made."""
def both(a, b: int = 2, *rest):
    """Returns what both have."""
'''


@pytest.fixture
def calls(tmp_path, monkeypatch):
    (tmp_path / "lib.py").write_text(SOURCE)
    monkeypatch.setattr(docstrings, "_folder", lambda library: tmp_path)
    return {doc.name.rpartition("lib.")[2]: doc.call for doc in docstrings.read("lib")}


def test_signatures_are_those_that_a_user_types(calls):
    assert calls == {
        "Model": "Model(rate=0.1, *, steps=3)",
        "Model.fit": "fit(x, y=None, **options)",
        "Model.load": "load(path, /)",
        "Model.of": "of(rows)",
        "Model.slope": "",
        "Heir": "",
        "both": "both(a, b=2, *rest)",
    }


@pytest.mark.parametrize(
    ("text", "purpose"),
    [
        ("Compute the mean of an array.\n\nMore.", "compute the mean of an array"),
        ("Computes the mean of rows. And more", "compute the mean of rows"),
        ("Return ``x`` as\na :class:`~a.B` object", "return x as a a.B object"),
        ("Reshapes it to this form.", "reshape it to this form"),
        ("The mean of an array.", ""),
        ("Compute " + "very " * 30 + "much", ""),
    ],
)
def test_purposes_follow_how_do_i(text, purpose):
    call = Call(docstrings.Docstring("lib", "lib.f", "function", text, "f()"))
    assert call.purpose == purpose


def test_questions_can_be_answered_from_what_they_show():
    made = documentation.tasks("test", 60)
    assert made == documentation.tasks("test", 60) != documentation.tasks("test", 60, seed=1)
    assert [t.kind for t in made[:4]] == [*documentation.KINDS] * 2
    for task in made:
        shown = documentation.choices(task)
        assert len(set(shown)) == 4 and task.answer in shown
        assert documentation.wrong(task, task.answer) == ""
        checked(task.messages(), "x")


def test_the_word_baseline_finds_the_named_and_guesses_the_meant():
    found: dict[str, list[bool]] = {}
    for task in documentation.tasks("test", 200):
        right = not documentation.wrong(task, documentation.lexical(task))
        found.setdefault(task.kind, []).append(right)
    share = {kind: sum(right) / len(right) for kind, right in found.items()}
    assert share["named"] > 0.75 and share["meant"] < 0.45


def test_no_library_and_no_wording_of_the_test_is_trained_on():
    of = {part: {t.prompt.split(maxsplit=3)[2].partition(".")[0].rstrip(":")
                 for t in documentation.tasks(part, 80)} for part in LIBRARIES}  # fmt: skip
    assert of["test"] <= set(LIBRARIES["test"]) and of["train"] <= set(LIBRARIES["train"])
    assert not set(documentation.WORDINGS["train"]) & set(documentation.WORDINGS["test"])


QUESTION = Task(
    "named", "Calls in m:\n- fit(x, y)\n- copy()\n- a()\n- b()\nHow?", "fit(x, y)",
    {"call": "fit(x, y)"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("fit(x, y)", ""),
        (" fit(x,\n y)", ""),
        ("copy()", "another call"),
        ("fit(x)", "other arguments"),
        ("- fit(x, y)", "more than the call"),
        ("predict(x)", "no call of the list"),
        ("", "empty"),
    ],
)
def test_wrong_calls_are_named(answer, says):
    assert documentation.wrong(QUESTION, answer) == says


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_right_sentences_are_right_in_both_languages(part):
    made = languages.tasks(part, 60)
    assert [t.kind for t in made[:2]] == ["french", "chinese"]
    for task in made:
        assert languages.wrong(task, task.answer) == ""
        checked(task.messages(), "x")
        assert set(task.expected) <= set(languages.NAMES)
    held = {key for t in languages.tasks("test", 60) for key in t.expected}
    assert not held & {key for t in languages.tasks("train", 60) for key in t.expected}


def test_names_within_names_and_values_within_values_are_told_apart():
    """A name of one character stands in others: 年 in 年龄, 行 in 行星, 排 in 排名."""
    for seed in range(12):
        for task in languages.tasks("train", 600, seed):
            assert languages.wrong(task, task.answer) == "", task.answer
    row = Task("chinese", "", "", {"row": 8, "planet": "Kufila"})
    assert languages.wrong(row, "行星是Kufila，排是8。") == ""
    assert languages.wrong(row, "Kufila行星在8行。") == ""
    assert languages.wrong(row, "行星是Kufila，8。") == "a name is missing"
    year = Task("chinese", "", "", {"year": 59, "age": 22})
    assert languages.wrong(year, "年龄是22，59。") == "a name is missing"
    singer = Task("chinese", "", "", {"name": "Athens", "singer": "Pliva Galileo"}, ("Pliva",))
    assert languages.wrong(singer, "名字是Athens，歌手是Pliva Galileo。") == ""
    assert languages.wrong(singer, "名字是Athens，歌手是Pliva Galileo和Pliva。") == "says more"
    assert languages.wrong(singer, "名字是Athens，歌手是Pliva。") == "wrong values"
    within = Task("french", "", "", {"name": "Omar", "singer": "Omar Diaz"})
    assert languages.wrong(within, "Le nom est Omar et le chanteur est Omar Diaz.") == ""
    assert languages.wrong(within, "Le nom est zzz et le chanteur est Omar Diaz.") != ""


FRENCH = Task("french", "", "", {"river": "Tagus", "room": 7}, ("Ada Obi", 70))
CHINESE = Task("chinese", "", "", {"river": "Tagus", "room": 7}, ("Ada Obi", 70))


@pytest.mark.parametrize(
    ("task", "answer", "says"),
    [
        (FRENCH, "Le fleuve est Tagus et la salle est 7.", ""),
        (FRENCH, "Dans la pièce 7, on voit le fleuve Tagus!", ""),
        (FRENCH, "The river is Tagus and the room is 7.", "a name is missing"),
        (FRENCH, "La rivière est Tagus. La salle est 7.", "more than one sentence"),
        (FRENCH, "La rivière est Tagus et la salle est 77.", "wrong values"),
        (FRENCH, "La rivière est Tagus et la salle est 7", "not one sentence"),
        (FRENCH, "La rivière est 7 et la salle est Tagus.", "wrong values"),
        (FRENCH, "La rivière est Tagus, la salle est 7 et Ada Obi a 70.", "says more"),
        (CHINESE, "河流是7，房间是Tagus。", "wrong values"),
        (CHINESE, "河流是Tagus，房间是7，70。", "says more"),
        (FRENCH, "河是Tagus，房间是7。", "another language"),
        (CHINESE, "河流是Tagus，房间是7。", ""),
        (CHINESE, "7号房间能看到Tagus河。", ""),
        (CHINESE, "河流是Tagus。房间是7。", "more than one sentence"),
        (CHINESE, "河流是Tagus，房间是77。", "wrong values"),
        (CHINESE, "水是Tagus，房间是7。", "a name is missing"),
        (CHINESE, "The river is Tagus.", "another language"),
        (CHINESE, " ", "empty"),
    ],
)
def test_wrong_sentences_are_named(task, answer, says):
    assert languages.wrong(task, answer) == says


@pytest.mark.parametrize("job", [documentation, languages])
def test_what_is_refused(job):
    with pytest.raises(CorpusError, match="Give at least 1, of train"):
        job.tasks("train", 0)
    with pytest.raises(CorpusError, match="part 'other'"):
        job.tasks("other", 3)
