"""ROUGE and its companions, lead and TextRank: against libraries, and worked by hand."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftkit.errors import ParameterError
from sftkit.evaluate import summarizing as s
from sftkit.evaluate import summary_baselines as baselines

WORDS = st.lists(st.sampled_from("abcde"), max_size=9).map(" ".join)


def test_rouge_is_that_of_the_package_with_stems() -> None:
    scores = s.rouge(["Returned the values", ""], ["Return the value.", "a line"])
    assert scores[0] == pytest.approx([1.0, 1.0, 1.0]) and scores[1] == pytest.approx([0, 0, 0])
    # 2 of 3 and 2 words shared; one pair of 2 and 1; a subsequence of 2
    assert s.rouge(["sort rows now"], ["sort rows"])[0] == pytest.approx([0.8, 2 / 3, 0.8])


def test_repetition_novelty_coverage_and_density_worked_by_hand() -> None:
    assert s.repetition("a b a b") == pytest.approx(1 / 3)  # ab ba ab
    assert s.repetition("a") == 0.0
    assert s.novelty("a b c", "a b x c", 2) == 0.5
    assert s.fragments("a b c d", "x a b y d c") == [2, 1, 1]
    assert s.coverage("a b z", "a b") == pytest.approx(2 / 3)
    assert s.density("a b z", "a b") == pytest.approx(4 / 3)
    assert s.coverage("", "a") == s.density("", "a") == 0.0


@given(WORDS, WORDS)
def test_fragments_are_pieces_of_both_and_never_longer(summary: str, text: str) -> None:
    lengths = s.fragments(summary, text)
    assert sum(lengths) == sum(w in text.split() for w in summary.split())
    assert 0 <= s.coverage(summary, text) <= 1
    assert s.coverage(summary, text) <= s.density(summary, text) or not lengths
    if summary and summary == text:
        assert lengths == [len(summary.split())]


@pytest.mark.parametrize(
    ("summary", "text", "found"),
    [
        ("Return the DataFrame.", "A dataframe comes back.", []),
        ("Return the DataFrame.", "A table comes back.", ["DataFrame"]),
        ("Set max_iter to 10.", "Up to 20 steps.", ["10", "max_iter"]),
        ("Set max_iter to 10.", "max_iter is 10", []),
        ("Sort. Then Bayes helps.", "Sort it.", ["Bayes"]),  # Then begins a sentence
        ("Call a.b.c now.", "a, b and c", []),
        ("A line.", "", []),
        ("Whether it is True.", "it is", []),
        ("Draw 1_000 or 1e4 rows.", "1e4 rows", ["1_000"]),
        ("Use L2 penalties.", "penalties", ["L2"]),
    ],
)
def test_names_and_numbers_that_the_text_has_not(summary, text, found) -> None:
    assert s.invented(summary, text) == found


def test_the_report_draws_groups_and_the_gain_is_paired() -> None:
    right = [f"sort the {w} rows" for w in ("red", "blue", "green", "black")]
    good = s.summary_report(right, right, right, list("aabb"))
    assert good.interval("rouge1") == pytest.approx((100, 100, 100))
    assert good.length == 1 and good.coverage == 1 and good.novel == 0
    bad = s.summary_report(["nothing"] * 4, right, right, list("aabb"))
    gain = s.rouge_gain(good, bad)
    assert gain.points == pytest.approx(100) and gain.clear
    mixed = s.summary_report([*right[:2], "x", "x"], right, right, list("aabb"))
    _, low, high = mixed.interval()
    assert low == pytest.approx(0) and high == pytest.approx(100)  # two groups: all or nothing
    assert set(s.KINDS) <= set(good.as_metrics())
    with pytest.raises(ParameterError):
        s.rouge_gain(good, s.summary_report(right[:2], right[:2], right[:2]))
    with pytest.raises(ParameterError):
        s.rouge(["a"], [])


@given(st.integers(1, 7), st.integers(0, 10_000))
def test_page_rank_is_that_of_networkx(n: int, seed: int) -> None:
    weights = np.random.default_rng(seed).random((n, n)) * (
        np.random.default_rng(seed + 1).random((n, n)) < 0.5
    )
    graph = networkx.from_numpy_array(weights, create_using=networkx.DiGraph)
    known = networkx.pagerank(graph, alpha=baselines.DAMPING, tol=1e-13, max_iter=5_000)
    ours = baselines.page_rank(weights)
    assert ours.sum() == pytest.approx(1.0)
    assert ours == pytest.approx([known[i] for i in range(n)], abs=1e-8)


TEXT = """The cat sleeps on the warm roof. A dog barks.

Parameters
----------
cat : Animal
    The cat that sleeps.

>>> sleep(cat)
The cat sleeps while the dog barks on the roof. Nothing else happens here."""


def test_sentences_leave_out_headings_and_prompts() -> None:
    found = baselines.sentences(TEXT)
    assert found[0] == baselines.lead(TEXT) == "The cat sleeps on the warm roof."
    assert not any("Parameters" in one or ">>>" in one for one in found)


def test_text_rank_takes_the_sentence_in_the_middle_of_all() -> None:
    text = (
        "Birds sing early today. The cat and the dog sleep on the roof. "
        "The cat sleeps there. The dog and the cat bark on the roof together."
    )
    # It shares most words with the others; the first shares none.
    assert baselines.text_rank(text) != baselines.lead(text)
    assert "cat" in baselines.text_rank(text)
    assert baselines.text_rank("") == "" and baselines.text_rank("one") == "one"
