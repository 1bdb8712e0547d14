"""Data sets of questions whose answers are parts of a text: docstrings, or the user's own.

``load("docstring-qa")`` asks about the documentation of installed libraries. Its splits are by
library, so that a test question is about a library that training never saw, in a wording that
training never saw. See `docstring_questions` for how questions are made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftkit.corpora import docstrings, duplicates, parts, questions_own, split, squad
from sftkit.corpora.docstring_questions import (
    NAMED,
    SHARES,
    TRAINED,
    Asker,
    Question,
    context_of,
)
from sftkit.corpora.docstrings import Docstring
from sftkit.corpora.squad import Item

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NAME = "docstring-qa"
LIBRARIES = {
    "train": ("numpy", "scipy", "networkx"),
    "validation": ("matplotlib",),
    "test": ("sklearn", "pandas"),
}
SIZES = {"train": 15_000, "validation": 500, "test": 1_200}  # questions
SHARE = 0.15  # of the user's questions for validation, and again for test
PER_CONTEXT = {"train": 12, "validation": 3, "test": 2}  # questions about one docstring


def load(
    name_or_path: str | Path = NAME,
    *,
    limit: int | None = None,
    seed: int = 0,
    encoding: str = "utf-8",
) -> DatasetDict:
    """Questions, split so that no near-copy of a test context is trained on.

    Args:
        name_or_path: ``docstring-qa``; a SQuAD file (``.json``, 1.1 or 2.0); a folder of such
            files named after the splits; a ``DatasetDict`` on disk or
            ``hub:ID[:CONFIGURATION]`` with SQuAD's columns.
        limit: Training questions. A smaller limit gives a part of a larger one.
        seed: Which training questions a limit takes; for one file also which go where.
        encoding: Of files.

    Returns:
        Splits ``train``, ``validation`` and ``test`` with the columns of `squad.Item`.
        `corpora.notes` tells what was done.

    Raises:
        CorpusError: With the file and question, and what to do.
    """
    parts.check_limit(limit)
    own = str(name_or_path) != NAME  # the splits of ours are fixed
    made_from = (str(name_or_path), _identity(name_or_path), *((seed, encoding) if own else ()))
    data = parts.cached("questions", made_from, lambda: _made(name_or_path, seed, encoding))
    data["train"] = data["train"].select(parts.order(data["train"]["id"], limit, seed))
    return data


def items(part: Dataset) -> list[Item]:
    """The rows of a split as items, for `squad.write`."""
    return [Item(**row) for row in part]


def _identity(name_or_path: str | Path) -> dict[str, str]:
    name = str(name_or_path)
    if name == NAME:
        every = [library for part in LIBRARIES.values() for library in part]
        return {library: docstrings.version(library) for library in every}
    if name.startswith("hub:"):
        return {name: ""}
    return parts.identity(name_or_path, (NAME,))


def _made(name_or_path: str | Path, seed: int, encoding: str) -> DatasetDict:
    name, notes = str(name_or_path), list[str]()
    if name == NAME:
        found = _about_docstrings(notes)
    else:
        found = questions_own.read(name_or_path, notes, encoding)
        groups = parts.near_copies(found, _context)
        found = parts.finished(
            found, groups, _context, notes, what="contexts", share=SHARE, seed=seed
        )
    return parts.dataset(found, from_items, what="Questions", name=name, notes=notes)


def _context(item: Item) -> str:
    return item.context


# -- questions about docstrings ---------------------------------------------------------------


def _contexts(libraries: Sequence[str]) -> tuple[list[Docstring], list[str]]:
    docs = [doc for library in libraries for doc in docstrings.read(library)]
    pairs = [(doc, context_of(doc.text)) for doc in docs]
    kept = [(doc, text) for doc, text in pairs if text]
    return [doc for doc, _ in kept], [text for _, text in kept]


def _about_docstrings(notes: list[str]) -> dict[str, list[Item]]:
    found = {name: _contexts(LIBRARIES[name]) for name in split.SPLITS}
    every = [text for name in split.SPLITS for text in found[name][1]]
    groups, at = duplicates.near_groups(every).tolist(), len(every)
    taken: set[int] = set()
    kept: dict[str, list[tuple[Docstring, str]]] = {}
    for name in reversed(split.SPLITS):  # what a later split has, an earlier one leaves out
        docs, texts = found[name]
        at -= len(docs)
        kept[name] = []
        for doc, text, group in zip(docs, texts, groups[at : at + len(docs)], strict=True):
            if group not in taken:
                taken.add(group)
                kept[name].append((doc, text))
    asked = {name: _asked(kept[name], name) for name in split.SPLITS}
    test = asked["test"]
    notes += [
        f"{name}: {', '.join(f'{x} {docstrings.version(x)}' for x in LIBRARIES[name])}; "
        f"{len(kept[name]):,} docstrings, {len(found[name][0]) - len(kept[name]):,} copies "
        "left out."
        for name in split.SPLITS
    ]
    unnamed = sum(not item.named for item in test) / len(test)
    empty = sum(not item.texts for item in test) / len(test)
    notes += [
        "Questions were made from hand-written wordings; test wordings are not trained on.",
        f"Test: {100 * unnamed:.0f} % name no parameter, {100 * empty:.0f} % have no answer.",
    ]
    return asked


def _asked(docs: Sequence[tuple[Docstring, str]], name: str) -> list[Item]:
    """The questions of a split: shares by kind, every meaning as often as it can be."""
    pool = [w for _, text in docs for w in _names(text)]
    asker = Asker(name != "train", sorted(set(pool)))
    found = [
        (doc, text, question) for doc, text in docs for question in asker.questions(doc, text)
    ]
    salts = [
        duplicates.key(f"{doc.name} {question.text} {question.start}")
        for doc, _, question in found
    ]
    # The first of each meaning, then the second of each, and so on.
    rank: Counter[tuple[str, str]] = Counter()
    places: list[tuple[int, int, int]] = []
    for i in sorted(range(len(found)), key=salts.__getitem__):
        which = (found[i][2].kind, found[i][2].meaning)
        places.append((rank[which], salts[i], i))
        rank[which] += 1
    shares = TRAINED if name == "train" else SHARES
    left = {kind: round(SIZES[name] * share) for kind, share in shares.items()}
    used: Counter[str] = Counter()
    made: dict[str, Item] = {}
    for _, _, i in sorted(places):
        doc, text, question = found[i]
        item = _item(doc, text, question)
        if not left[question.kind] or used[text] == PER_CONTEXT[name] or item.id in made:
            continue
        left[question.kind] -= 1
        used[text] += 1
        made[item.id] = item
    squad.check_all(list(made.values()), NAME)
    return list(made.values())


def _names(text: str) -> list[str]:
    parameters = next(s for s in docstrings.sections(text) if s.title == "Parameters")
    names = [entry.name for entry in docstrings.entries(text, parameters)]
    return [name for name in names if name.isidentifier() and len(name) > 2]


def _item(doc: Docstring, text: str, question: Question) -> Item:
    there = question.start >= 0
    content = f"{doc.name} {question.text} {question.kind} {question.start}"
    return Item(
        id=f"{duplicates.key(content):016x}",
        title=doc.name,
        context=text,
        question=question.text,
        texts=[text[question.start : question.end]] if there else [],
        starts=[question.start] if there else [],
        kind=question.kind,
        named=int(question.kind in NAMED),
        meaning=question.meaning,
        library=doc.library,
    )


def from_items(rows: Sequence[Item]) -> Dataset:
    """Items as a data set with the columns of `load`."""
    from datasets import Dataset, Features, List, Value

    kinds: dict[str, Any] = {f.name: Value("string") for f in fields(Item)}
    kinds |= {"texts": List(Value("string")), "starts": List(Value("int64"))}
    features = Features(kinds | {"named": Value("int64")})
    columns = {name: [getattr(row, name) for row in rows] for name in kinds}
    return Dataset.from_dict(columns, features=features)
