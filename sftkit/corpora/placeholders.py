"""What a translation must carry over as it is: placeholders, markup, code, mnemonics.

``"%1 files in <b>%2</b>"`` is filled in by a program. A translation that loses ``%2`` shows a
sentence with a hole in it, however good its words are.
"""

from __future__ import annotations

import re
from collections import Counter

KINDS: dict[str, str] = {
    # %1, %s, %d, %5.2f, %(name)s; {0}, {}, {name}, ${name}. "100 % done" has none.
    "placeholder": r"%\d+|%\(\w+\)[#0+-]*\d*\.?\d*[a-zA-Z]"
    r"|%[#0+-]*\d*\.?\d*[sdifgeuxX](?![a-zA-Z])|\$?\{\w*\}",
    "tag": r"</?[A-Za-z][^<>]*>",
    "code": r"`[^`]+`",
    "address": r"(?:https?|ftp)://[^\s\"'<>)`]+",
    # &File or Save &as, as in menus; not &amp; and not "this & that".
    "mnemonic": r"&(?!\w+;)[^\W_]",
}
_ALL = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in KINDS.items()))
_DIGITS = re.compile(r"\d+")


def find(text: str) -> list[tuple[str, str]]:
    """Kind and text of each, in order; nothing is found within another one."""
    return [(str(m.lastgroup), m.group()) for m in _ALL.finditer(text)]


def must_keep(text: str) -> Counter[str]:
    """What a translation has to hold, with how often.

    Mnemonics count by their number: another language has another letter to underline. Code in
    back quotes is left out, since translators do translate the words within.
    """
    found = find(text)
    kept = Counter(part for kind, part in found if kind in ("placeholder", "tag", "address"))
    if mnemonics := sum(kind == "mnemonic" for kind, _ in found):
        kept["&"] = mnemonics
    return kept


def without(text: str) -> str:
    """The words of a text alone, by which families are found: no placeholder, tag, number."""
    plain = _ALL.sub(lambda m: m.group()[1:] if m.lastgroup == "mnemonic" else " ", text)
    plain = " ".join(_DIGITS.sub(" ", plain).split())
    return plain if any(c.isalpha() for c in plain) else text
