"""SQuAD's JSON, versions 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): read, checked, written.

An answer is a text and the place where it begins in its context, counted in characters. A
file whose places do not hold what it says trains a model on other words than its authors
meant, and nothing crashes. So every answer is compared with its context.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftkit.errors import CorpusError
from sftkit.files import write_json


@dataclass
class Item:
    """One question.

    Attributes:
        id: Its own in the file.
        title, context, question: Texts; the title may be empty.
        texts, starts: Right answers and where each begins. None: it has no answer.
        kind, named, meaning, library: Of made questions; else empty. ``named`` is 1 where the
            question names what it asks about.
    """

    id: str
    title: str
    context: str
    question: str
    texts: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    kind: str = ""
    named: int = 0
    meaning: str = ""
    library: str = ""


def check(item: Item, where: str) -> None:
    """Refuse an item that no model can learn from.

    Raises:
        CorpusError: Empty texts, or an answer that is not at its place.
    """
    for name in ("context", "question"):
        value = getattr(item, name)
        if not isinstance(value, str) or not value.strip():
            raise CorpusError(f"{where}: its {name} is empty.", f"Every {name} needs a text.")
    for text, start in zip(item.texts, item.starts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise CorpusError(
                f"{where}: an answer is empty.",
                "A question without an answer has no answers and is_impossible: true.",
            )
        whole = isinstance(start, int) and not isinstance(start, bool)
        if whole and start >= 0 and item.context[start : start + len(text)] == text:
            continue
        if (place := item.context.find(text)) >= 0:
            fix = f"It begins at {place}: places count characters from 0 (not bytes)."
        else:
            fix = "It occurs nowhere in the context: an answer is a part of it, to the letter."
        raise CorpusError(f"{where}: the answer {text[:60]!r} is not at {start!r}.", fix)


def check_all(items: Sequence[Item], where: str) -> None:
    """`check` for every item, and that no id is there twice."""
    seen: set[str] = set()
    for row, item in enumerate(items, 1):
        check(item, f"{where}, question {row} (id {item.id!r})")
        if item.id in seen:
            raise CorpusError(
                f"{where}, question {row}: the id {item.id!r} is there twice.",
                "Every question needs its own id: predictions are matched by it.",
            )
        seen.add(item.id)


def read(path: str | Path, encoding: str = "utf-8") -> list[Item]:
    """The questions of a file.

    Raises:
        CorpusError: With the file, the question's number and id, and what to do.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding=encoding))
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path.name}: byte {error.start} is not {encoding}.",
            "Save the file as UTF-8, or say its encoding.",
        ) from error
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"{path.name}, line {error.lineno}: not JSON ({error.msg}).",
            "Questions come in SQuAD's form, as in data/examples/questions.json.",
        ) from error
    items: list[Item] = []
    try:
        for title, context, qa in _questions(content):
            items.append(_item(title, context, qa, f"{path.name}, question {len(items) + 1}"))
    except (TypeError, KeyError, AttributeError) as error:
        raise CorpusError(
            f"{path.name}, question {len(items) + 1}: not in the form of SQuAD ({error}).",
            'It is {"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", '
            '"answers": [{"text", "answer_start"}]}]}]}]}.',
        ) from error
    if not items:
        raise CorpusError(f"{path.name} has no questions.", "Give at least one.")
    check_all(items, path.name)
    return items


def _questions(content: Any) -> Iterable[tuple[str, str, dict[str, Any]]]:
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                yield article.get("title", ""), paragraph["context"], qa


def _item(title: str, context: str, qa: dict[str, Any], where: str) -> Item:
    impossible, answers = bool(qa.get("is_impossible", False)), list(qa.get("answers", []))
    item = Item(str(qa["id"]), title, context, qa["question"])
    for name in ("kind", "named", "meaning", "library"):  # ours; other files lack them
        setattr(item, name, qa.get(name, getattr(item, name)))
    if impossible and answers:
        raise CorpusError(
            f"{where} (id {item.id!r}): is_impossible, but it has answers.",
            "Keep one of the two; answers that only look right are plausible_answers.",
        )
    if not impossible and not answers:
        raise CorpusError(
            f"{where} (id {item.id!r}): it has no answers.",
            "Give one, or say is_impossible: true.",
        )
    item.texts = [answer["text"] for answer in answers]
    item.starts = [answer["answer_start"] for answer in answers]
    return item


def write(items: Sequence[Item], path: str | Path, version: str = "v2.0") -> None:
    """Write questions; those with the same title and context share a paragraph.

    Raises:
        CorpusError: An item is unsound, or version 1.1 is asked for and a question has no
            answer.
    """
    path = Path(path)
    check_all(items, path.name)
    articles: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for item in items:
        if version.endswith("1.1") and not item.texts:
            raise CorpusError(
                f"id {item.id!r} has no answer.", "Version 1.1 cannot say that; write v2.0."
            )
        pairs = zip(item.texts, item.starts, strict=True)
        qa: dict[str, Any] = {"id": item.id, "question": item.question}
        qa["answers"] = [{"text": text, "answer_start": start} for text, start in pairs]
        if not version.endswith("1.1"):
            qa["is_impossible"] = not item.texts
        if item.kind:
            ours = ("kind", "named", "meaning", "library")
            qa |= {name: getattr(item, name) for name in ours}
        articles.setdefault(item.title, {}).setdefault(item.context, []).append(qa)
    data = [
        {"title": title, "paragraphs": [{"context": c, "qas": q} for c, q in parts.items()]}
        for title, parts in articles.items()
    ]
    write_json(path, {"version": version, "data": data})
