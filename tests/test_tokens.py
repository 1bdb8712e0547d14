"""Coloured tokens: what is covered, what is escaped, and what cannot be drawn."""

from __future__ import annotations

import re

import pytest

from sftkit import assets
from sftkit.teach.tokens import tokens_html
from sftkit.teach.widgets import rendered


@pytest.fixture(scope="module")
def tokenizers():
    from tokenizers import Tokenizer

    found = {}
    for name in ("minilm", "smollm2-135m-instruct"):
        found[name] = Tokenizer.from_file(str(assets.path(name) / "tokenizer.json"))
        found[name].no_padding()
        found[name].no_truncation()
    return found


def drawn(tokenizer, text):
    encoding = tokenizer.encode(text)
    tokens = [(t, *o) for t, o in zip(encoding.tokens, encoding.offsets, strict=True)]
    return tokens_html(text, tokens, unknown={"[UNK]"})


def plain(page):
    """The text of a page without boxes, names and counts."""
    page = re.sub(r"<p>.*?</p>|<sub>.*?</sub>", "", page)
    return re.sub(r"<[^>]*>", "", page)


def test_tokens_lie_over_their_characters():
    page = tokens_html("un do!", [("un", 0, 2), ("do", 3, 5)])
    assert plain(page) == "un␣do!"
    assert page.count("title=") == 2
    assert "2 tokens, 6 characters" in page


def test_text_and_names_are_escaped():
    text = "<b>&\"'</b>"
    page = tokens_html(text, [('"><script>', 0, 3), ("<i>", 3, len(text))])
    assert "<script>" not in page and "<b>" not in page and "<i>" not in page
    assert 'title="&quot;&gt;&lt;script&gt;"' in page


def test_bytes_of_one_character_share_a_box():
    page = tokens_html("a👍", [("a", 0, 1), ("ð", 1, 2), ("Ł", 1, 2), ("ĳ", 1, 2)])
    assert page.count("👍") == 1
    assert "<sub>3</sub>" in page
    assert "4 tokens, 2 characters" in page


def test_special_tokens_cover_nothing_and_unknown_ones_are_counted():
    page = tokens_html("中", [("[CLS]", 0, 0), ("[UNK]", 0, 1), ("[SEP]", 0, 0)], {"[UNK]"})
    assert plain(page) == "[CLS]中[SEP]"
    assert "3 tokens, 1 character, 1 unknown" in page


@pytest.mark.parametrize("name", ["minilm", "smollm2-135m-instruct"])
@pytest.mark.parametrize(
    "text",
    ["one two", "  two  spaces\n", "Ünïcödé İstanbul ß", "👨‍👩‍👧 family", "中文 text", "<a&b>"],
)
def test_no_character_is_lost_with_real_tokenizers(tokenizers, name, text):
    page = plain(drawn(tokenizers[name], text))
    for special in ("[CLS]", "[SEP]"):
        page = page.replace(special, "")
    import html

    assert html.unescape(page).replace("␣", " ").replace("⏎", "\n") == text


@pytest.mark.parametrize("name", ["minilm", "smollm2-135m-instruct"])
def test_bad_input_gives_a_sentence(tokenizers, name):
    def render(text):
        return drawn(tokenizers[name], text)

    assert rendered(render, "") == "<p>Type a sentence first.</p>"
    assert "too many" in rendered(render, "x " * 50_000)
    wall = "ab " * 33_334  # the function alone, without the box
    page = drawn(tokenizers[name], wall)
    assert "the first 2,000 tokens are shown" in page
    assert len(page) < 1_000_000
    assert "Traceback" not in rendered(render, "\ud800 lonely half")


def test_nothing_at_all_gives_a_sentence():
    assert tokens_html("", []) == "<p>There is no text, so there are no tokens.</p>"


@pytest.mark.parametrize("token", [("a", 2, 1), ("a", 0, 9), ("a", -1, 1)])
def test_a_token_outside_the_text_is_named(token):
    with pytest.raises(ValueError, match="'a' covers"):
        tokens_html("abc", [token])
