"""Data sets of questions whose answers are parts of a text: docstrings, or the user's own.

``load("docstring-qa")`` asks about the documentation of installed libraries. Its splits are by
library, so that a test question is about a library that training never saw, in a wording that
training never saw. See `docstring_questions` for how questions are made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftkit.corpora import (
    docstring_questions,
    docstrings,
    duplicates,
    questions_own,
    split,
    squad,
)
from sftkit.corpora.docstring_questions import NAMED, SHARES, Asker, context_of
from sftkit.corpora.docstrings import Docstring
from sftkit.corpora.loading import _no_bars
from sftkit.corpora.prepare import fingerprint
from sftkit.corpora.squad import Item
from sftkit.errors import CorpusError
from sftkit.files import cache_folder, folder_in_one_piece, locked, sha256, sha256_text

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NAME = "docstring-qa"
LIBRARIES = {
    "train": ("numpy", "scipy", "networkx"),
    "validation": ("matplotlib",),
    "test": ("sklearn", "pandas"),
}
SIZES = {"train": 6_000, "validation": 500, "test": 1_200}  # questions
PER_CONTEXT = {"train": 6, "validation": 3, "test": 2}  # questions about one docstring


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
    from datasets import DatasetDict, load_from_disk

    if limit is not None and (isinstance(limit, bool) or limit < 1):
        raise CorpusError(f"limit={limit!r}.", "Give a whole number from 1, or None.")
    own = str(name_or_path) != NAME  # the splits of ours are fixed
    chosen = (seed, encoding) if own else ()
    key = fingerprint(str(name_or_path), _identity(name_or_path), *chosen, _code())
    folder = cache_folder() / "corpora" / f"questions-{key}"
    if not (folder / "dataset_dict.json").is_file():
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not (folder / "dataset_dict.json").is_file():
                parts, notes = _read(name_or_path, seed, encoding)
                with _no_bars(), folder_in_one_piece(folder) as final:
                    _dataset(parts, notes, str(name_or_path)).save_to_disk(str(final))
    data = load_from_disk(str(folder))
    assert isinstance(data, DatasetDict)
    keys = [duplicates.key(ident) for ident in data["train"]["id"]]
    order = split.nested_order([0] * len(keys), keys, seed, stratify=False)
    data["train"] = data["train"].select(order[:limit])
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
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise CorpusError(
            f"There is no data set and no file or folder {name!r}.",
            f"Embedded is {NAME}. A data set of the Hub is 'hub:ID'.",
        )
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file.relative_to(path.parent)): sha256(file) for file in files}


def _read(
    name_or_path: str | Path, seed: int, encoding: str
) -> tuple[dict[str, list[Item]], list[str]]:
    if str(name_or_path) == NAME:
        return _about_docstrings()
    return questions_own.completed(questions_own.read(name_or_path, encoding), seed)


# -- questions about docstrings ---------------------------------------------------------------


def _contexts(libraries: Sequence[str]) -> tuple[list[Docstring], list[str]]:
    docs = [doc for library in libraries for doc in docstrings.read(library)]
    pairs = [(doc, context_of(doc.text)) for doc in docs]
    kept = [(doc, text) for doc, text in pairs if text]
    return [doc for doc, _ in kept], [text for _, text in kept]


def _about_docstrings() -> tuple[dict[str, list[Item]], list[str]]:
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
    parts = {name: _asked(kept[name], name) for name in split.SPLITS}
    test = parts["test"]
    notes = [
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
    return parts, notes


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
    left = {kind: round(SIZES[name] * share) for kind, share in SHARES.items()}
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


def _item(doc: Docstring, text: str, question: docstring_questions.Question) -> Item:
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


def _dataset(parts: dict[str, list[Item]], notes: list[str], name: str) -> DatasetDict:
    from datasets import DatasetDict

    counts = ", ".join(f"{part} {len(parts[part]):,}" for part in split.SPLITS)
    about = {"name": name, "options": {}, "notes": [f"Questions: {counts}.", *notes]}
    data = DatasetDict()
    for part in split.SPLITS:
        data[part] = from_items(parts[part])
        data[part].info.description = json.dumps(about, ensure_ascii=False)
    return data


def from_items(rows: Sequence[Item]) -> Dataset:
    """Items as a data set with the columns of `load`."""
    from datasets import Dataset, Features, List, Value

    kinds: dict[str, Any] = {f.name: Value("string") for f in fields(Item)}
    kinds |= {"texts": List(Value("string")), "starts": List(Value("int64"))}
    features = Features(kinds | {"named": Value("int64")})
    columns = {name: [getattr(row, name) for row in rows] for name in kinds}
    return Dataset.from_dict(columns, features=features)


def _code() -> str:
    """Of the modules behind this one: prepared data does not outlive the code it is from."""
    modules = (docstring_questions, docstrings, duplicates, questions_own, split, squad)
    files = [Path(__file__), docstring_questions.WORDINGS]
    files += [Path(str(module.__file__)) for module in modules]
    return sha256_text("\n".join(file.read_text(encoding="utf-8") for file in files))
