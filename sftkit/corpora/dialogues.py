"""Conversations: the embedded dialogues, or the user's own, in splits without copies.

``load("dialogues")`` gives columns ``messages`` (turns with ``role`` and ``content``),
``topic`` and ``place``. Conversations that ask the same, or answer the same at some length,
stay on one side. All rows are held in memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftkit.corpora import dialogues_own, duplicates, parts, split
from sftkit.corpora.chat_formats import Message, checked, cleaned
from sftkit.errors import CorpusError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NAMES = ("dialogues",)
SHARE = 0.1  # for validation, and again for test, where they are not given
# In these files the lines after the first are answers to it, one as good as the other.
ALTERNATIVES = ("computers", "emotion")
QUIZZES = ("trivia",)  # pairs of question and answer, also where a list holds several


@dataclass(frozen=True)
class Talk:
    """One conversation, or one raw text, and where it stands."""

    messages: list[Message]
    text: str
    topic: str
    place: str

    @property
    def whole(self) -> str:
        """All that is said, in one text."""
        return "\n".join(turn["content"] for turn in self.messages) or self.text


def load(
    name_or_path: str | Path,
    *,
    topics: Collection[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    drop_duplicates: bool = True,
    drop_malformed: bool = False,
    encoding: str = "utf-8",
) -> DatasetDict:
    """Conversations, split so that nothing like a test conversation is trained on.

    Args:
        name_or_path: ``dialogues`` (English chatterbot-corpus); a JSONL, CSV or Parquet file
            in one of the forms of `chat_formats`; a folder of such files named after the
            splits; a ``DatasetDict`` on disk; or ``hub:ID[:CONFIGURATION]``.
        topics: Of the embedded dialogues (``coding``, ``tech_support``, ...); None: all.
        limit: Training conversations. A smaller limit gives a part of a larger one.
        seed: Which conversations go where, and which a limit takes.
        drop_duplicates: Leave out conversations that are word for word there already.
        drop_malformed: Leave malformed rows out and count them, instead of stopping: rows that
            are no conversation, lines that are no JSON object, rows with another number of
            fields than the header. A file that cannot be read further is still refused, for
            its encoding, say, or a quotation mark that is never closed.
        encoding: Of CSV and JSONL files.

    Returns:
        Splits ``train``, ``validation`` and ``test`` with ``messages`` (or ``text``, for raw
        texts), ``topic`` and ``place``. `corpora.notes` tells what was done. Raw texts have no
        turns: `encode_lm.causal` learns from them, `encode_chat` does not.

    Raises:
        CorpusError: With the file, row and turn, and what to do.
    """
    parts.check_limit(limit)
    notes: list[str] = []
    if str(name_or_path) in NAMES:
        talks = list(_embedded(topics))
        whole = [talk for talk in talks if all(turn["content"] for turn in talk.messages)]
        if empty := len(talks) - len(whole):
            notes.append(f"{empty:,} conversations with an empty line are left out.")
        found = {"train": whole}
    elif topics is not None:
        raise CorpusError(
            f"topics= with data {str(name_or_path)!r}.", "Only the embedded data has topics."
        )
    else:
        if not str(name_or_path).startswith("hub:"):
            parts.existing(name_or_path, NAMES)
        read = dialogues_own.read(name_or_path, encoding, drop_malformed, notes)
        found = {
            part: [Talk(messages, text, "", place) for messages, text, place in rows]
            for part, rows in read.items()
        }
    return _finished(found, str(name_or_path), limit, seed, drop_duplicates, notes)


def of(
    conversations: Sequence[Sequence[Message]], *, name: str = "conversations", seed: int = 0
) -> DatasetDict:
    """The same door for conversations that are in memory.

    Args:
        conversations: Each a list of turns with ``role``, ``content`` and perhaps ``weight``.
        name: For messages and notes.
        seed: Which conversations go where.

    Raises:
        CorpusError: With the row and turn, and what to do.
    """
    talks = []
    for row, turns in enumerate(_listed(conversations, name)):
        where = f"{name}, row {row}"
        talks.append(Talk(checked(_listed(turns, where), where), "", "", f"row {row}"))
    return _finished({"train": talks}, name, None, seed, True, [])


def _listed(held: Any, where: str) -> list[Any]:
    if not isinstance(held, Iterable) or isinstance(held, str | bytes | Mapping):
        raise CorpusError(
            f"{where}: {type(held).__name__} instead of a list.",
            "A conversation is a list of turns; give a list of conversations.",
        )
    return list(held)


def first_question(talk: Sequence[Message]) -> str:
    """What the user says first."""
    return next((turn["content"] for turn in talk if turn["role"] == "user"), "")


def _embedded(topics: Collection[str] | None) -> Iterator[Talk]:
    import yaml

    from sftkit import assets

    folder = assets.path("chatterbot-corpus") / "english"
    files = {file.stem: file for file in sorted(folder.glob("*.yml"))}
    if topics is not None and (unknown := sorted(set(topics) - set(files))):
        raise CorpusError(
            f"dialogues: no topics {', '.join(map(repr, unknown))}.",
            f"There are {', '.join(files)}.",
        )
    for topic, file in files.items():
        if topics is not None and topic not in topics:
            continue
        # A loader that makes plain values only: a tag in the file cannot run code.
        held = yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]
        for number, lines in enumerate(held, 1):
            texts = [cleaned(str(line).strip()) for line in lines]
            for said in _conversations(topic, texts):
                turns = [
                    {"role": ("user", "assistant")[at % 2], "content": text}
                    for at, text in enumerate(said)
                ]
                yield Talk(turns, "", topic, f"{file.name}, conversation {number}")


def _conversations(topic: str, lines: list[str]) -> list[list[str]]:
    """The lines of one entry, as question, answer, question, answer, ..."""
    if topic in ALTERNATIVES:
        return [[lines[0], answer] for answer in lines[1:]]
    even = lines[: len(lines) // 2 * 2]  # a last question without an answer teaches nothing
    if topic in QUIZZES:
        return [even[at : at + 2] for at in range(0, len(even), 2)]
    return [even]


def _finished(
    found: dict[str, list[Talk]],
    name: str,
    limit: int | None,
    seed: int,
    drop_duplicates: bool,
    notes: list[str],
) -> DatasetDict:
    """Drop copies, split, order."""
    if drop_duplicates:
        found = {part: _distinct(talks, part, notes) for part, talks in found.items()}
    groups = _groups(found)
    if len(found) < len(split.SPLITS):
        sizes = Counter(groups["train"]).values()
        if several := [size for size in sizes if size > 1]:
            notes.append(
                f"{sum(several):,} conversations are in {len(several):,} groups "
                f"that ask or answer alike; the largest has {max(several):,}."
            )
    found = parts.finished(
        found, groups, _whole, notes, what="conversations", share=SHARE, seed=seed,
        stratum=_topic,
    )  # fmt: skip
    chosen = parts.order([talk.whole for talk in found["train"]], limit, seed)
    found["train"] = [found["train"][at] for at in chosen]
    raw = not any(talk.messages for talks in found.values() for talk in talks)
    what = "Texts" if raw else "Conversations"
    table = partial(_table, raw=raw)
    return parts.dataset(found, table, what=what, name=name, notes=notes)


def _distinct(talks: list[Talk], part: str, notes: list[str]) -> list[Talk]:
    seen: dict[str, Talk] = {}
    for talk in talks:
        turns = [{"weight": 1} | turn for turn in talk.messages]
        said = json.dumps(turns, ensure_ascii=False, sort_keys=True) + talk.text
        seen.setdefault(said, talk)
    if copies := len(talks) - len(seen):
        notes.append(f"{part}: {copies:,} of {len(talks):,} rows are copies and left out.")
    return list(seen.values())


def _groups(found: dict[str, list[Talk]]) -> dict[str, list[int]]:
    """What must stay together, numbered through all splits.

    Talks are alike when their first questions are, or all that is said, or an answer of at
    least ``duplicates.SHORT`` words. "Yes." answers many questions, so short ones do not count.
    """
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    talks = [talk for part in found.values() for talk in part]
    texts, owner = [], []
    for number, talk in enumerate(talks):
        answers = [t["content"] for t in talk.messages if t["role"] == "assistant"]
        long = [a for a in answers if len(duplicates.normal_words(a)) >= duplicates.SHORT]
        for text in (talk.whole, first_question(talk.messages) or talk.whole, *long):
            texts.append(text)
            owner.append(number)
    if len(texts) <= duplicates.NEAR_LIMIT:
        alike = duplicates.near_groups(texts)
    else:
        forms = [duplicates.key(duplicates.normal_form(text)) for text in texts]
        alike = duplicates.first_appearance(np.array(forms, dtype=np.uint64))
    size = len(talks) + int(alike.max(initial=-1)) + 1
    edges = (np.ones(len(owner), np.int8), (owner, np.asarray(alike) + len(talks)))
    _, component = connected_components(coo_matrix(edges, shape=(size, size)), directed=False)
    flat = component[: len(talks)].tolist()
    bounds = np.cumsum([0, *(len(part) for part in found.values())]).tolist()
    return {name: flat[a:b] for name, a, b in zip(found, bounds, bounds[1:], strict=False)}


def _whole(talk: Talk) -> str:
    return talk.whole


def _topic(talk: Talk) -> str:
    return talk.topic


def _table(talks: list[Talk], raw: bool) -> Dataset:
    from datasets import Dataset, Features, List, Value

    text = Value("string")
    turn = {"role": text, "content": text}
    weighted = any("weight" in t for talk in talks for t in talk.messages)
    if weighted:
        turn["weight"] = Value("int8")
    kind: Any = text if raw else List(turn)
    features = Features({"text" if raw else "messages": kind, "topic": text, "place": text})
    columns = {field: [getattr(talk, field) for talk in talks] for field in features}
    if weighted:
        columns["messages"] = [
            [{"weight": 1} | t for t in talk] for talk in columns["messages"]
        ]
    return Dataset.from_dict(columns, features=features)
