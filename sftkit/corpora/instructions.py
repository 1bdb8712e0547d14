"""Instructions whose answers a program can check: JSON, a list, or one sentence.

``tasks("train", 300)`` makes notes about something and a request in one of three forms. Keys,
values, wordings of the request and forms of the notes are different ones in ``train``,
``validation`` and ``test``: what is measured there has not been learnt by heart. Numbers alone
are drawn from one range for all.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sftkit.corpora.checked_tasks import (
    SYSTEM,
    Task,
    distinct,
    drawn,
    few_shot,
    in_order,
    listed,
    located,
)

__all__ = ["KINDS", "SYSTEM", "Task", "facts", "few_shot", "right_answer", "tasks", "wrong"]

KINDS = ("json", "list", "sentence")

_TEXTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
# Split to key to its possible values, or `NUMBER`, or `MADE_UP`.
NUMBER, MADE_UP = "number", "made up"
VALUES: dict[str, dict[str, list[str] | str]] = _TEXTS["values"]
# Split to the ways in which one fact is written.
NOTES: dict[str, list[str]] = _TEXTS["notes"]
# Split to kind to the wordings of a request.
REQUESTS: dict[str, dict[str, list[str]]] = {
    part: {kind: _TEXTS["requests"][kind][part] for kind in KINDS} for part in VALUES
}
# Parts of which more requests for training are put together, in lower case.
COMPOSED: dict[str, Any] = _TEXTS["composed"]
COMPOSED_SHARE = 0.5  # of the training requests
# Real words for training alone: "names", "nouns", and "keys".
REAL: dict[str, list[str]] = _TEXTS["real"]
# Of the values in training: a word that is one token after a space is often several after a
# quotation mark, so JSON needs many words that are seldom seen, or must be spelt. A number is
# drawn below 1 for each value; below the first it is two such words, below the second one.
RARE = (0.15, 0.7)
RARE_KEYS = 0.5  # share of training keys that are such words, for the same reason
INVENTED = 0.4  # share of these words that do not exist
MOST_KEYS = 3  # asked for at a time
# In training more of what is hard: several values in order, without a word between them.
TRAINED_KINDS = ("json", "list", "json", "list", "json", "list", "sentence")
TRAINED_KEYS = (1, 2, 2, 3, 3)
NUMBERS = (2, 98)


def tasks(part: str, n: int, seed: int = 0) -> list[Task]:
    """``n`` different tasks of a split, the kinds in turn.

    Raises:
        CorpusError: An unknown split, or more tasks than there are.
    """

    def make(number: int, generator: Any) -> Task:
        kinds = TRAINED_KINDS if part == "train" else KINDS
        return _task(part, kinds[number % len(kinds)], generator)

    return distinct(make, VALUES, part, n, seed)


def _task(part: str, kind: str, generator: Any) -> Task:
    rare_keys = RARE_KEYS if part == "train" else 0.0
    notes, expected, others = facts(part, list(VALUES[part]), generator, rare_keys)
    composed = part == "train" and generator.random() < COMPOSED_SHARE
    request = _composed(kind, generator) if composed else drawn(REQUESTS[part][kind], generator)
    request = request.format(keys=listed(list(expected)))
    return Task(kind, f"{notes}\n{request}", right_answer(kind, expected), expected, others)


def _composed(kind: str, generator: Any) -> str:
    """A request put together of parts, with a place for the keys."""
    form = int(generator.integers(3))
    if form == 0:
        frame = drawn(COMPOSED["wishes"], generator)
        filled = frame.replace("{thing}", drawn(COMPOSED["things"][kind], generator))
    else:
        frame = drawn(COMPOSED["frames"], generator)
        order = drawn(COMPOSED["orders"][kind], generator)
        if form == 1:
            then = drawn(COMPOSED["then"][kind], generator)
            order = f"{drawn(COMPOSED['find'], generator)} {{keys}} and {then}"
        filled = frame.replace("{order}", order)
    return filled if filled.startswith("{") else filled[0].upper() + filled[1:]


def facts(
    part: str, known: Sequence[str], generator: Any, rare_keys: float = 0.0
) -> tuple[str, dict[str, str | int], tuple[str | int, ...]]:
    """Notes about three or four keys, the facts that are asked for, and the other values.

    Args:
        known: The keys to choose from.
        rare_keys: The share of keys that become other words, real or made up.
    """
    keys = [known[i] for i in generator.permutation(len(known))]
    keys = keys[: int(generator.integers(MOST_KEYS, 5))]
    found: dict[str, str | int] = {}
    for key in keys:
        rare = rare_keys and generator.random() < rare_keys
        found[_rare("keys", generator) if rare else key] = _value(part, key, generator)
    form = drawn(NOTES[part], generator)
    notes = "".join(form.format(key=key, value=value) for key, value in found.items()).strip()
    keys = list(found)
    asked = [keys[i] for i in generator.permutation(len(keys))]
    several = TRAINED_KEYS if part == "train" else range(1, MOST_KEYS + 1)
    asked = asked[: drawn(several, generator)]
    others = tuple(value for key, value in found.items() if key not in asked)
    return notes, {key: found[key] for key in asked}, others


def _value(part: str, key: str, generator: Any) -> str | int:
    values = VALUES[part][key]
    if values == NUMBER:
        return int(generator.integers(*NUMBERS))
    if values == MADE_UP:
        return _made_up(generator).capitalize()
    value = drawn(values, generator)
    draw = generator.random() if part == "train" else 1.0
    if draw >= RARE[1]:
        return value
    small = value.islower()
    words = [
        _rare("nouns" if small else "names", generator) for _ in range(1 + (draw < RARE[0]))
    ]
    return " ".join(words if small else [word.capitalize() for word in words])


def _rare(of: str, generator: Any) -> str:
    return _made_up(generator) if generator.random() < INVENTED else drawn(REAL[of], generator)


def _made_up(generator: Any) -> str:
    parts = _TEXTS["made_up"]
    later = [drawn(parts["later"], generator) for _ in range(int(generator.integers(1, 3)))]
    return "".join([drawn(parts["first"], generator), *later])


def right_answer(kind: str, expected: dict[str, str | int]) -> str:
    """The answer in the form that is trained."""
    if kind == "json":
        return json.dumps(expected, ensure_ascii=False)
    if kind == "list":
        return "\n".join(f"- {value}" for value in expected.values())
    said = listed([f"the {key} is {value}" for key, value in expected.items()])
    return f"{said[0].upper()}{said[1:]}."


def wrong(task: Task, answer: str) -> str:
    """What is wrong with an answer, in a few words; "" when it does what was asked.

    JSON must hold the keys and their values, and a list one line with each value (perhaps after
    its key and a colon), in the order asked for. A sentence must name keys and values in the
    same order, and no other value of the notes.
    """
    answer = answer.strip()
    if not answer:
        return "empty"
    if task.kind == "json":
        return _wrong_json(task, answer)
    if task.kind == "list":
        return _wrong_list(task, answer)
    return _wrong_sentence(task, answer)


def _wrong_list(task: Task, answer: str) -> str:
    lines = answer.splitlines()
    if not all(line.startswith("- ") for line in lines):
        return "not a list of dashes"
    if len(lines) != len(task.expected):
        return "too many lines" if len(lines) > len(task.expected) else "too few lines"
    for line, (key, value) in zip(lines, task.expected.items(), strict=True):
        held = line[2:].strip().rstrip(".,;")
        if held not in (str(value), f"{key}: {value}", f"{key.capitalize()}: {value}"):
            return "wrong values"
    return ""


def _wrong_sentence(task: Task, answer: str) -> str:
    # Colons and the like: a copy of the notes, or a list, is no sentence.
    if "\n" in answer or not answer.endswith((".", "!")) or _NOTED.search(answer):
        return "not one sentence"
    if re.search(r"[.!?]\s", answer):
        return "more than one sentence"
    values = [str(value) for value in task.expected.values()]
    small = answer[0].lower() + answer[1:]  # a value may come first: "Violin is ..."
    answer = small if any(small.startswith(value) for value in values) else answer
    said, rest = located(values, answer)
    named, rest = located(list(task.expected), rest, re.IGNORECASE)
    if not all(named.values()):
        return "a key is missing"
    if not all(said.values()) or not in_order(
        [named[key][0] for key in task.expected], [said[value] for value in values], values
    ):
        return "wrong values"
    others = [str(value) for value in task.others if str(value) not in values]
    return "says more" if any(located(others, rest)[0].values()) else ""


_NOTED = re.compile(r"^- |[=|{}]|:\s")


def _wrong_json(task: Task, answer: str) -> str:
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):  # the latter from a thousand brackets, say
        return "not JSON"
    if not isinstance(found, dict):
        return "no object"
    if set(found) != set(task.expected):
        return "wrong keys"
    same = all(str(found[key]) == str(value) for key, value in task.expected.items())
    return "" if same else "wrong values"
