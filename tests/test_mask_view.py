"""What is learnt, as boxes and as a picture: right kinds, right counts, nothing unescaped."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pytest

from sftkit.teach.mask_view import (
    CONTEXT,
    CUT,
    PADDING,
    SUPERVISED,
    chat_html,
    kinds,
    mask_figure,
)

WORDS = ["<b>", "&", "ok", "stop"]


def decode(ids):
    return "".join(WORDS[i] for i in ids)


def test_every_place_has_a_kind():
    labels, mask = [-100, -100, 2, 3, -100], [1, 1, 1, 1, 0]
    assert kinds(labels, mask) == [CONTEXT, CONTEXT, SUPERVISED, SUPERVISED, PADDING]
    assert kinds(labels, mask, kept=3)[2:] == [SUPERVISED, CUT, PADDING]


def test_boxes_are_escaped_counted_and_explained():
    page = chat_html(
        [0, 1, 2, 3, 0], [-100, -100, 2, 3, -100], decode, mask=[1, 1, 1, 1, 0],
        document=[0, 0, 1, 1, -1], log_probs=[0.0, -0.5, -1.25, -0.1, 0.0],
    )  # fmt: skip
    assert "&lt;b&gt;" in page and "<b>" not in page and "&amp;" in page
    assert "5 tokens, 2 supervised, 2 context, 1 padding" in page
    assert "id 2, supervised, log p = -1.25" in page
    assert page.count("border-left:4px") == 2 and page.count("dashed") == 1
    assert len(re.findall(r"font-weight:600", page)) == 2


def test_attacks_stay_text():
    evil = '"><script>alert(1)</script>'
    assert "<script" not in chat_html([0], [0], lambda ids: evil)


def test_much_and_nothing():
    assert "There are no tokens" in chat_html([], [], decode)
    assert "the first 3 are shown" in chat_html([2] * 9, [2] * 9, decode, most=3)
    with pytest.raises(ValueError, match="2 ids, but 1 values"):
        chat_html([2, 2], [2, 2], decode, log_probs=[0.0])
    with pytest.raises(ValueError):
        chat_html([2, 2], [2], decode)


def test_the_picture_has_the_colours_of_its_places():
    rows = [[CONTEXT, SUPERVISED, SUPERVISED], [CONTEXT, CUT]]
    fig, alt = mask_figure(rows, "what is learnt", documents=[[0, 0, 1], [0, 0]])
    assert fig.axes[0].images[0].get_array().tolist() == [[1, 2, 2], [1, 3, 0]]
    assert alt == ("2 rows of up to 3 tokens: 2 supervised, 2 context, 1 cut off, 1 padding.")
    plt.close(fig)
