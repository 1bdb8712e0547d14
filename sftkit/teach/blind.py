"""Which of two answers is better, without knowing whose it is: a box, and a sign test."""

from __future__ import annotations

import html
import math
import random
from collections.abc import Sequence
from typing import Any


class Blind:
    """Pairs of answers in random order, judged one by one.

    Args:
        questions: What was asked.
        first, second: The answers of two models.
        names: Of the models; told only with the result.
        seed: Of the order of pairs, and of who stands on the left.
    """

    def __init__(
        self,
        questions: Sequence[str],
        first: Sequence[str],
        second: Sequence[str],
        names: tuple[str, str] = ("first", "second"),
        seed: int = 0,
    ) -> None:
        if not len(questions) == len(first) == len(second):
            raise ValueError("give one answer of each model for each question")
        generator = random.Random(seed)
        self.names = names
        self.pairs = [
            (question, (one, other), generator.random() < 0.5)
            for question, one, other in zip(questions, first, second, strict=True)
            if one.strip() != other.strip()  # equal answers say nothing
        ]
        generator.shuffle(self.pairs)
        self.wins = [0, 0]
        self.ties = self.at = 0

    @property
    def shown(self) -> tuple[str, str, str] | None:
        """Question, left answer and right answer; None when all are judged."""
        if self.at >= len(self.pairs):
            return None
        question, answers, swapped = self.pairs[self.at]
        return (question, *(answers[::-1] if swapped else answers))  # type: ignore[return-value]

    def judge(self, verdict: str) -> None:
        """Take ``left``, ``right`` or ``equal`` for the pair that is shown, and go on."""
        if self.shown is None:
            return
        if verdict not in ("left", "right", "equal"):
            raise ValueError(f"verdict {verdict!r}: say left, right or equal")
        if verdict == "equal":
            self.ties += 1
        else:
            swapped = self.pairs[self.at][2]
            self.wins[(verdict == "right") != swapped] += 1
        self.at += 1

    def result(self) -> str:
        """Wins of each, and how surprising they are."""
        a, b = self.wins
        counted = f"{self.names[0]} {a}, {self.names[1]} {b}, equal {self.ties}"
        if not a + b:
            return f"{counted}."
        p = sign_test(a, b)
        return f"{counted}; sign test p {f'= {p:.3f}' if p >= 5e-4 else '< 0.001'}"

    def box(self) -> Any:
        """An ipywidgets box with two answers and three buttons."""
        import ipywidgets

        page = ipywidgets.HTML(value=self.page())
        buttons = []
        for verdict in ("left", "equal", "right"):
            button = ipywidgets.Button(description=f"{verdict} is better")
            if verdict == "equal":
                button.description = "no difference"

            def press(_: Any, verdict: str = verdict) -> None:
                self.judge(verdict)
                page.value = self.page()

            button.on_click(press)
            buttons.append(button)
        return ipywidgets.VBox([page, ipywidgets.HBox(buttons)])

    def page(self) -> str:
        """The pair to judge, or the result; all text is escaped."""
        if self.shown is None:
            return f"<p><b>{html.escape(self.result())}</b></p>"
        question, left, right = (
            html.escape(text).replace("\n", "<br>") or "(nothing)" for text in self.shown
        )
        cell = '<td style="vertical-align:top;text-align:left;width:50%;border:1px solid #aaa">'
        return (
            f"<p>{self.at + 1} of {len(self.pairs)}</p><p>{question}</p>"
            f'<table style="width:100%"><tr>{cell}{left}</td>{cell}{right}</td></tr></table>'
        )


def sign_test(a: int, b: int) -> float:
    """How often a fair coin splits as unevenly as ``a`` to ``b``, or more (two-sided)."""
    n = a + b
    if not n:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(min(a, b) + 1)) / 2**n
    return min(1.0, 2 * tail)
