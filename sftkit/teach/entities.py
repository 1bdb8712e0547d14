"""Labelled spans as coloured boxes in their text, each with its type written beside it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TypeAlias

Mark: TypeAlias = tuple[str, int, int]  # type, where it starts in the text, where it ends

# Pale enough for black letters; neighbours differ in lightness, so also in grey print. The type
# stands beside each span, so colour is never the only sign.
_COLOURS = (
    "#cfe3f7",
    "#ffe9c2",
    "#f7c9c0",
    "#d9d3ea",
    "#d5e8d4",
    "#e6dccf",
    "#b9d3ec",
    "#f2e0ee",
)
_BOX = "border-radius:3px;padding:1px 2px;margin:0 1px;color:#000;"
MOST = 20_000  # characters drawn


def entities_html(
    text: str, marks: Sequence[Mark], types: Sequence[str] = (), title: str = ""
) -> str:
    """HTML of a text with its spans coloured. All text is escaped.

    Each span is a ``mark`` with its type in small letters, and a label for screen readers.

    Args:
        text: The text.
        marks: ``(type, start, end)``; ``text[start:end]`` is the span. They must not overlap.
        types: All types, so that each keeps its colour from text to text; those of ``marks``
            unless given.
        title: A word before the text, such as "labelled".

    Raises:
        ValueError: Spans overlap, or one is empty or outside of the text.
    """
    known = list(types) or sorted({kind for kind, _, _ in marks})
    parts: list[str] = []
    at = 0
    for kind, start, end in sorted(marks, key=lambda mark: (mark[1], mark[2])):
        if not at <= start < end <= len(text):
            raise ValueError(f"span {kind!r} from {start} to {end} overlaps or is outside")
        parts += [_plain(text[at:start]), _mark(text[start:end], kind, known)]
        at = end
        if at > MOST:
            break
    rest = text[at : max(at, MOST)]
    parts.append(_plain(rest))
    if at + len(rest) < len(text):
        parts.append(f"<p>The first {at + len(rest):,} characters are shown.</p>")
    head = f"<small><b>{html.escape(title)}</b></small> " if title else ""
    return f'<div style="line-height:1.9">{head}{"".join(parts)}</div>'


def legend_html(types: Sequence[str]) -> str:
    """The types with their colours, and what each stands for if ``TYPE: meaning``."""
    known = [name.partition(":")[0] for name in types]
    pairs = zip(types, known, strict=True)
    boxes = " ".join(_mark(name, kind, known, False) for name, kind in pairs)
    return f'<div style="line-height:1.9">{boxes}</div>'


def marks_of(tokens: Sequence[str], spans: Sequence[Mark], text: str) -> list[Mark]:
    """Spans of tokens as spans of the characters of a text that holds the tokens in order.

    Raises:
        ValueError: A token does not occur in the text after the one before it.
    """
    bounds: list[tuple[int, int]] = []
    at = 0
    for token in tokens:
        start = text.find(token, at)
        if start < 0:
            raise ValueError(f"token {token!r} is not in the text after character {at}")
        at = start + len(token)
        bounds.append((start, at))
    return [(kind, bounds[start][0], bounds[end - 1][1]) for kind, start, end in spans]


def _mark(content: str, kind: str, known: Sequence[str], label: bool = True) -> str:
    colour = _COLOURS[known.index(kind) % len(_COLOURS)] if kind in known else "#e4e4e4"
    name = html.escape(kind)
    small = f'<sub aria-hidden="true">{name}</sub>' if label else ""
    said = html.escape(f"{content} ({kind})") if label else name
    return (
        f'<mark style="background:{colour};{_BOX}" title="{name}" aria-label="{said}">'
        f"{html.escape(content)}{small}</mark>"
    )


def _plain(text: str) -> str:
    text = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return f"<span>{html.escape(text)}</span>" if text else ""
