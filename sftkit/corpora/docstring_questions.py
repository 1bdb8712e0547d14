"""Questions about docstrings, with their answers as spans: made from sections and wordings.

Contexts are real, questions are made. Where an answer lies follows from the numpydoc sections
of a docstring; wordings were written by hand (``questions.toml``) and filled in. A question
that names its parameter says what to look for. One that does not is about a meaning ("How do I
make it ignore missing values?"): it is asked where a pattern on names and descriptions finds
exactly one parameter. So a score tells how well a model reads these wordings about unseen
libraries. Real users' questions vary more.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftkit.corpora.docstrings import Docstring, Entry, entries, sections
from sftkit.corpora.duplicates import key

WORDINGS = Path(__file__).with_name("questions.toml")
LONGEST_ANSWER = 400  # characters
LONGEST, SHORTEST = 2_400, 200  # of a context
# Share of each kind of question. The kinds that name a parameter or an exception come first.
NAMED = {
    "about": 0.12,
    "type": 0.10,
    "default": 0.11,
    "raises named": 0.03,
    "no such name": 0.07,
}
UNNAMED = {
    "how": 0.28,
    "default by meaning": 0.04,
    "returns": 0.08,
    "result type": 0.04,
    "raises": 0.03,
    "which error": 0.02,
    "nothing about it": 0.08,
}
SHARES = NAMED | UNNAMED
# In training also questions with some words of a description: about every parameter, where the
# meanings written by hand are few. No test question is of this kind.
TRAINED = SHARES | {"in its words": 0.2}
REPEATED = {"train": 3, "held": 1}  # wordings of one meaning in one docstring
_BEYOND = {"See Also", "Notes", "References", "Examples", "Example", "Attributes", "Methods"}
_BEYOND |= {"Warnings", "Warning", "Usage"}
_DEFAULT = re.compile(
    r"\bdefaults?(?: to| is| value)?(?: is)?[ :=]+(?P<value>\S.*?)\)?\.?$", re.I
)
_DEFAULT_BELOW = re.compile(
    r"\bdefaults? (?:value )?(?:is|to)[ :=]+(?P<value>[^\s,;()]+?)(?=[.,;)]*(?:\s|$))", re.I
)
_NO_VALUE = re.compile(r"(?s)[a-z]+|.*\n.*|\W*")  # "the default is over all axes"; ''
_TAIL = re.compile(r"[\s,;(]*\b(?:optional|default)\b.*$|[\s,;]+$", re.I | re.S)
_ERROR = re.compile(r"[A-Z]\w*(?:Error|Exception|Warning|Found|Exit|Failure)")


@dataclass(frozen=True)
class Question:
    """A question about a docstring; ``context[start:end]`` is the answer, or both are -1."""

    text: str
    kind: str
    meaning: str  # of UNNAMED questions about a parameter: its name in questions.toml
    start: int = -1
    end: int = -1


@functools.cache
def wordings() -> dict[str, Any]:
    """What ``questions.toml`` says."""
    return tomllib.loads(WORDINGS.read_text(encoding="utf-8"))


def context_of(text: str) -> str:
    """A docstring down to its last section on the call; See Also, Notes and Examples are cut.

    Empty when it has no Parameters, or is too short or too long.
    """
    found = sections(text)
    if not any(s.title == "Parameters" for s in found):
        return ""
    # An underlined heading is the line above where its section starts.
    ends = [
        text.rindex(s.title, 0, s.start) for s in found if s.title in _BEYOND or "::" in s.title
    ]
    kept = text[: min(ends, default=len(text))].rstrip()
    return kept if SHORTEST <= len(kept) <= LONGEST and "\nParameters\n" in kept else ""


class Asker:
    """Makes the questions of one split.

    Args:
        held: Use the wordings that training never sees.
        names: Parameter names to ask about where they do not occur.
    """

    def __init__(self, held: bool, names: Sequence[str]) -> None:
        self.side, self.names = "held" if held else "train", list(names)
        self.frames = wordings()["frames"]
        self.means = {
            name: (
                re.compile(f"^(?:{m['name']})$"),
                re.compile(m["words"], re.I),
                re.compile(f"{m['absent']}|{m['words']}", re.I),
                m,
            )
            for name, m in wordings()["means"].items()
        }

    def questions(self, doc: Docstring, context: str) -> Iterator[Question]:
        """All questions of a docstring, one wording each."""
        parts = {s.title: entries(context, s) for s in sections(context)}
        given = parts.get("Parameters", [])
        what = doc.name.rsplit(".", 1)[-1]

        def ask(
            frame: str, kind: str, span: tuple[int, int], **fill: str
        ) -> Iterator[Question]:
            start, end = span
            if not 0 < end - start <= LONGEST_ANSWER:
                return
            words = self._wording(self.frames[frame], doc.name + frame + str(fill))
            yield Question(words.format(what=what, **fill), kind, "", start, end)

        for entry in given:
            if entry.name.isidentifier():
                yield from ask("about", "about", entry.body, name=entry.name)
                yield from ask("type", "type", type_span(context, entry), name=entry.name)
                span = default_span(context, entry)
                yield from ask("default", "default", span, name=entry.name)
        yield from self._by_meaning(doc, context, given)
        yield from self._of_result(parts.get("Returns", []), context, ask)
        errors = [e for e in parts.get("Raises", []) if _ERROR.fullmatch(e.name)]
        for entry in errors:
            yield from ask("raises_named", "raises named", entry.body, error=entry.name)
        if len(errors) == 1 and len(parts["Raises"]) == 1:
            yield from ask("raises", "raises", errors[0].body)
            place = (errors[0].start, errors[0].start + len(errors[0].name))
            yield from ask("which_error", "which error", place)
        yield from self._without_answer(doc, context, given)
        if self.side == "train":
            yield from self._in_its_words(doc, context, given)

    def _in_its_words(
        self, doc: Docstring, context: str, given: list[Entry]
    ) -> Iterator[Question]:
        for entry in given:
            salt = f"{doc.name} {entry.name}"
            words = some_words(context[slice(*entry.body)], salt)
            if not words or entry.end - entry.start > LONGEST_ANSWER:
                continue
            text = self._wording(self.frames["in_its_words"], salt).format(words=words)
            if not names_one(text, given):
                yield Question(text, "in its words", "", entry.start, entry.end)

    def _of_result(
        self, given: list[Entry], context: str, ask: Callable[..., Iterator[Question]]
    ) -> Iterator[Question]:
        if len(given) != 1:
            return
        entry = given[0]
        yield from ask("returns", "returns", entry.body)
        stated = entry.type[1] > entry.type[0]
        bare = (entry.start, entry.start + len(entry.name))
        span = type_span(context, entry) if stated else bare
        if not (bare[1] - bare[0] < 3 and not stated):
            yield from ask("result_type", "result type", span)

    def _by_meaning(
        self, doc: Docstring, context: str, given: list[Entry]
    ) -> Iterator[Question]:
        for meaning, (name, words, _, wording) in self.means.items():
            entry = only_match(context, given, name, words)
            if entry is None or entry.end - entry.start > LONGEST_ANSWER:
                continue
            if entry.body[0] == entry.body[1]:
                continue
            salt = doc.name + meaning
            for text in self._wordings(wording, salt, given)[: REPEATED[self.side]]:
                yield Question(text, "how", meaning, entry.start, entry.end)
            start, end = default_span(context, entry)
            for text in self._wordings(wording, salt, given, "default_")[: end - start][:1]:
                yield Question(text, "default by meaning", meaning, start, end)

    def _without_answer(
        self, doc: Docstring, context: str, given: list[Entry]
    ) -> Iterator[Question]:
        what = doc.name.rsplit(".", 1)[-1]
        salt = doc.name
        for entry, after in zip(given, [*given[1:], None], strict=False):
            whole = context[entry.start : after.start if after else len(context)]
            if entry.name.isidentifier() and not re.search("default|optional", whole, re.I):
                text = self._wording(self.frames["default"], doc.name + entry.name)
                yield Question(text.format(name=entry.name), "no such name", "")
                break
        for attempt in range(3):
            name = self.names[key(f"{salt} {attempt}") % len(self.names)]
            if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", context):
                frame = ("about", "type", "default")[key(f"{salt} frame") % 3]
                text = self._wording(self.frames[frame], doc.name + name)
                yield Question(text.format(name=name), "no such name", "")
                break
        known = [m for m in self.means.items() if m[1][3].get(self.side)]
        for attempt in range(6):
            meaning, (_, _, absent, wording) = known[key(f"{salt} none {attempt}") % len(known)]
            fit = self._wordings(wording, doc.name + meaning, given)
            if fit and not absent.search(context):
                yield Question(fit[0], "nothing about it", meaning)
                break
        for frame, there in (("raises", "rais|error|except|fail"), ("returns", "return|yield")):
            if not re.search(there, context, re.I):
                text = self._wording(self.frames[frame], doc.name + frame)
                yield Question(text.format(what=what), "nothing about it", "")

    def _wording(self, known: dict[str, Any], salt: str) -> str:
        """One of the side's wordings."""
        return self._wordings(known, salt)[0]

    def _wordings(
        self, known: dict[str, Any], salt: str, given: Sequence[Entry] = (), prefix: str = ""
    ) -> list[str]:
        """The side's wordings that name no parameter of ``given``, in an order by ``salt``."""
        fit = [t for t in known.get(prefix + self.side, []) if not names_one(t, given)]
        return sorted(fit, key=lambda text: key(f"{salt} {text}"))


