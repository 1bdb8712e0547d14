"""Tokens as coloured boxes over the text that they came from."""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeAlias

Token: TypeAlias = tuple[str, int, int]  # name, where it starts in the text, where it ends

NOT_SUPERVISED = -100  # as torch and `batches` have it
MOST = 2_000  # tokens drawn; a page of more is unreadable, and slow
# Pale enough for black letters. Neighbours differ in lightness, also in grey print.
_COLOURS = ("#cfe3f7", "#ffe9c2", "#b9d3ec", "#f7d3cc")
_UNKNOWN, _SPECIAL = "#bd1f01", "#e4e4e4"
_SHOWN = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "⍽", "\u3000": "⬚"}
_BOX = "border-radius:3px;padding:1px 2px;margin:1px;color:#000;"


def tokens_html(
    text: str, tokens: Iterable[Token], unknown: Collection[str] = (), most: int = MOST
) -> str:
    """HTML that shows which token covers which characters. All text is escaped.

    Each box has the token's name as its tooltip. Several tokens on the same characters (the
    bytes of an emoji) share a box, with their number beside it. A token on no characters
    (``[CLS]``) is a grey box with its name. Characters without a token stay plain.

    Args:
        text: The text that was tokenized.
        tokens: ``(name, start, end)`` in the order of the text; ``text[start:end]`` is what
            the token covers.
        unknown: Names that stand for anything (``[UNK]``): drawn in red.
        most: The most tokens drawn. What is left out is said.

    Raises:
        ValueError: A token ends before it starts, or outside the text.
    """
    tokens = list(tokens)
    for name, start, end in tokens:
        if not 0 <= start <= end <= len(text):
            place = f"{start} to {end} of {len(text)}"
            raise ValueError(f"token {name!r} covers {place} characters")
    if not text and not tokens:
        return "<p>There is no text, so there are no tokens.</p>"
    parts, at, colour, drawn = [], 0, 0, 0
    for group in _groups(tokens):
        if drawn + len(group) > most:
            break
        drawn += len(group)
        names = [name for name, _, _ in group]
        start, end = group[0][1], max(token[2] for token in group)
        if start == end:
            parts.append(_box(names, names[0], _SPECIAL))
            continue
        parts.append(f"<span>{_visible(text[at:start])}</span>" if at < start else "")
        if any(name in unknown for name in names):
            parts.append(_box(names, text[start:end], _UNKNOWN, "color:#fff;"))
        else:
            parts.append(_box(names, text[start:end], _COLOURS[colour % len(_COLOURS)]))
        colour += 1
        at = max(at, end)
    if drawn == len(tokens):
        parts.append(f"<span>{_visible(text[at:])}</span>" if at < len(text) else "")
    count = sum(name in unknown for name, _, _ in tokens)
    facts = [_counted(len(tokens), "token"), _counted(len(text), "character")]
    facts += [f"{count:,} unknown"] if count else []
    facts += [f"the first {drawn:,} tokens are shown"] if drawn < len(tokens) else []
    boxes = "".join(parts)
    return f'<div style="line-height:1.9">{boxes}</div><p>{", ".join(facts)}</p>'


def labelled_html(
    ids: Sequence[int],
    labels: Sequence[int],
    decode: Callable[[list[int]], str],
    most: int = MOST,
) -> str:
    """HTML that shows what a language model is judged on: one box per token.

    Supervised tokens are blue with a bold underline, context is grey, and a token whose label
    is another one than itself is red, with the label beside it. All text is escaped.

    Args:
        ids: Token ids, ``(T,)``.
        labels: Not shifted, ``(T,)``; -100 where nothing is supervised.
        decode: Ids to text, as a tokenizer's ``decode``.
        most: The most tokens drawn. What is left out is said.

    Raises:
        ValueError: Ids and labels have different lengths.
    """
    pairs = list(zip(ids, labels, strict=True))
    if not pairs:
        return "<p>There are no tokens.</p>"
    parts = []
    for token, label in pairs[:most]:
        name, underline = str(token), "border-bottom:3px solid "
        if label == NOT_SUPERVISED:
            parts.append(_box([name], decode([token]), _SPECIAL))
        elif label == token:
            more = f"font-weight:600;{underline}#1f5fa0;"
            parts.append(_box([name], decode([token]), _COLOURS[0], more))
        else:
            both = f"{decode([token])}→{decode([label])}"
            parts.append(_box([name], both, _UNKNOWN, f"color:#fff;{underline}#000;"))
    count = sum(label != NOT_SUPERVISED for _, label in pairs)
    facts = [_counted(len(pairs), "token"), f"{count:,} supervised"]
    facts += [f"the first {most:,} tokens are shown"] if len(pairs) > most else []
    boxes = "<wbr>".join(parts)  # lines may break between tokens
    return f'<div style="line-height:2.1">{boxes}</div><p>{", ".join(facts)}</p>'


def _groups(tokens: Sequence[Token]) -> list[list[Token]]:
    """Tokens that overlap go together; a token on no characters is alone."""
    groups: list[list[Token]] = []
    for token in tokens:
        _, start, end = token
        if groups and start < end and start < max(t[2] for t in groups[-1]):
            groups[-1].append(token)
        else:
            groups.append([token])
    return groups


def _box(names: Sequence[str], content: str, colour: str, more: str = "") -> str:
    title = html.escape(" ".join(names))
    several = f"<sub>{len(names)}</sub>" if len(names) > 1 else ""
    style = f"background:{colour};{_BOX}{more}"
    return f'<span title="{title}" style="{style}">{_visible(content)}{several}</span>'


def _visible(text: str) -> str:
    """Escaped, with marks for white space, and for halves of characters that have no form."""
    text = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else _SHOWN.get(c, c) for c in text)
    return html.escape(text)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
