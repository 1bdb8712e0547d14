"""Docstrings as long texts with a summary of one line that their author wrote.

By convention (PEP 257) a docstring begins with its summary, then an empty line, then the
rest. The summary is the target; the rest, without it, is the text to be summarized.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sftkit.corpora.docstrings import Docstring

WORDS = (4, 30)  # of a summary
LEAST = 200  # characters of a text
_WORD = re.compile(r"[^\W_]+")
_EMPTY_LINE = re.compile(r"\n[ \t]*\n")
_SIGNATURE = re.compile(r"^[\w.]+ ?\(")
_DIRECTIVE = re.compile(r"^(?:\.\. |:\w+:|#|=|-)")
_ROLE = re.compile(r":[\w:]+:`~?\.?([^`<]*?)(?: *<[^>]*>)?`")


@dataclass(frozen=True)
class Summarized:
    """A text and its summary.

    Attributes:
        text: What is read; the summary does not occur in it.
        summary: What is to be written.
        title: Whose documentation it is, such as ``numpy.linspace``; may be empty.
        library: The part of the data that it belongs to; may be empty.
    """

    text: str
    summary: str
    title: str = ""
    library: str = ""


def of_docstring(doc: Docstring) -> Summarized | None:
    """The summary and the rest of a docstring; None where it has not both.

    Marks of Sphinx are taken out of the summary: ``:class:`~a.B``` becomes ``a.B``.
    Where the rest repeats the summary, the repetition is taken out; with other marks between
    the same words, the docstring is left out.
    """
    head, _, rest = doc.text.partition("\n\n")
    if not rest:
        head, *others = _EMPTY_LINE.split(doc.text, maxsplit=1)
        rest = others[0] if others else ""
    if _SIGNATURE.match(head) or _DIRECTIVE.match(head):
        return None
    summary = plain(head)
    if not WORDS[0] <= len(summary.split()) <= WORDS[1] or not summary.endswith("."):
        return None
    text = without(rest.strip("\n"), (summary, " ".join(head.split())))
    if len(text) < LEAST or _bare(summary) in _bare(text):
        return None
    return Summarized(text, summary, doc.name, doc.library)


def plain(text: str) -> str:
    """On one line, without the marks of Sphinx."""
    return " ".join(_ROLE.sub(r"\1", text).replace("`", "").split())


def _bare(text: str) -> str:
    """Words in lower case, and nothing else."""
    return " ".join(["", *_WORD.findall(text.lower()), ""])


def without(text: str, phrases: tuple[str, ...]) -> str:
    """The text without any of the phrases, whatever its case, blanks and line breaks."""
    for phrase in phrases:
        words = [re.escape(word) for word in phrase.rstrip(".").split()]
        if words:
            pattern = r"\s+".join(words) + r"\.?"
            text = re.sub(pattern, "", text, flags=re.IGNORECASE)
    return text.strip("\n")