def only_match(
    context: str, given: Sequence[Entry], name: re.Pattern[str], words: re.Pattern[str]
) -> Entry | None:
    """The one parameter whose name and description both match; None if several do."""
    found = None
    for entry in given:
        below = " ".join(context[slice(*entry.body)].split())
        if name.match(entry.name) and words.search(below):
            if found:
                return None
            found = entry
    return found


def some_words(description: str, salt: str) -> str:
    """Two to four telling words of a description's first sentence, which ones by ``salt``.

    Stop words are left out: who asks does not quote. Empty where fewer than two are left.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    common = ENGLISH_STOP_WORDS | {"given", "true", "used", "using", "value", "values"}
    first = re.split(r"[.:;(]", description, maxsplit=1)[0]
    words = [w for w in re.findall(r"[a-z][a-z-]{3,}", first.lower()) if w not in common]
    number = key(salt)
    long = 2 + number % 3
    start = (number >> 8) % max(len(words) - long + 1, 1)
    return " ".join(words[start : start + long]) if len(words) > 1 else ""


def names_one(question: str, given: Sequence[Entry]) -> bool:
    """Whether a question has the name of a parameter as a word."""
    asked = set(re.findall(r"\w+", question.lower()))
    names = {word for entry in given for word in re.findall(r"\w+", entry.name.lower())}
    return bool(asked & names - {"a", "i", "it"})


def type_span(context: str, entry: Entry) -> tuple[int, int]:
    """What an entry says of its type, without "optional" and the default."""
    start, end = entry.type
    kept = _TAIL.sub("", context[start:end])
    return start, start + len(kept)


def default_span(context: str, entry: Entry) -> tuple[int, int]:
    """The default that an entry states, in its first line or in its description."""
    for (start, end), pattern in ((entry.type, _DEFAULT), (entry.body, _DEFAULT_BELOW)):
        found = pattern.search(context[start:end])
        if found and len(found["value"]) <= 40 and not _NO_VALUE.fullmatch(found["value"]):
            return start + found.start("value"), start + found.end("value")
    return start, start
