"""Cleaning of text, in named steps that can be switched on and off one by one."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterable

from sftkit.errors import CorpusError

# The tags of HTML. Other text in angle brackets, such as "<unk>" or "a < b", is kept.
_BLOCK = (
    "address|article|aside|blockquote|body|br|button|canvas|caption|center|dd|div|dl|dt|embed|"
    "fieldset|figcaption|figure|footer|form|frame|h[1-6]|head|header|hr|html|iframe|img|input|"
    "legend|li|link|main|meta|nav|noscript|object|ol|option|p|pre|section|select|table|tbody|"
    "td|textarea|tfoot|th|thead|title|tr|ul|video"
)
_INLINE = (
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|del|dfn|em|font|i|ins|kbd|mark|q|s|samp|small|span|"
    "strike|strong|sub|sup|tt|u|var|wbr"
)
_SCRIPT = re.compile(r"<(script|style)\b[^>]*>.*?</\1\s*>|<!--.*?-->", re.I | re.S)
_TAG = re.compile(rf"</?(?:(?P<inline>{_INLINE})|(?:{_BLOCK}))(?:\s[^<>]*)?/?>", re.I)
_URL = re.compile(r"(?:https?://|www\.)\S+", re.I)
_USER = re.compile(r"(?<![\w@.])@\w{1,30}")
_SPACE = re.compile(r"\s+")
# Control characters but for tab and line ends; marks of direction and zero width, but for the
# joiners that emoji and some scripts need; halves of surrogate pairs, which are no characters.
_CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def _html(text: str) -> str:
    if "<" in text:
        text = _SCRIPT.sub(" ", text)
        text = _TAG.sub(lambda found: "" if found["inline"] else " ", text)
    if "&" in text:  # twice, because "&amp;#039;" is common in scraped text
        text = html.unescape(html.unescape(text))
    return text


def _mojibake(text: str) -> str:
    if text.isascii():  # nothing that could have been decoded wrongly
        return text
    import ftfy

    # Only the repair of wrong decoding: entities, quotes and widths have steps of their own
    # or are none of this step's business.
    return ftfy.fix_encoding(text)


def _unicode(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _control(text: str) -> str:
    return _CONTROL.sub("", text)


def _urls(text: str) -> str:
    return _URL.sub("http", text)


def _users(text: str) -> str:
    return _USER.sub("@user", text) if "@" in text else text


def _whitespace(text: str) -> str:
    return _SPACE.sub(" ", text).strip()


# In the order in which they are applied, whatever order they are asked for in.
STEPS: dict[str, str] = {
    "html": "HTML tags are removed, entities become the characters they name",
    "mojibake": "text that was decoded with the wrong encoding is repaired (ftfy)",
    "unicode": "Unicode normal form C: one code for one character",
    "control": "control and zero-width characters are removed",
    "urls": "each web address becomes 'http'",
    "users": "each '@name' becomes '@user'",
    "whitespace": "each run of white space becomes one space, none at the ends",
}
_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "html": _html,
    "mojibake": _mojibake,
    "unicode": _unicode,
    "control": _control,
    "urls": _urls,
    "users": _users,
    "whitespace": _whitespace,
}


def check_steps(steps: Iterable[str]) -> tuple[str, ...]:
    """The steps in the order in which they are applied.

    Raises:
        CorpusError: A name is not in ``STEPS``.
    """
    wanted = [steps] if isinstance(steps, str) else list(steps)
    for name in wanted:
        if name not in STEPS:
            raise CorpusError(
                f"clean: there is no step {name!r}.", f"Steps are: {', '.join(STEPS)}."
            )
    return tuple(name for name in STEPS if name in wanted)


def cleaner(steps: Iterable[str]) -> Callable[[str], str]:
    """One function that applies the steps, for use on many texts."""
    functions = [_FUNCTIONS[name] for name in check_steps(steps)]

    def apply(text: str) -> str:
        for function in functions:
            text = function(text)
        return text

    return apply


def clean(text: str, steps: Iterable[str] = ("unicode", "control", "whitespace")) -> str:
    """Clean one text.

    Args:
        text: Any string.
        steps: Names from ``STEPS``. They are applied in the order of ``STEPS``.

    Raises:
        CorpusError: A name is not in ``STEPS``.
    """
    return cleaner(steps)(text)
