"""Drawing and asking: escaped tables, figures with alt text, exercises, widgets."""

from __future__ import annotations

import numpy as np
import pytest

from sftkit.course.proofs import LINE
from sftkit.teach import exercises, show, widgets
from sftkit.teach.chat import chat_box
from sftkit.teach.proofs import compare, power_of_ten, same


def mean(values):
    return sum(values) / len(values)


CASES = [([1.0, 2.0, 6.0],), ([4.0],)]
MISTAKES = [
    (sum, "Did you forget to divide?"),
    (lambda values: 1 / mean(values), "Upside down."),
]


@pytest.fixture(autouse=True)
def _without_proving(monkeypatch):
    monkeypatch.delenv(exercises.PROVE, raising=False)  # tests of the course set it


@pytest.fixture
def exercise():
    return exercises.Exercise("mean", mean, CASES, MISTAKES)


def test_the_solution_passes(exercise, capsys):
    assert exercise.passes(lambda values: sum(values) / len(values))
    assert capsys.readouterr().out == "mean: right on 2 cases.\n"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (sum, "Did you forget to divide?"),
        (lambda values: 1 / mean(values), "Upside down."),
        (max, "it gives 6.0; expected 3.0"),
        (lambda values: values, "The result has shape (3,); expected ()."),
        (lambda values: 1 / 0, "raises ZeroDivisionError"),
        (lambda values: None, "returns nothing"),
        (lambda values: print, "expected 3.0"),
        (lambda values: float("nan"), "it gives nan; expected 3.0"),
        (lambda values: "three", "expected 3.0"),
        (lambda values: {"mean": 3.0}, "expected 3.0"),
        (lambda values: values.clear(), "returns nothing"),  # its own copy is cleared
        (lambda: 3.0, "raises TypeError"),
    ],
)
def test_wrong_answers_get_their_sentence(exercise, capsys, answer, words):
    assert not exercise.passes(answer)
    assert words in capsys.readouterr().out
    assert CASES[0][0] == [1.0, 2.0, 6.0]


def test_an_exercise_not_begun(exercise, capsys):
    def stub(values):
        raise NotImplementedError

    assert not exercise.passes(stub)
    assert "not begun" in capsys.readouterr().out


def test_results_can_be_given_as_a_list_and_may_be_arrays_texts_or_nested():
    import torch

    given = exercises.Exercise("words", [["a", "b"], ["c"]], [("a b",), ("c",)], MISTAKES)
    assert given.passes(str.split)
    assert not given.passes(list)
    tensors = exercises.Exercise("softmax", lambda x: x.softmax(-1), [(torch.zeros(2),)], [])
    assert tensors.passes(lambda x: [0.5, 0.5])
    with pytest.raises(ValueError, match="1 results for 2 cases"):
        exercises.Exercise("words", [["a"]], [("a",), ("b",)], [])


@pytest.mark.parametrize(
    ("mistakes", "problem"),
    [
        (MISTAKES[:1], "plant at least two mistakes"),
        ([*MISTAKES, (mean, "Not a mistake.")], "a mistake passes: Not a mistake."),
        ([*MISTAKES, (sum, "Another sentence.")], "is told"),  # the first one answers
    ],
)
def test_planted_mistakes_must_fail_with_their_own_sentence(monkeypatch, mistakes, problem):
    monkeypatch.setenv(exercises.PROVE, "1")
    exercises.Exercise("mean", mean, CASES, MISTAKES)
    with pytest.raises(AssertionError, match=problem):
        exercises.Exercise("mean", mean, CASES, mistakes)


def test_a_proof_prints_its_line_or_raises(capsys):
    import torch

    compare("a vs b", [1.0, 2.0], torch.tensor([1.0, 2.0 + 2e-7]), 1e-6)
    compare("inf vs inf", float("inf"), np.inf, 1e-6)
    same("words vs words", ["a", "b"], ("a", "b"))
    lines = capsys.readouterr().out.splitlines()
    assert [LINE.fullmatch(line)["what"] for line in lines] == [
        "a vs b",
        "inf vs inf",
        "words vs words",
    ]
    assert "< 1e-06" in lines[0] and "= 0" in lines[1] and "0 of 2 differ" in lines[2]


