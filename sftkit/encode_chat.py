"""Conversations to token ids and labels: the model learns what the assistant says, and to stop.

A tokenizer's chat template writes a conversation as one text. That text is cut where answers
begin and end, each part becomes ids by itself, and a part's labels are its ids or -100. So ids
and labels cannot disagree, an answer's first token never holds a piece of the prompt, and the
prompt's ids are those that the model reads when it generates.

Supervised are the answers' contents and the stop token after each: of every answer, or of the
last alone, and never of those with ``"weight": 0``. As in `encode_lm`, labels are not shifted,
and what was cut is marked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sftkit.chat_templates import marks, rendered
from sftkit.errors import EncodeError

if TYPE_CHECKING:
    from datasets import Dataset

IGNORE = -100
ROLES = ("system", "user", "assistant")
TURNS_LEARNT = ("all", "last")
TURNS = 'A conversation is a list of {"role": ..., "content": ...}.'

Conversation = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Coverage:
    """What the limit on length has done, in numbers of rows.

    Attributes:
        rows: Conversations given.
        cut: Rows that lost their end.
        unsupervised: Rows that have nothing to learn from (no answer, or it was cut off).
            They are left out of the data.
        unstopped: Rows whose last answer has lost its stop token; they stay, unless all that
            is kept must be whole.
    """

    rows: int
    cut: tuple[int, ...]
    unsupervised: tuple[int, ...]
    unstopped: tuple[int, ...]

    def __str__(self) -> str:
        found = {
            "cut": self.cut,
            "without supervision, left out": self.unsupervised,
            "without the stop token at the end": self.unstopped,
        }
        parts = [f"{len(rows):,} {what}{_first(rows)}" for what, rows in found.items()]
        return f"{self.rows:,} rows: " + "; ".join(parts) + "."


def conversations(
    examples: Sequence[Conversation],
    tokenizer: Any,
    max_length: int = 1024,
    *,
    learn: str = "all",
    whole: bool = False,
) -> tuple[Dataset, Coverage]:
    """Encode conversations for supervised fine-tuning.

    Args:
        examples: Each a list of ``{"role": ..., "content": ...}`` with the roles ``system``
            (only first), ``user`` and ``assistant``. An answer with ``"weight": 0`` is read
            and not learnt.
        tokenizer: A transformers tokenizer with a chat template. Its ``eos_token`` must be
            what the template writes after every answer, as in ChatML.
        max_length: Tokens per conversation, at most; the rest is cut off at the end.
        learn: ``all`` answers, or the ``last`` one only: the others are context then.
        whole: Leave out rows whose last answer has lost its stop token: whoever learns from
            many answers without an end learns not to end.

    Returns:
        A data set with ``input_ids``, ``labels``, ``row`` and ``cut``, and a `Coverage`.

    Raises:
        EncodeError: A malformed conversation (the message names row and turn), a template
            that cannot be cut into turns, or no row with anything to learn.
    """
    from datasets import Dataset

    _check_tokenizer(tokenizer, max_length)
    if not examples:
        raise EncodeError("There are no conversations.", "Give at least one.")
    if learn not in TURNS_LEARNT:
        raise EncodeError(f"learn={learn!r}.", f"There are {' and '.join(TURNS_LEARNT)}.")
    special = marks(tokenizer)
    parts: list[list[tuple[str, bool]]] = []
    for row, messages in enumerate(examples):
        check_messages(messages, row, special)
        parts.append(segments(messages, tokenizer, row, learn))
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "row": [], "cut": []}
    for row, (ids, labels) in enumerate(labelled(parts, tokenizer)):
        columns["input_ids"].append(ids[:max_length])
        columns["labels"].append(labels[:max_length])
        columns["row"].append(row)
        columns["cut"].append(len(ids) > max_length)
    coverage = cover(columns, tokenizer.eos_token_id)
    left_out = {*coverage.unsupervised, *(coverage.unstopped if whole else ())}
    if len(left_out) == len(examples):
        raise EncodeError(
            f"nothing is left to learn from: {coverage}",
            f"Give a max_length above {max_length}, or conversations with answers.",
        )
    keep = [row for row in range(len(examples)) if row not in left_out]
    return Dataset.from_dict({k: [v[i] for i in keep] for k, v in columns.items()}), coverage


def cover(columns: Mapping[str, Sequence[Any]], stop_id: int) -> Coverage:
    """Count what is missing from encoded rows: as they are, after cutting."""
    supervised = [[t for t in row if t != IGNORE] for row in columns["labels"]]
    rows = columns["row"]
    return Coverage(
        rows=len(rows),
        cut=tuple(row for row, cut in zip(rows, columns["cut"], strict=True) if cut),
        unsupervised=tuple(r for r, s in zip(rows, supervised, strict=True) if not s),
        unstopped=tuple(
            r for r, s in zip(rows, supervised, strict=True) if s and s[-1] != stop_id
        ),
    )


def segments(
    messages: Conversation, tokenizer: Any, row: int = 0, learn: str = "all"
) -> list[tuple[str, bool]]:
    """The conversation's text, in parts: ``(text, whether it is supervised)``."""
    whole = rendered(messages, tokenizer)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    parts: list[tuple[str, bool]] = []
    done = 0
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = rendered(messages[:turn], tokenizer, add_generation_prompt=True)
        after = rendered(messages[: turn + 1], tokenizer)
        if not (whole.startswith(before) and whole.startswith(after) and after > before):
            raise EncodeError(
                f"row {row}, turn {turn}: the chat template writes earlier turns in another "
                "way once later ones are there.",
                "Give a template that only appends, as ChatML does.",
            )
        end = len(before) + answer_end(after[len(before) :], tokenizer.eos_token, row, turn)
        learnt = learn == "all" or turn == answers[-1]
        learnt = learnt and weight_of(message) != 0
        parts += [(whole[done : len(before)], False), (whole[len(before) : end], learnt)]
        done = end
    return [*parts, (whole[done:], False)]


