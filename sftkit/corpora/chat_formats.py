"""The forms in which conversations are written down, each turned into a list of turns.

================== ===================================================================
form               columns
================== ===================================================================
messages           ``messages``: ``[{"role": "user", "content": "..."}, ...]``
ShareGPT           ``conversations``: ``[{"from": "human", "value": "..."}, ...]``
Alpaca             ``instruction``, ``output``, and perhaps ``input``
Dolly              ``instruction``, ``response``, and perhaps ``context``
prompt, completion ``prompt`` and ``completion`` (or ``response``), texts or lists of
                   turns; also ``question`` and ``answer``
raw text           ``text``: no turns; `encode_lm.causal` learns from every token
================== ===================================================================

All but the raw text may have a column ``system``. It, ``input`` and ``context`` may be empty.
An assistant's turn in a list may have ``"weight": 0`` (``1``): it is read and not learnt.
Texts are cleaned before they are checked: one of invisible characters alone is empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sftkit.corpora.clean import cleaner
from sftkit.corpora.readers import Columns
from sftkit.corpora.source import Batch
from sftkit.errors import CorpusError

Message = dict[str, Any]  # role and content, texts; perhaps weight, 0 or 1
ROLES = ("system", "user", "assistant")
CLEAN = ("unicode", "control")  # white space stays: answers hold code
cleaned = cleaner(CLEAN)
SHAREGPT = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant",
    "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
}  # fmt: skip


@dataclass(frozen=True)
class Form:
    """A form: its name, the column it begins with, that of the answer, and one more."""

    name: str
    first: str
    answer: str | None = None
    more: str | None = None

    @property
    def needs(self) -> set[str]:
        return {self.first, *([self.answer] if self.answer else [])}


FORMS = (
    Form("messages", "messages"),
    Form("ShareGPT", "conversations"),
    Form("Alpaca", "instruction", "output", "input"),
    Form("Dolly", "instruction", "response", "context"),
    Form("prompt, completion", "prompt", "completion"),
    Form("prompt, completion", "prompt", "response"),
    Form("prompt, completion", "question", "answer"),
    Form("raw text", "text"),
)


def find_form(names: Iterable[str], where: str) -> Form:
    """The first form whose columns are all there.

    Raises:
        CorpusError: None fits.
    """
    have = set(names)
    for form in FORMS:
        if form.needs <= have:
            return form
    known = "; ".join(" and ".join(sorted(form.needs)) for form in FORMS)
    raise CorpusError(
        f"{where}: the columns {', '.join(map(repr, sorted(have)))} are no known form of "
        "conversation.",
        f"Rename them to one of: {known}.",
    )


def columns_of(form: Form, names: Iterable[str], encoding: str) -> Columns:
    """What a reader of `readers` must fetch for a form; ``system`` comes as the group."""
    have = set(names)
    return Columns(
        text=form.first,
        label=form.answer or form.first,
        text_pair=form.more if form.more in have else None,
        group="system" if "system" in have and form.name != "raw text" else None,
        encoding=encoding,
    )


def turns(form: Form, batch: Batch, at: int, place: str) -> list[Message]:
    """Row ``at`` of a batch as turns, cleaned and checked.

    Raises:
        CorpusError: The row is malformed; ``place`` and turn are named.
    """
    first, answer = batch.text[at], batch.label[at]
    more = _optional(batch.pair[at], str(form.more), place) if batch.pair is not None else ""
    if form.answer is None:
        found = _listed(first, form.first, place)
        if form.name == "ShareGPT":
            found = [_from_sharegpt(turn, f"{place}, turn {i}") for i, turn in enumerate(found)]
    elif _is_list(first) or _is_list(answer):
        if more:
            raise CorpusError(
                f"{place}: {form.more!r} stands beside a list of turns.",
                f"Put it into a turn, or make {form.first!r} and {form.answer!r} texts.",
            )
        found = _listed(first, form.first, place) + _listed(answer, form.answer, place)
    else:
        question = text_of(first, form.first, place)
        found = [
            {"role": "user", "content": f"{question}\n\n{more}" if more else question},
            {"role": "assistant", "content": text_of(answer, form.answer, place)},
        ]
    system = _optional(batch.group[at], "system", place) if batch.group is not None else ""
    if system:
        found = [{"role": "system", "content": system}, *found]
    return checked(found, place)


def checked(found: list[Any], place: str) -> list[Message]:
    """Turns with ``role``, ``content`` and perhaps ``weight``, in an order for a template.

    Contents are cleaned (``CLEAN``) before they are looked at.

    Raises:
        CorpusError: Naming the turn.
    """
    result: list[Message] = []
    for number, turn in enumerate(found):
        where = f"{place}, turn {number}"
        if not isinstance(turn, Mapping):
            raise CorpusError(
                f"{where}: {_kind(turn)} instead of an object.",
                'A turn is {"role": "user", "content": "..."}.',
            )
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES:
            raise CorpusError(
                f"{where}: the role is {_said(role)}.",
                f"There are {', '.join(ROLES)}. Leave out conversations that call tools.",
            )
        content = text_of(content, "content", where)
        before = result[-1]["role"] if result else None
        if role == "system" and before is not None:
            raise CorpusError(
                f"{where}: the system speaks after others.", "It comes first, or not at all."
            )
        if role == "assistant" and before in (None, "system"):
            raise CorpusError(
                f"{where}: the assistant speaks before the user.",
                "Begin with a question, or put this text into the system turn.",
            )
        if role == before:
            raise CorpusError(
                f"{where}: two turns of the {role} follow each other.", "Join them into one."
            )
        result.append({"role": str(role), "content": content, **_weight(turn, where)})
    if not any(turn["role"] == "assistant" for turn in result):
        raise CorpusError(
            f"{place}: nobody answers.", "There is nothing to learn: give an answer."
        )
    return result


def _weight(turn: Mapping[str, Any], where: str) -> dict[str, int]:
    """A turn's weight, if it has one. Files with columns have an empty one in other turns."""
    weight = turn.get("weight")
    if weight is None:
        return {}
    if isinstance(weight, str | bool) or weight not in (0, 1):
        raise CorpusError(f"{where}: the weight is {_said(weight)}.", "Give 0 or 1.")
    return {"weight": int(weight)}


