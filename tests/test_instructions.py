"""Tasks that a program checks: right answers pass, wrong ones are named, nothing is shared."""

from __future__ import annotations

import json
import re
from itertools import combinations

import numpy as np
import pytest

from sftkit.corpora import instructions
from sftkit.corpora.chat_formats import checked
from sftkit.corpora.instructions import KINDS, NOTES, REQUESTS, VALUES, Task, tasks, wrong
from sftkit.errors import CorpusError


@pytest.mark.parametrize("part", VALUES)
def test_right_answers_are_right_and_talks_are_well_formed(part):
    made = tasks(part, 120)
    assert len({task.prompt for task in made}) == 120
    kinds = instructions.TRAINED_KINDS if part == "train" else KINDS
    assert [task.kind for task in made[: 2 * len(kinds)]] == [*kinds, *kinds]
    for task in made:
        assert wrong(task, task.answer) == ""
        checked(task.messages(), "x")
        assert [turn["role"] for turn in task.messages(answered=False)] == ["system", "user"]
    assert tasks(part, 120) == made and tasks(part, 120, seed=1) != made


def test_nothing_that_is_measured_was_trained():
    for one, other in combinations(VALUES, 2):
        assert not set(VALUES[one]) & set(VALUES[other])
        assert not set(VALUES[other]) & _words(one)
        assert not set(NOTES[one]) & set(NOTES[other])
        assert not _words(one) & _words(other)
        for kind in KINDS:
            assert not set(REQUESTS[one][kind]) & set(REQUESTS[other][kind])
    prompts = [{task.prompt for task in tasks(part, 200)} for part in VALUES]
    assert not prompts[0] & prompts[2]


def test_tested_wordings_are_no_training_wordings_turned_round():
    """Of the words of a tested request and a trained one, little more than half are shared."""
    for kind in KINDS:
        train = [_telling(text) for text in REQUESTS["train"][kind]]
        for text in (*REQUESTS["validation"][kind], *REQUESTS["test"][kind]):
            own = _telling(text)
            assert max(len(own & other) / len(own | other) for other in train) < 0.55, text


def test_no_request_put_together_of_parts_is_near_a_tested_one():
    generator = np.random.default_rng(0)
    for kind in KINDS:
        made = {instructions._composed(kind, generator) for _ in range(4_000)}
        assert len(made) > 700
        assert all(text.count("{") == 1 and "{keys}" in text for text in made)
        train = [_telling(text) for text in made]
        for text in REQUESTS["test"][kind]:
            own = _telling(text)
            assert max(len(own & other) / len(own | other) for other in train) < 0.55, text
        assert not made & {*REQUESTS["validation"][kind], *REQUESTS["test"][kind]}


def _telling(text):
    return set(re.findall("[a-z]+", text.lower())) - {"keys", "a", "the", "of", "for", "with"}


def _words(part):
    lists = [values for values in VALUES[part].values() if not isinstance(values, str)]
    more = [*instructions.REAL.values(), list(VALUES[part])] if part == "train" else []
    return {value for values in (*lists, *more) for value in values}


def test_words_for_training_are_no_part_of_what_is_measured():
    trained = {w.lower() for words in instructions.REAL.values() for w in words}
    for part in ("validation", "test"):
        measured = {w.lower() for text in (*_words(part), *VALUES[part]) for w in text.split()}
        assert not trained & measured


def test_rare_words_are_trained_and_only_there():
    known = _words("train") | {"made up", "number"}

    def strange(part):
        texts = [x for t in tasks(part, 200) for pair in t.expected.items() for x in pair]
        return [x for x in texts if isinstance(x, str) and x not in known | _words(part)]

    assert len(strange("train")) > 100
    assert set(strange("validation") + strange("test")) <= {
        *VALUES["validation"],
        *VALUES["test"],
    }


TASK = {
    kind: Task(kind, "", instructions.right_answer(kind, expected), expected, ("Ada Obi", 70))
    for kind in KINDS
    for expected in [{"river": "Tagus", "room": 7}]
}


