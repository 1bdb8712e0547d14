"""Questions to a documentation assistant: which of a few real calls does what is wanted?

``tasks("train", 300)`` lists four signatures of one installed library and asks for the one
that does something, in the words of its docstring's first line. The answer is the signature.
Test libraries and wordings are different ones from those of training: an answer cannot be
remembered, it must be found. In every other question (kind ``named``) the right call's name
shares a word with the question, so that comparing words finds it; in the others (``meant``)
none does. The documentation is that of the libraries on this machine.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from sftkit.corpora import docstrings
from sftkit.corpora.checked_tasks import Task, distinct, drawn, few_shot
from sftkit.corpora.questions import LIBRARIES

__all__ = ["KINDS", "LIBRARIES", "WORDINGS", "Call", "few_shot", "lexical", "tasks", "wrong"]

KINDS = ("named", "meant")
CHOICES = 4  # signatures to choose from
LONGEST = {"call": 90, "purpose": 90}  # characters
SHORTEST_PURPOSE = 3  # words
WORDINGS: dict[str, tuple[str, ...]] = {
    "train": (
        "How do I {purpose}?",
        "I want to {purpose}. What do I call?",
        "Which of these will {purpose}?",
        "What is the way to {purpose}?",
    ),
    "validation": ("What should be called to {purpose}?",),
    "test": (
        "Show me the call to {purpose}.",
        "My program has to {purpose}: which one is it?",
    ),
}
# First words of a docstring that say what a call does; "Computes" counts as "Compute".
_VERBS = (
    "add apply approximate assert assign build calculate cast change check choose cluster "
    "combine compute concatenate construct convert copy count create cut decompose delete "
    "determine draw drop encode estimate evaluate expand extract fill filter find fit "
    "generate get give group insert interpolate join load make measure merge move normalize "
    "obtain pad perform plot predict print project put read reduce remove render repeat "
    "replace reset reshape resize resolve return reverse rotate round run sample save scale "
    "score select set shift show solve sort split stack standardize sum swap test transform "
    "transpose truncate update validate write"
)
_MARKUP = re.compile(r":\w+:`[~!]?|`+|\*+")
_PIECES = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


class Call:
    """A signature and what it does, from one docstring.

    Attributes:
        text: The signature, such as ``accuracy_score(y_true, y_pred, *, normalize=True)``.
        purpose: What it does, to follow "How do I": ``compute the accuracy``.
        module: Where it is, without its own name.
    """

    def __init__(self, doc: docstrings.Docstring) -> None:
        self.text, self.module = doc.call, doc.name.rpartition(".")[0]
        self.purpose = _purpose(doc.text)

    @property
    def kind(self) -> str:
        """``named`` when its name shares a word with its purpose, else ``meant``."""
        return KINDS[not _stems(self.purpose) & _stems(self.text.partition("(")[0])]

    @property
    def fits(self) -> bool:
        """Whether it can be asked about: short enough, and its purpose can be said."""
        short = 0 < len(self.text) <= LONGEST["call"] and "\n" not in self.text
        return short and len(self.purpose.split()) >= SHORTEST_PURPOSE


def _purpose(text: str) -> str:
    """The first line as what somebody wants to do; empty when it does not read like that."""
    line = _MARKUP.sub("", text.split("\n\n")[0].replace("\n", " ")).strip()
    line = re.split(r"\.(?:\s|$)", line)[0]
    first, _, rest = line.partition(" ")
    verb = first.lower()
    for base in (verb, verb.removesuffix("s"), verb.removesuffix("es")):
        if base in _VERBS.split() and len(line) <= LONGEST["purpose"]:
            return f"{base} {rest}".strip()
    return ""


@functools.cache
def calls(library: str) -> dict[str, list[Call]]:
    """The calls of a library that can be asked about, by module; each name and purpose once.

    Raises:
        CorpusError: The library is not installed.
    """
    found: dict[str, list[Call]] = {}
    purposes: set[str] = set()
    names: set[str] = set()
    for doc in docstrings.read(library):
        call = Call(doc)
        name = call.text.partition("(")[0]
        if call.fits and call.purpose not in purposes and name not in names:
            found.setdefault(call.module, []).append(call)
            purposes.add(call.purpose)
            names.add(name)
    return {module: several for module, several in found.items() if len(several) >= CHOICES}


@functools.cache
def _by_kind(part: str) -> dict[str, list[tuple[list[Call], Call]]]:
    """Each call of a split with those around it, by the kind of question that it gives."""
    found: dict[str, list[tuple[list[Call], Call]]] = {kind: [] for kind in KINDS}
    for library in LIBRARIES[part]:
        for several in calls(library).values():
            for call in several:
                found[call.kind].append((several, call))
    return found


def tasks(part: str, n: int, seed: int = 0) -> list[Task]:
    """``n`` different questions of a split, the kinds in turn.

    Raises:
        CorpusError: An unknown split, or more questions than there are.
    """

    def make(number: int, draw: Any) -> Task:
        several, right = drawn(_by_kind(part)[KINDS[number % len(KINDS)]], draw)
        others = [call for call in several if call is not right]
        chosen = [right, *(others[i] for i in draw.permutation(len(others))[: CHOICES - 1])]
        shown = [chosen[i].text for i in draw.permutation(CHOICES)]
        question = drawn(WORDINGS[part], draw).format(purpose=right.purpose)
        listed = "\n".join(f"- {text}" for text in shown)
        prompt = f"Calls in {right.module}:\n{listed}\n{question}"
        rest = tuple(call.text for call in chosen[1:])
        return Task(right.kind, prompt, right.text, {"call": right.text}, rest)

    return distinct(make, LIBRARIES, part, n, seed)


def choices(task: Task) -> list[str]:
    """The signatures that a question offers."""
    return [line[2:] for line in task.prompt.splitlines() if line.startswith("- ")]


def wrong(task: Task, answer: str) -> str:
    """What is wrong with an answer, in a few words; "" when it is the right signature."""
    said, right = " ".join(answer.split()), str(task.expected["call"])
    if not said:
        return "empty"
    if said == right:
        return ""
    if said in choices(task):
        return "another call"
    name = right.partition("(")[0]
    if right in said:
        return "more than the call"
    if said.partition("(")[0].strip() == name:
        return "other arguments"
    return "no call of the list"


def lexical(task: Task) -> str:
    """The baseline: the signature that shares most pieces of words with the question."""
    wanted = _stems(task.prompt.splitlines()[-1])

    def score(text: str) -> tuple[float, int]:
        name, _, arguments = text.partition("(")
        pieces = _stems(name)
        inside = len(wanted & pieces) / max(1, len(pieces))
        return len(wanted & pieces) + inside, len(wanted & _stems(arguments))

    return max(choices(task), key=score)


def _stems(text: str) -> set[str]:
    """The first four letters of each piece: ``read_csv`` and "Reading CSV" share two."""
    return {piece.lower()[:4] for piece in _PIECES.findall(text)}