def answer_end(answer: str, stop: str, row: int = 0, turn: int = 0) -> int:
    """Where supervision ends in an answer as the template writes it: after the stop token."""
    at = answer.rfind(stop)
    if at < 0:
        raise EncodeError(
            f"row {row}, turn {turn}: the chat template writes no {stop!r} after the answer.",
            "Set tokenizer.eos_token to the token that ends a turn in this template.",
        )
    return at + len(stop)


def labelled(
    parts: Sequence[Sequence[tuple[str, bool]]], tokenizer: Any
) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of each row, from its parts: made together, in one pass."""
    texts = [text for row in parts for text, _ in row]
    # The template has written all special tokens already: none may be added.
    pieces = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
    rows = []
    for row in parts:
        ids: list[int] = []
        labels: list[int] = []
        for _, supervised in row:
            piece = list(next(pieces))
            ids += piece
            labels += piece if supervised else [IGNORE] * len(piece)
        rows.append((ids, labels))
    _check_joints("".join(text for text, _ in parts[0]), rows[0][0], tokenizer)
    return rows


def _check_joints(text: str, ids: list[int], tokenizer: Any) -> None:
    """Tokenizers that put a space before every text cannot be used part by part."""
    back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if back != text:
        raise EncodeError(
            f"the tokenizer gives back {back[:60]!r} for {text[:60]!r}.",
            "Use a model whose tokenizer works on bytes, as those of GPT-2 and SmolLM2 do.",
        )


def _check_tokenizer(tokenizer: Any, max_length: int) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise EncodeError(
            "the tokenizer has no chat template.", "Use a chat model's tokenizer."
        )
    if tokenizer.eos_token is None:
        raise EncodeError("the tokenizer has no eos_token.", "Set the one that ends a turn.")
    if not 2 <= max_length <= tokenizer.model_max_length:
        raise EncodeError(
            f"max_length={max_length}.", f"Give from 2 to {tokenizer.model_max_length} tokens."
        )


def check_messages(messages: Any, row: int, special: Sequence[str]) -> None:
    """Refuse what is no conversation, or holds a mark that begins or ends a turn.

    Args:
        row: For the message.
        special: What must not stand in a turn's content (`chat_templates.marks`).

    Raises:
        EncodeError: Naming row and turn.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise EncodeError(
            f"row {row} is no list of turns.", 'Give {"role": ..., "content": ...}.'
        )
    turns = 0
    for turn, message in enumerate(messages):
        where = f"row {row}, turn {turn}"
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise EncodeError(
                f"{where}: the role is {role!r}.", f"There are {', '.join(ROLES)}."
            )
        content = message.get("content")
        if not isinstance(content, str):
            raise EncodeError(f"{where}: the content is no text.", "Give a string.")
        if found := next((token for token in special if token in content), None):
            raise EncodeError(
                f"{where}: the content has {_named(found)}.",
                "Take it out: the model would read it as the end or the start of a turn.",
            )
        if weight_of(message) not in (0, 1):
            raise EncodeError(f"{where}: the weight is {message['weight']!r}.", "Give 0 or 1.")
        if role == "system" and turn or role == "assistant" and not turns:
            raise EncodeError(
                f"{where}: {role} does not belong there.",
                "A system turn comes first or not at all; an answer follows a question.",
            )
        turns += role != "system"


def weight_of(message: Mapping[str, Any]) -> Any:
    """A turn's weight; 1 where there is none, which Arrow fills up with None."""
    weight = message.get("weight")
    return 1 if weight is None else weight


def padding_id(tokenizer: Any) -> int:
    """The token that fills up rows; the stop token where the tokenizer has none.

    It stands to the right of all that is read, or is hidden by a mask.
    """
    found = tokenizer.pad_token_id
    return tokenizer.eos_token_id if found is None else found


def _named(mark: str) -> str:
    kind = (
        "special token" if re.fullmatch(r"\S+", mark) and mark[0] in "<[" else "mark of a turn"
    )
    return f"the {kind} {mark!r}"


def _first(rows: Sequence[int], most: int = 3) -> str:
    if not rows:
        return ""
    more = ", ..." if len(rows) > most else ""
    return f" (rows {', '.join(map(str, rows[:most]))}{more})"