def _listed(value: Any, column: str, place: str) -> list[Any]:
    if isinstance(value, str):  # as in a CSV file
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):  # no JSON, or too deep
            value = value.strip() or None
    if value is None:
        raise CorpusError(f"{place}: {column!r} is empty.", "Give a list of turns.")
    if not isinstance(value, list):
        raise CorpusError(
            f"{place}: {column!r} holds {_kind(value)}, not a list of turns.",
            'Give [{"role": "user", "content": "..."}, {"role": "assistant", ...}].',
        )
    return list(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _from_sharegpt(turn: Any, place: str) -> Any:
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn  # some files have role and content under this name
    speaker = turn["from"]
    if not isinstance(speaker, str) or speaker not in SHAREGPT:
        raise CorpusError(
            f"{place}: it is from {_said(speaker)}.", f"There are {', '.join(SHAREGPT)}."
        )
    found = {"role": SHAREGPT[speaker], "content": turn.get("value")}
    return found | ({"weight": turn["weight"]} if "weight" in turn else {})


def text_of(value: Any, column: str, place: str) -> str:
    """A text, cleaned.

    Raises:
        CorpusError: It is empty, perhaps only then, or no text.
    """
    if text := _optional(value, column, place):
        return text
    raise CorpusError(f"{place}: {column!r} is empty.", "Fill it in, or drop the row.")


def _optional(value: Any, column: str, place: str) -> str:
    """A text, cleaned, that may be missing: "" then."""
    if value is None or value != value:  # NaN, as in a table
        return ""
    if not isinstance(value, str):
        raise CorpusError(
            f"{place}: {column!r} holds {_kind(value)}, not a text.", "Give one string."
        )
    text = cleaned(value)
    return text if text.strip() else ""


def _said(value: Any) -> str:
    """A value for a message; of lists and objects, which may be deep, the kind."""
    return _kind(value) if isinstance(value, list | dict) else f"{value!r}"[:60]


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "an object", int: "a number", float: "a number"}
    return names.get(type(value), "a text" if isinstance(value, str) else f"{value!r}"[:40])
