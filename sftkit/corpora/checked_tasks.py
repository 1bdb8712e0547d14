"""Tasks whose answers a program can check: what the jobs of notebook 13 have in common.

A job (`instructions`, `documentation`, `languages`) has ``KINDS``, and the functions ``tasks``,
``wrong`` and ``few_shot``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sftkit.corpora.chat_formats import Message
from sftkit.errors import CorpusError

SYSTEM = "Do exactly what is asked."


@dataclass(frozen=True)
class Task:
    """A request, a right answer, and what the answer must hold.

    Attributes:
        kind: One of the job's kinds.
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


def drawn(choices: Sequence[Any], generator: Any) -> Any:
    """One of several, each as likely."""
    return choices[int(generator.integers(len(choices)))]


def located(
    words: Sequence[str], text: str, flags: int = 0, letters: str = r"\w"
) -> tuple[dict[str, list[int]], str]:
    """Where each of some words stands in a text, and the text with those words blotted out.

    The longest are looked for first: "rain" does not stand in "rain boots" when both are given.

    Args:
        flags: Of the module ``re``.
        letters: What may not stand right before or after a word, as in a set of ``re``.
    """
    found: dict[str, list[int]] = {}
    for word in sorted(words, key=len, reverse=True):
        if word not in found:
            pattern = re.compile(rf"(?<![{letters}]){re.escape(word)}(?![{letters}])", flags)
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


def few_shot(task: Task, shots: Sequence[Task]) -> list[Message]:
    """The task after a few solved ones, as earlier turns: what to try before training."""
    turns = task.messages(answered=False)
    solved = [turn for shot in shots for turn in shot.messages()[1:]]
    return [turns[0], *solved, *turns[1:]]


def listed(words: Sequence[str], last: str = "and") -> str:
    """a, b and c."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
