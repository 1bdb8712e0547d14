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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftkit.corpora.chat_formats import Message
from sftkit.errors import CorpusError

KINDS = ("json", "list", "sentence")
SYSTEM = "Do exactly what is asked."

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


@dataclass(frozen=True)
class Task:
    """A request, a right answer, and what the answer must hold.

    Attributes:
        kind: One of `KINDS`.
        prompt: What the user says.
        answer: One right answer, in the form that is trained.
        expected: Key to value, in the order asked for.
        others: The values in the notes that were not asked for.
    """

    kind: str
    prompt: str
    answer: str
    expected: dict[str, str | int]
    others: tuple[str | int, ...] = ()

    def messages(self, answered: bool = True) -> list[Message]:
        """As turns, with the answer or ready to be answered."""
        asked = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": self.prompt},
        ]
        return [*asked, {"role": "assistant", "content": self.answer}] if answered else asked


def tasks(part: str, n: int, seed: int = 0) -> list[Task]:
    """``n`` different tasks of a split, the kinds in turn.

    Raises:
        CorpusError: An unknown split, or more tasks than there are.
    """

    def make(number: int, generator: Any) -> Task:
        kinds = TRAINED_KINDS if part == "train" else KINDS
        return _task(part, kinds[number % len(kinds)], generator)

    return distinct(make, VALUES, part, n, seed)


def distinct(
    make: Callable[[int, Any], Task], parts: Collection[str], part: str, n: int, seed: int
) -> list[Task]:
    """``n`` tasks with different prompts.

    Args:
        make: Gives a task, from the number of those found so far and a numpy generator.
        parts: The splits that there are.

    Raises:
        CorpusError: An unknown split, or more tasks than there are.
    """
    import numpy as np

    if part not in parts or n < 1:
        raise CorpusError(
            f"{n} tasks of part {part!r}.", f"Give at least 1, of {', '.join(parts)}."
        )
    generator = np.random.default_rng([seed, list(parts).index(part)])
    found: dict[str, Task] = {}
    for _ in range(20 * n):
        task = make(len(found), generator)
        found.setdefault(task.prompt, task)
        if len(found) == n:
            return list(found.values())
    raise CorpusError(f"There are not {n:,} different tasks for {part}.", "Ask for fewer.")


def _task(part: str, kind: str, generator: Any) -> Task:
    rare_keys = RARE_KEYS if part == "train" else 0.0
    notes, expected, others = facts(part, list(VALUES[part]), generator, rare_keys)
    request = drawn(REQUESTS[part][kind], generator).format(keys=listed(list(expected)))
    return Task(kind, f"{notes}\n{request}", right_answer(kind, expected), expected, others)


def drawn(choices: Sequence[Any], generator: Any) -> Any:
    """One of several, each as likely."""
    return choices[int(generator.integers(len(choices)))]


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


def located(
    words: Sequence[str], text: str, flags: int = 0
) -> tuple[dict[str, list[int]], str]:
    """Where each of some words stands in a text, and the text with those words blotted out.

    The longest are looked for first: "rain" does not stand in "rain boots" when both are given.
    """
    found: dict[str, list[int]] = {}
    for word in sorted(words, key=len, reverse=True):
        if word not in found:
            pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", flags)
            found[word] = [match.start() for match in pattern.finditer(text)]
            text = pattern.sub(lambda match: "\0" * len(match[0]), text)
    return found, text


def in_order(
    keys: Sequence[int], places: Sequence[Sequence[int]], values: Sequence[str]
) -> bool:
    """Whether values stand in the order of their keys: none has another's place.

    Args:
        keys: Where each key stands.
        places: Where each key's value stands, at least one place each.
        values: The values; two keys may have one value, which may then stand there twice.
    """
    at = [
        several[min(values[:row].count(values[row]), len(several) - 1)]
        for row, several in enumerate(places)
    ]
    by_key = sorted(range(len(keys)), key=lambda row: keys[row])
    by_place = sorted(range(len(keys)), key=lambda row: at[row])
    return [values[row] for row in by_key] == [values[row] for row in by_place]


def _wrong_json(task: Task, answer: str) -> str:
    try:
        found = json.loads(answer)
    except ValueError:
        return "not JSON"
    if not isinstance(found, dict):
        return "no object"
    if set(found) != set(task.expected):
        return "wrong keys"
    same = all(str(found[key]) == str(value) for key, value in task.expected.items())
    return "" if same else "wrong values"


def few_shot(task: Task, shots: Sequence[Task]) -> list[Message]:
    """The task after a few solved ones, as earlier turns: what to try before training."""
    turns = task.messages(answered=False)
    solved = [turn for shot in shots for turn in shot.messages()[1:]]
    return [turns[0], *solved, *turns[1:]]


def listed(words: Sequence[str], last: str = "and") -> str:
    """a, b and c."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