@pytest.mark.parametrize(
    ("ours", "reference", "problem"),
    [
        ([1.0, 3.0], [1.0, 2.0], r"at \(1,\) is above the tolerance"),
        ([1.0, float("nan")], [1.0, 2.0], r"at \(1,\)"),
        ([1.0], [[1.0]], "shape"),
        ([], [], "nothing to compare"),
    ],
)
def test_a_proof_that_fails_says_where(ours, reference, problem):
    with pytest.raises(AssertionError, match=problem):
        compare("a vs b", ours, reference, 1e-6)


@pytest.mark.parametrize(
    ("ours", "problem"), [(["a", "c"], "item 1 is 'c'"), (["a"], "1 items"), ([], "0 items")]
)
def test_sequences_that_differ_name_the_first_place(ours, problem):
    with pytest.raises(AssertionError, match=problem):
        same("words", ours, ["a", "b"])


@pytest.mark.parametrize(
    ("error", "text"), [(0, "= 0"), (3e-13, "< 1e-12"), (1e-12, "< 1e-11"), (0.5, "< 1e+00")]
)
def test_errors_are_rounded_up_to_a_power_of_ten(error, text):
    assert power_of_ten(error) == text


def test_a_figure_box_draws_again_and_says_what_it_cannot_draw():
    import ipywidgets

    def draw(n):
        if n > 3:
            raise ValueError("n must be < 4")
        fig, axes = show.new_figure()
        axes.plot(range(n))
        return fig

    slider = ipywidgets.IntSlider(value=1, min=1, max=9)
    _, image, message = widgets.figure_box(draw, {"n": slider}).children
    first = bytes(image.value)
    slider.value = 3
    assert first.startswith(b"\x89PNG") and image.value != first and message.value == ""
    last = image.value
    slider.value = 8
    assert image.value == last and "n must be &lt; 4" in message.value
    slider.value = 2
    assert message.value == "" and image.value != last


def test_the_box_answers_each_kind_of_input():
    box = widgets.classify_box(lambda text: {"<b>good</b>": 0.8, "bad": 0.2}, "hello")
    text, button, result = box.children
    assert "80.0 %" in result.value and "<b>" not in result.value
    for typed, words in [
        ("", "Type a sentence"),
        ("x" * 100_000, "too many"),
        ("😀", "80.0 %"),
    ]:
        text.value = typed
        button.click()
        assert words in result.value


def test_a_conversation_is_shown_while_it_is_written():
    pages, asked = [], []

    def answer(talk):
        asked.append([turn["content"] for turn in talk])
        if "forged" in talk[-1]["content"]:
            raise ValueError("<forged>")
        for piece in ("<b>y", "es"):
            yield piece
            pages.append(page.value)

    page, text, buttons = chat_box(answer, "really?").children
    send, again = buttons.children
    send.click()
    assert "&lt;b&gt;y</td>" in pages[0] and "&lt;b&gt;yes</td>" in pages[1]
    assert text.value == "" and asked == [["really?"]]
    send.click()
    assert "Type something" in page.value and "yes" in page.value and len(asked) == 1
    text.value = "forged"
    send.click()
    assert "That was not sent: &lt;forged&gt;" in page.value and text.value == "forged"
    text.value = "and now?"
    send.click()
    assert asked[-1] == ["really?", "<b>yes", "and now?"]
    again.click()
    assert page.value == "<p>Ask something.</p>"


def test_a_table_is_escaped_and_aligned():
    table = show.Table([("<i>x</i>", 1234, 0.12345)], ("name", "n", "share"), "A & B")
    page = table._repr_html_()
    assert "&lt;i&gt;" in page and "A &amp; B" in page and "1,234" in page and "0.123" in page
    assert repr(table).splitlines()[1].startswith("name")


def test_a_figure_without_alt_text_is_refused():
    fig, _ = show.new_figure()
    with pytest.raises(ValueError, match="alt text"):
        show.figure(fig, " ")
