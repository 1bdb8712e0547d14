"""Coloured entities: escaped, labelled, in their own colours."""

from __future__ import annotations

import re

import pytest

from sftkit.teach.entities import MOST, entities_html, legend_html, marks_of


def test_entities_are_marked_escaped_and_labelled() -> None:
    text = "<b>Ann</b> & 王明 left"
    page = entities_html(text, [("PER", 3, 6), ("LOC", 13, 15)], ["LOC", "PER"], "found")
    assert "<b>Ann" not in page and "&lt;b&gt;" in page and "&amp;" in page
    assert page.count("<mark") == 2 and 'aria-label="Ann (PER)"' in page
    assert page.index(">Ann<") < page.index("王明") and "<b>found</b>" in page
    plain = re.sub(r"<sub.*?</sub>|<small>.*?</small> |<[^>]*>", "", page)
    assert plain == "&lt;b&gt;Ann&lt;/b&gt; &amp; 王明 left"


def test_types_keep_their_colours() -> None:
    first = entities_html("Ann", [("PER", 0, 3)], ["LOC", "PER"])
    second = entities_html("in Oslo, Ann", [("LOC", 3, 7), ("PER", 9, 12)], ["LOC", "PER"])
    colours = re.findall(r"background:(#\w+)", second)
    assert re.findall(r"background:(#\w+)", first) == [colours[1]] and len(set(colours)) == 2
    assert re.findall(r"background:(#\w+)", legend_html(["LOC", "PER"])) == colours
    assert "&lt;script" in entities_html("x", [("<script>", 0, 1)])


@pytest.mark.parametrize("marks", [[("A", 0, 3), ("B", 2, 4)], [("A", 2, 2)], [("A", 3, 9)]])
def test_impossible_marks_are_refused(marks) -> None:
    with pytest.raises(ValueError, match="overlaps or is outside"):
        entities_html("abcdef", marks)


def test_long_texts_are_cut_and_say_so() -> None:
    page = entities_html("a" * (MOST + 5), [("A", 0, 1)])
    assert f"The first {MOST:,} characters are shown" in page and len(page) < MOST + 1_000
    assert entities_html("", []).startswith("<div")
    assert "\ufffd" in entities_html("\ud800", [])


def test_spans_of_tokens_find_their_characters() -> None:
    tokens, text = ["Ann", "-", "May", "Ann"], "Ann-May, Ann!"
    assert marks_of(tokens, [("P", 0, 3), ("Q", 3, 4)], text) == [("P", 0, 7), ("Q", 9, 12)]
    with pytest.raises(ValueError, match="not in the text"):
        marks_of(["Bob"], [("P", 0, 1)], text)
