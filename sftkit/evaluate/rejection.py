"""Rejection sampling: draw several answers, keep those that a judge accepts.

What is kept can be learnt: the model is trained on its own right answers, and nobody has
written one (Zelikman et al. 2022, STaR; Yuan et al. 2023, rejection sampling fine-tuning).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sftkit.arguments import number, whole
from sftkit.chat_templates import marks
from sftkit.evaluate.answers import ask
from sftkit.models.sampling import Sampling

if TYPE_CHECKING:
    from sftkit.encode_chat import Conversation

Judge = Callable[[int, str], bool]  # the question's number, the answer: is it right?


@dataclass(frozen=True)
class Kept:
    """What rejection sampling has kept.

    Attributes:
        talks: Questions with an accepted answer, ready to be trained on.
        rows: Of each of them, the question's number.
        questions: How many were asked.
        tried: Answers drawn.
        stopped: Of these, how many ended by themselves.
        right: Of these, how many the judge accepted, copies among them.
    """

    talks: list[Conversation]
    rows: list[int]
    questions: int
    tried: int
    stopped: int
    right: int

    def __str__(self) -> str:
        return (
            f"{self.tried:,} answers drawn for {self.questions:,} questions; {self.stopped:,} "
            f"stop, {self.right:,} are right, {len(self.talks):,} different ones are kept, for "
            f"{len(set(self.rows)):,} questions."
        )


def sample_right(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Conversation],
    judge: Judge,
    tries: int = 4,
    *,
    temperature: float = 1.0,
    most: int = 64,
    seed: int = 0,
    batch_size: int = 16,
) -> Kept:
    """Draw ``tries`` answers to each question; keep the different right ones.

    An answer that does not stop within ``most`` tokens, or that holds a special token or a
    mark of a turn, is never kept. The same seed, model and questions give the same answers.

    Args:
        questions: Conversations that end in a question.
        judge: Called with a question's number and an answer without white space around it.
        temperature: Of the drawing, above 0.
        most: Tokens per answer, at most.
        batch_size: Answers that are written at a time.
    """
    import torch

    whole("tries", tries)
    number("temperature", temperature, above=0)
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(whole("seed", seed, least=0))
    asked = [question for question in questions for _ in range(tries)]
    how = {"generator": generator, "batch_size": batch_size}
    found = ask(model, tokenizer, asked, most, Sampling(temperature), **how)
    special = marks(tokenizer)
    kept: dict[tuple[int, str], Conversation] = {}
    stopped = right = 0
    for at, (text, answer) in enumerate(found):
        row, text = at // tries, text.strip()
        stopped += answer.stopped
        if not answer.stopped or any(mark in text for mark in special):
            continue
        if judge(row, text):
            right += 1
            kept[row, text] = [*questions[row], {"role": "assistant", "content": text}]
    rows = [row for row, _ in kept]
    return Kept(list(kept.values()), rows, len(questions), len(found), stopped, right)
