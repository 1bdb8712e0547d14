"""The failure gallery: one file of pages, a notebook that agrees with it, and what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sftkit.errors import ParameterError
from sftkit.evaluate import mean_interval
from sftkit.teach.gallery import Gallery, as_printed, pages
from sftkit.teach.tokens import labelled_html

SOURCE = Path(__file__).resolve().parents[1] / "notebooks" / "src" / "24_failure_gallery.py"


def test_there_is_a_page_for_every_trap():
    numbers = [page.number for page in pages()]
    assert sorted(numbers) == list(range(1, 25))
    groups = [page.group for page in pages()]
    assert len(set(groups)) == sum(a != b for a, b in zip(["", *groups], groups, strict=False))


def test_the_notebook_has_the_pages_of_the_file_in_its_order():
    text = SOURCE.read_text(encoding="utf-8")
    headings = re.findall(r"^# ### Page (\d+) · (.+)$", text, re.M)
    assert headings == [(str(page.number), page.name) for page in pages()]
    for call in ("page", "proved"):
        numbers = re.findall(rf"gallery\.{call}\(\s*(\d+)", text)
        assert numbers == [str(page.number) for page in pages()], call
    sections = re.findall(r"^# ## [A-Z]\. (.+)$", text, re.M)
    assert sections[:-1] == list(dict.fromkeys(page.group for page in pages()))


@pytest.fixture
def shown(monkeypatch):
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda *args, **_: outputs.extend(args))
    return outputs


def test_the_index_links_to_the_cards(shown):
    gallery = Gallery()
    gallery.index()
    for page in pages():
        gallery.page(page.number)
    links = re.findall(r'href="#(page-\d+)"', shown[0]["text/html"])
    ids = [re.findall(r'id="(page-\d+)"', card["text/html"])[0] for card in shown[1:]]
    assert links == ids and len(ids) == 24
    assert "The mean of micro-batch means" in shown[0]["text/plain"]


def test_the_checklist_wants_a_number_of_every_page(shown, capsys):
    gallery = Gallery()
    gallery.proved(1, "gradient moved", 0.9421, 3e-16)
    said = capsys.readouterr().out
    assert said == "page 1, gradient moved: wrong 0.942, mended ≈ 0\n"
    with pytest.raises(AssertionError, match="pages without a number"):
        gallery.checklist()
    for page in pages():
        gallery.proved(page.number, "rows", float("inf"), 2)
    gallery.checklist()
    assert len(shown[0].rows) == 24 and gallery.metrics()["page 3"]["wrong"] == "inf"


@pytest.mark.parametrize("wrong, mended", [(1.0, 1.0), (1.0, float("nan"))])
def test_a_mend_that_changes_nothing_is_no_proof(wrong, mended):
    with pytest.raises(AssertionError, match="mean of micro-batch means"):
        Gallery().proved(1, "loss", wrong, mended)


def test_printed_code_runs_by_itself_and_its_error_is_said(shown, capsys):
    outside = 3  # noqa: F841  the code must not see it
    space = as_printed("a = given + 1\nprint('here')", given=1)
    assert space["a"] == 2 and space["error"] is None
    space = as_printed("b = outside")
    assert isinstance(space["error"], NameError)
    as_printed("raise ValueError('\\x1b[1mbold\\x1b[0m\\nmore')")
    assert shown[0].data == "```python\na = given + 1\nprint('here')\n```"
    said = [output["text/plain"] for output in shown[1::2]]
    assert said[0] == "here\nNo error."
    assert said[1:] == ["NameError: name 'outside' is not defined", "ValueError: bold"]
    assert capsys.readouterr().out == ""


def test_labels_in_colour():
    page = labelled_html([1, 2, 3], [-100, 2, 9], lambda ids: f"<{ids[0]}>")
    assert "3 tokens, 2 supervised" in page and "<1>" not in page
    assert "&lt;3&gt;→&lt;9&gt;" in page, "a label that is another token is shown beside it"
    assert page.count("border-bottom") == 2
    assert "the first 2 tokens are shown" in labelled_html([1, 2, 3], [1, 2, 3], str, most=2)
    assert "no tokens" in labelled_html([], [], str)
    with pytest.raises(ValueError):
        labelled_html([1, 2], [1], str)


@pytest.mark.parametrize("count", [2, 5, 30])
def test_the_interval_of_a_mean_is_the_t_test_s(count):
    values = np.random.default_rng(count).normal(0.3, 1.0, count)
    mean, low, high = mean_interval(values)
    reference = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((reference.low, reference.high))
    assert mean == pytest.approx(values.mean())


def test_the_interval_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(0.0, 1.0, (2000, 4))
    ends = [mean_interval(row)[1:] for row in draws]
    covered = np.mean([low <= 0 <= high for low, high in ends])
    assert 0.935 < covered < 0.965
    normal = 1.96 * draws.std(axis=1, ddof=1) / 2  # the broken variant: 1.96 for four runs
    assert np.mean(np.abs(draws.mean(axis=1)) <= normal) < 0.9


@pytest.mark.parametrize("values", [[1.0], [], [1.0, float("nan")], [[1.0, 2.0]]])
def test_one_run_has_no_interval(values):
    with pytest.raises(ParameterError, match="at least two"):
        mean_interval(values)
