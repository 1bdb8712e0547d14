"""Drawing and asking: escaped tables, figures with alt text, exercises, widgets."""

from __future__ import annotations

import pytest

from sftkit.teach import exercises, show, widgets


def mean(values):
    return sum(values) / len(values)


CASES = [([1.0, 2.0, 6.0],), ([4.0],)]
MISTAKES = [(sum, "Did you forget to divide?")]


def test_the_solution_passes(capsys):
    assert exercises.check("mean", mean, mean, CASES, MISTAKES)
    assert capsys.readouterr().out == "mean: right on 2 cases.\n"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (sum, "Did you forget to divide?"),
        (max, "it gives 6.0; expected 3.0"),
        (lambda values: values, "expected 3.0"),
        (lambda values: 1 / 0, "raises ZeroDivisionError"),
    ],
)
def test_wrong_answers_get_their_sentence(capsys, answer, words):
    assert not exercises.check("mean", answer, mean, CASES, MISTAKES)
    assert words in capsys.readouterr().out


def test_an_exercise_not_begun(capsys):
    def stub(values):
        raise NotImplementedError

    assert not exercises.check("mean", stub, mean, CASES)
    assert "not begun" in capsys.readouterr().out


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


def test_a_table_is_escaped_and_aligned():
    table = show.Table([("<i>x</i>", 1234, 0.12345)], ("name", "n", "share"), "A & B")
    page = table._repr_html_()
    assert "&lt;i&gt;" in page and "A &amp; B" in page and "1,234" in page and "0.123" in page
    assert repr(table).splitlines()[1].startswith("name")


def test_a_figure_without_alt_text_is_refused():
    fig, _ = show.new_figure()
    with pytest.raises(ValueError, match="alt text"):
        show.figure(fig, " ")
