"""Each step of cleaning does its own job, and nothing else."""

import pytest

from sftkit.corpora import STEPS, clean
from sftkit.corpora.clean import check_steps
from sftkit.errors import CorpusError

CASES = [
    ("html", "<p>one<br/>two</p> <b>bo</b>ld", " one two  bold"),
    ("html", "Tom &amp; Jerry &lt;3 &amp;#039;ok&#039;", "Tom & Jerry <3 'ok'"),
    ("html", "a < b and c > d, <unk> <user>", "a < b and c > d, <unk> <user>"),
    ("html", "<script>if (a < b) alert()</script>text<!-- note -->", " text "),
    ("html", "<a href='x?a=1&b=2'>link</a>", "link"),
    ("mojibake", "schÃ¶n, itâ€™s", "schön, it’s"),
    ("mojibake", "schön &amp; ｆｕｌｌ", "schön &amp; ｆｕｌｌ"),
    ("unicode", "e\u0301", "é"),
    ("unicode", "ﬁ ①", "ﬁ ①"),
    ("control", "a\x00b\u200bc\ufeffd\te\nf\x85", "abcd\te\nf\x85"),
    ("control", "👩\u200d🔬", "👩\u200d🔬"),
    ("control", "half \ud83d", "half "),
    ("urls", "see https://t.co/x1 or www.example.org.", "see http or http"),
    ("users", "@ann, ask bob@example.org and @bob_2!", "@user, ask bob@example.org and @user!"),
    ("whitespace", "  a \t\n\u00a0b\u3000c ", "a b c"),
]


@pytest.mark.parametrize(("step", "text", "wanted"), CASES)
def test_a_step_alone(step, text, wanted):
    assert clean(text, [step]) == wanted


def test_every_step_has_a_case_and_a_description():
    assert {case[0] for case in CASES} == set(STEPS)
    assert all(STEPS.values())


def test_no_steps_change_nothing():
    text = " <b>x</b> &amp; \x00 é\u0301 @a http://b "
    assert clean(text, ()) == text


def test_the_order_is_fixed_whatever_is_asked_for():
    # Entities first: the tag that they spell is text, and the space they name is white space.
    text = "&lt;b&gt;&nbsp; x"
    assert clean(text, ["whitespace", "html"]) == clean(text, ["html", "whitespace"]) == "<b> x"
    assert check_steps(["whitespace", "html"]) == ("html", "whitespace")


def test_the_default_is_gentle():
    assert clean("a <b>  &amp;\x07 e\u0301") == "a <b> &amp; é"


def test_an_unknown_step_is_refused_with_the_list():
    with pytest.raises(CorpusError, match="'htlm'.*\n.*html, mojibake"):
        clean("x", ["htlm"])