@pytest.mark.parametrize(
    ("kind", "answer", "says"),
    [
        ("json", '{"room": 7, "river": "Tagus"}', ""),
        ("json", '{"room": "7", "river": "Tagus"}', ""),
        ("json", '```json\n{"room": 7, "river": "Tagus"}\n```', "not JSON"),
        ("json", '["Tagus", 7]', "no object"),
        ("json", '{"river": "Tagus"}', "wrong keys"),
        ("json", '{"river": "Tagus", "room": 7, "more": 1}', "wrong keys"),
        ("json", '{"river": "Volga", "room": 7}', "wrong values"),
        ("list", "- Tagus\n- 7", ""),
        ("list", "- river: Tagus\n- room: 7", ""),
        ("list", "* Tagus\n* 7", "not a list of dashes"),
        ("list", "Here:\n- Tagus\n- 7", "not a list of dashes"),
        ("list", "- Tagus", "too few lines"),
        ("list", "- Tagus\n- 7\n- May", "too many lines"),
        ("list", "- 7\n- Tagus", "wrong values"),
        ("list", "- Tagus\n- 77", "wrong values"),
        ("list", "- Tagus.\n- Room: 7", ""),
        ("list", "- room: Tagus\n- 7", "wrong values"),
        ("list", "- river = Tagus; room = 7\n- river = Tagus; room = 7", "wrong values"),
        ("sentence", "Room 7 looks at the river Tagus.", ""),
        ("sentence", "The river and the room are Tagus and 7.", ""),
        ("sentence", "Tagus is the river, and 7 the room!", ""),
        ("sentence", "Room 7 looks at the Tagus.", "a key is missing"),
        ("sentence", "river = Tagus, room = 7.", "not one sentence"),
        ("sentence", "river: Tagus, room: 7.", "not one sentence"),
        ("sentence", "- the river is Tagus and the room is 7.", "not one sentence"),
        ("sentence", "The room is Tagus and the river is 7.", "wrong values"),
        ("sentence", "The river is Tagus, the room is 7 and Ada Obi wrote.", "says more"),
        ("sentence", "The room is 7. The river is Tagus.", "more than one sentence"),
        ("sentence", "The river is Tagus", "not one sentence"),
        ("sentence", "The river is Tagus and the room is 77.", "wrong values"),
        ("sentence", "  ", "empty"),
    ],
)
def test_wrong_answers_are_named(kind, answer, says):
    assert wrong(TASK[kind], answer) == says


def test_brackets_without_end_are_no_json():
    for depth in (*range(900, 1_000), 3_000, 100_000):
        assert wrong(TASK["json"], "[" * depth) == "not JSON"
        nested = f'{{"room": {"[" * depth}{"]" * depth}, "river": "Tagus"}}'
        assert wrong(TASK["json"], nested) in ("wrong values", "not JSON")


def test_two_keys_may_have_one_value():
    expected = {"weight": 7, "river": "Tagus", "room": 7}
    task = Task("sentence", "", "", expected)
    assert wrong(task, "The weight is 7, the river is Tagus and the room is 7.") == ""
    assert wrong(task, "Weight and room are 7, the river is Tagus.") == ""
    assert (
        wrong(task, "The weight is Tagus, the river is 7 and the room is 7.") == "wrong values"
    )
    both = Task("sentence", "", "", {"weight": 7, "room": 7}, (7,))
    assert wrong(both, "The weight and the room are 7.") == ""


def test_words_within_words():
    expected = {"shoe size": 41, "garment": "rain boots", "size": "small"}
    task = Task("sentence", "", "", expected, ("rain", "bird"))
    assert wrong(task, instructions.right_answer("sentence", expected)) == ""
    assert wrong(task, "Rain boots are the garment, the shoe size is 41, the size small.") == ""
    swapped = "The size is 41, the shoe size is small and the garment is rain boots."
    assert wrong(task, swapped) == "wrong values"
    told = "The shoe size is 41, the garment is rain boots, the size is small and it will rain."
    assert wrong(task, told) == "says more"


def test_what_was_not_asked_for_is_known():
    for part in VALUES:
        for task in tasks(part, 60):
            for value in map(str, (*task.expected.values(), *task.others)):
                assert value in task.prompt


def test_no_constant_answer_does_well():
    made = tasks("test", 300)
    best = max(sum(not wrong(t, answer) for t in made) for answer in {t.answer for t in made})
    assert best < 15


def test_few_shot_turns():
    shots = tasks("train", 2)
    turns = instructions.few_shot(tasks("test", 1)[0], shots)
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    assert [turn["role"] for turn in turns] == roles
    assert json.loads(turns[2]["content"]) == shots[0].expected


def test_what_is_refused(monkeypatch):
    with pytest.raises(CorpusError, match="0 tasks of part"):
        tasks("train", 0)
    with pytest.raises(CorpusError, match="part 'other'"):
        tasks("other", 3)
    only = tasks("test", 1)[0]
    monkeypatch.setattr(instructions, "_task", lambda *_: only)
    with pytest.raises(CorpusError, match="There are not 2 different tasks for test"):
        tasks("test", 2)
