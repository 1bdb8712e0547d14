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
FIRST = ("ba", "bo", "da", "fen", "gar", "hil", "kor", "lem", "mir", "nel", "per", "sil", "tor")
LATER = ("la", "da", "mo", "ra", "ren", "sa", "ta", "va", "wel", "win", "zon", "go", "ka")
NEW = 0.3  # share of training words that are made up: what is new must be copied, too
MOST_KEYS = 3  # asked for at a time
NUMBERS = (2, 98)


@dataclass(frozen=True)
class Task:
    """A request, a right answer, and what the answer must hold.

    Attributes:
        kind: One of `KINDS`.
        prompt: What the user says.
        answer: One right answer, in the form that is trained.
        expected: Key to value, in the order asked for.
    """

    kind: str
    prompt: str
    answer: str
    expected: dict[str, str | int]

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
        return _task(part, KINDS[number % len(KINDS)], generator)

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
    notes, expected = facts(part, list(VALUES[part]), generator)
    request = drawn(REQUESTS[part][kind], generator).format(keys=listed(list(expected)))
    return Task(kind, f"{notes}\n{request}", right_answer(kind, expected), expected)


def drawn(choices: Sequence[Any], generator: Any) -> Any:
    """One of several, each as likely."""
    return choices[int(generator.integers(len(choices)))]


def facts(part: str, known: Sequence[str], generator: Any) -> tuple[str, dict[str, str | int]]:
    """Notes about three or four keys, and the facts that are asked for.

    Args:
        known: The keys to choose from.
    """
    keys = [known[i] for i in generator.permutation(len(known))]
    keys = keys[: int(generator.integers(MOST_KEYS, 5))]
    found: dict[str, str | int] = {}
    for key in keys:
        values = VALUES[part][key]
        if values == NUMBER:
            found[key] = int(generator.integers(*NUMBERS))
        elif values == MADE_UP:
            found[key] = _made_up(generator).capitalize()
        else:
            found[key] = value = drawn(values, generator)
            if part == "train" and generator.random() < NEW:
                new = _made_up(generator)
                found[key] = new if value.islower() else new.capitalize()
    form = drawn(NOTES[part], generator)
    notes = "".join(form.format(key=key, value=value) for key, value in found.items()).strip()
    asked = [keys[i] for i in generator.permutation(len(keys))]
    asked = asked[: int(generator.integers(1, MOST_KEYS + 1))]
    return notes, {key: found[key] for key in asked}


def _made_up(generator: Any) -> str:
    later = [drawn(LATER, generator) for _ in range(int(generator.integers(1, 3)))]
    return "".join([drawn(FIRST, generator), *later])


def right_answer(kind: str, expected: dict[str, str | int]) -> str:
    """The answer in the form that is trained."""
    if kind == "json":
        return json.dumps(expected, ensure_ascii=False)
    if kind == "list":
        return "\n".join(f"- {value}" for value in expected.values())
    said = listed([f"the {key} is {value}" for key, value in expected.items()])
    return f"{said[0].upper()}{said[1:]}."


def wrong(task: Task, answer: str) -> str:
    """What is wrong with an answer, in a few words; "" when it does what was asked."""
    answer = answer.strip()
    if not answer:
        return "empty"
    values = [str(value) for value in task.expected.values()]
    if task.kind == "json":
        return _wrong_json(task, answer)
    if task.kind == "list":
        lines = answer.splitlines()
        if not all(line.startswith("- ") for line in lines):
            return "not a list of dashes"
        held = [line[2:].strip() for line in lines]
        if len(held) != len(values):
            return "too many lines" if len(held) > len(values) else "too few lines"
        missing = any(v not in h for v, h in zip(values, held, strict=True))
        return "wrong values" if missing else ""
    if "\n" in answer or not answer.endswith((".", "!")):
        return "not one sentence"
    if re.search(r"[.!?]\s", answer):
        return "more than one sentence"
    words = re.findall(r"\w+", answer)
    said = all(all(word in words for word in re.findall(r"\w+", v)) for v in values)
    return "" if said else "wrong values"


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
