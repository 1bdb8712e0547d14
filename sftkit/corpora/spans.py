"""Labelled spans as one tag per token, BIO or BIOES, there and back.

A span is ``(type, start, end)`` and covers the tokens ``start`` to ``end - 1``. In BIO its
first token is ``B-type`` and the others are ``I-type``; tokens of no span are ``O`` (Ramshaw
and Marcus 1995, in the form of CoNLL 2002). BIOES also marks the last token (``E-``) and spans
of one token (``S-``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from sftkit.errors import CorpusError

Span: TypeAlias = tuple[str, int, int]
OUTSIDE = "O"
SCHEMES = {"BIO": "BI", "BIOES": "BIES"}


def check_scheme(scheme: str) -> None:
    """Refuse a scheme that is not one of ours."""
    if scheme not in SCHEMES:
        raise CorpusError(f"scheme={scheme!r}.", f"There are {' and '.join(SCHEMES)}.")


def split_tag(tag: str) -> tuple[str, str]:
    """``("B", "PER")`` for ``B-PER``; ``("O", "")`` for ``O``."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def tag_names(types: Iterable[str], scheme: str = "BIO") -> list[str]:
    """All tags of some types, ``O`` first, types in alphabetical order."""
    check_scheme(scheme)
    kinds = sorted(set(types))
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in SCHEMES[scheme])]


def from_spans(spans: Iterable[Span], length: int, scheme: str = "BIO") -> list[str]:
    """One tag per token.

    Raises:
        CorpusError: Two spans overlap, or one is empty or outside of the ``length`` tokens.
    """
    check_scheme(scheme)
    tags = [OUTSIDE] * length
    last: Span = ("", 0, 0)
    for kind, start, end in sorted(spans, key=lambda span: (span[1], span[2])):
        if not 0 <= start < end <= length:
            raise CorpusError(
                f"the span {kind!r} from {start} to {end} does not lie in 0 to {length}.",
                "A span begins at its first token, and ends before the first one after it.",
            )
        if start < last[2]:
            raise CorpusError(
                f"the spans {last[0]!r} (tokens {last[1]} to {last[2]}) and {kind!r} (tokens "
                f"{start} to {end}) overlap.",
                "One tag per token cannot say that. Keep one of the two, or label them in two "
                "data sets.",
            )
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
        if scheme == "BIOES":
            tags[end - 1] = f"S-{kind}" if end - start == 1 else f"E-{kind}"
        last = (kind, start, end)
    return tags


def to_spans(tags: Sequence[str]) -> list[Span]:
    """The spans of a sequence of tags, BIO or BIOES.

    A model can write what no annotator would: ``O I-PER``, or ``B-PER I-LOC``. Such
    sequences are read by the rules of the CoNLL evaluation script: a token that cannot go on
    with the span before it begins a new one.
    """
    spans: list[Span] = []
    kind, start, before = "", -1, OUTSIDE
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, this = split_tag(tag)
        goes_on = prefix in ("I", "E") and start >= 0 and this == kind and before in ("B", "I")
        if start >= 0 and not goes_on:
            spans.append((kind, start, place))
            start = -1
        if prefix != OUTSIDE and not goes_on:
            kind, start = this, place
        before = prefix
    return spans


def problem(tags: Sequence[str], scheme: str = "BIO") -> tuple[int, str] | None:
    """Where a sequence first breaks the rules of its scheme, and how; None where it does not.

    Returns:
        ``(place, sentence)``, the place counted from 0.
    """
    check_scheme(scheme)
    inside, ends = ("B", "I"), ("E", "S")
    before, kind = OUTSIDE, ""
    for place, tag in enumerate(tags):
        prefix, this = split_tag(tag)
        if tag != OUTSIDE and (prefix not in SCHEMES[scheme] or not this):
            known = ", ".join([OUTSIDE, *(f"{p}-TYPE" for p in SCHEMES[scheme])])
            return place, f"the tag {tag!r} is not one of {scheme}: {known}."
        open_before = before in inside
        if prefix in ("I", "E") and not (open_before and this == kind):
            return place, f"the tag {tag!r} does not go on with a span of {this!r}."
        if scheme == "BIOES" and open_before and prefix not in ("I", "E"):
            return place, f"the span of {kind!r} before the tag {tag!r} has no end."
        before, kind = prefix, this
    if scheme == "BIOES" and before in inside:
        return len(tags) - 1, f"the span of {kind!r} has no end."
    assert before in (*inside, *ends, OUTSIDE)
    return None


def scheme_of(sequences: Iterable[Sequence[str]]) -> str:
    """``BIOES`` where a tag begins with E- or S-, else ``BIO``."""
    marks = {tag[:2] for tags in sequences for tag in tags}
    return "BIOES" if marks & {"E-", "S-"} else "BIO"


def convert(tags: Sequence[str], scheme: str) -> list[str]:
    """The same spans in another scheme."""
    return from_spans(to_spans(tags), len(tags), scheme)


def allowed(names: Sequence[str]) -> list[list[bool]]:
    """Which tag may stand after which: ``[before][after]``, for BIO and BIOES.

    What may begin or end a sequence is not said here: a window of a long sentence may begin
    within a span.
    """
    scheme = scheme_of([names])

    def fits(before: str, after: str) -> bool:
        (first, kind), (second, this) = split_tag(before), split_tag(after)
        open_before = first in ("B", "I")
        if second in ("I", "E"):
            return open_before and kind == this
        return not (scheme == "BIOES" and open_before)

    return [[fits(before, after) for after in names] for before in names]
