"""Blind comparison: fair to both sides, equal to scipy's test, escaped."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from sftkit.teach.blind import Blind, sign_test

N = 200
QUESTIONS = [f"q{i}" for i in range(N)]
GOOD, BAD = [f"good {i}" for i in range(N)], [f"bad {i}" for i in range(N)]


def judged(verdict, **options):
    blind = Blind(QUESTIONS, GOOD, BAD, ("A", "B"), **options)
    while blind.shown:
        blind.judge(verdict(*blind.shown))
    return blind


def test_who_judges_by_content_finds_the_better_model():
    assert judged(lambda q, left, right: "left" if "good" in left else "right").wins == [N, 0]
    assert judged(lambda q, left, right: "left" if "bad" in left else "right").wins == [0, N]
    assert judged(lambda *_: "equal").ties == N


def test_who_always_says_left_finds_nothing():
    blind = judged(lambda *_: "left")
    assert abs(blind.wins[0] - N / 2) < 30 and sign_test(*blind.wins) > 0.01


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (5, 5), (9, 1), (30, 12)])
def test_the_sign_test_is_scipys(a, b):
    expected = binomtest(a, a + b, 0.5).pvalue if a + b else 1.0
    assert sign_test(a, b) == pytest.approx(expected)


def test_pages_are_escaped_and_end_with_the_result():
    blind = Blind(["<i>q</i>", "x"], ["<b>", "same"], ["&", "same "], ("A", "B"))
    assert len(blind.pairs) == 1 and "<i>" not in blind.page() and "&lt;b&gt;" in blind.page()
    assert "A" not in blind.page().replace("&amp;", "")
    box = blind.box()
    box.children[1].children[0].click()
    assert "sign test p = 1.000" in box.children[0].value
    blind.judge("left")
    with pytest.raises(ValueError, match="one answer of each"):
        Blind(["q"], [], [])
    with pytest.raises(ValueError, match="verdict 'yes'"):
        Blind(["q"], ["a"], ["b"]).judge("yes")
