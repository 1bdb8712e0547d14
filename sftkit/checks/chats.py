"""Look at conversations before training on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sftkit import corpora, encode_chat
from sftkit.checks.report import _short
from sftkit.corpora import duplicates
from sftkit.errors import EncodeError
from sftkit.teach import show


@dataclass
class ChatSplit:
    """What one split holds.

    Attributes:
        lengths: Tokens of each conversation, uncut.
        turns: Turns to number of conversations.
        supervised: Tokens that are learnt, of all that fit.
        tokens: Tokens that fit.
        coverage: What the limit has done.
        copies: Conversations that repeat an earlier one of the split word for word.
        seen: Conversations whose first question an earlier split asks alike.
        answers: How often the most frequent answer is given, and that answer.
    """

    lengths: list[int]
    turns: Counter[int]
    supervised: int
    tokens: int
    coverage: encode_chat.Coverage
    copies: int
    seen: int
    answers: tuple[int, str]

    @property
    def share(self) -> float:
        """Of the tokens that fit, the share that is learnt."""
        return self.supervised / max(1, self.tokens)


@dataclass
class ChatReport:
    """What ``data_report`` found in conversations. ``show`` draws it, ``print`` tells it."""

    splits: dict[str, ChatSplit]
    limit: int
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def tables(self) -> list[show.Table]:
        """The report as tables."""
        import numpy as np

        rows, sizes = [], []
        for name, part in self.splits.items():
            c, n = part.coverage, part.coverage.rows
            missing = [len(c.cut), len(c.unsupervised), len(c.unstopped)]
            rows.append([name, n, part.copies, part.seen, *missing, f"{part.share:.0%}"])
            quantiles = np.quantile(part.lengths, [0.05, 0.5, 0.95, 1]).round().astype(int)
            often = ", ".join(
                f"{count:,} of {turns}" for turns, count in part.turns.most_common(3)
            )
            sizes.append([name, *quantiles.tolist(), often])
        header = ["split", "rows", "copies", "asked before", "cut", "nothing learnt",
                  "without stop", "tokens learnt"]  # fmt: skip
        caption = f"Conversations, with a limit of {self.limit} tokens."
        return [
            show.Table(rows, header, caption),
            show.Table(sizes, ["split", "5 %", "median", "95 %", "longest", "turns"],
                       "Length in tokens; the most frequent numbers of turns."),
        ]  # fmt: skip

    def show(self) -> None:
        """Show tables, the figure, warnings and notes in a notebook."""
        from IPython.display import display

        for table in self.tables():
            display(table)
        show.figure(*self.picture())
        told = [["warning", line] for line in self.warnings] or [["", "No warnings."]]
        show.table(told + [["note", line] for line in self.notes], ["", "what was found"])

    def picture(self) -> tuple[Any, str]:
        """A histogram of lengths with the limit, and its alternative text."""
        import numpy as np

        flat = np.concatenate([part.lengths for part in self.splits.values()])
        over = float(np.mean(flat > self.limit))
        fig, ax = show.new_figure(2.6)
        edge = max(1.1 * self.limit, float(np.quantile(flat, 0.99)))
        ax.hist(np.minimum(flat, edge), bins=50)
        ax.axvline(self.limit, color=show.COLOURS[2], linestyle="--", label="limit")
        ax.legend()
        finding = f"{over:.1%} of the conversations exceed {self.limit} tokens"
        piled = ", longer ones in the last bar" if flat.max() > edge else ""
        ax.set(xlabel=f"length (tokens{piled})", ylabel="conversations", title=finding)
        return fig, f"Histogram with median {np.median(flat):.0f}; {finding}, a dashed line."

    def __repr__(self) -> str:
        blocks = [repr(table) for table in self.tables()]
        blocks.append("\n".join(f"Warning: {line}" for line in self.warnings) or "No warnings.")
        blocks.append("\n".join(f"Note: {line}" for line in self.notes))
        return "\n\n".join(block for block in blocks if block)


def chat_report(
    dataset: Any, tokenizer: Any, max_length: int = 1024, *, learn: str = "all"
) -> ChatReport:
    """Look at conversations before training on them.

    Args:
        dataset: A ``DatasetDict`` with a column ``messages``, as `corpora.dialogues` gives.
        tokenizer: With the chat template of the model that will read them.
        max_length: The limit, in tokens, at which longer ones will be cut.
        learn: ``all`` answers or the ``last`` one, as in `encode_chat.conversations`.

    Raises:
        EncodeError: A conversation that cannot be encoded, with its split, row and turn.
    """
    report = ChatReport({}, max_length, corpora.notes(dataset))
    asked: set[str] = set()
    for name, part in dataset.items():
        talks = list(part["messages"])
        try:
            cut, coverage = encode_chat.conversations(talks, tokenizer, max_length, learn=learn)
            lengths = _lengths(talks, tokenizer)
        except EncodeError as problem:
            raise EncodeError(f"{name}: {problem.what}", problem.fix) from problem
        questions = [_question(talk) for talk in talks]
        answers = Counter(
            t["content"] for talk in talks for t in talk if t["role"] == "assistant"
        )
        frequent, count = answers.most_common(1)[0]
        report.splits[name] = ChatSplit(
            lengths=lengths,
            turns=Counter(len(talk) for talk in talks),
            supervised=sum(t != encode_chat.IGNORE for row in cut["labels"] for t in row),
            tokens=sum(map(len, cut["input_ids"])),
            coverage=coverage,
            copies=len(talks) - len({repr(talk) for talk in talks}),
            seen=sum(question in asked for question in questions),
            answers=(count, frequent),
        )
        asked |= set(questions)
    report.warnings = list(_warnings(report))
    return report


def _lengths(talks: list[Any], tokenizer: Any) -> list[int]:
    """Tokens of each conversation, also of those that the model cannot read in full."""
    parts = [encode_chat.segments(talk, tokenizer, row) for row, talk in enumerate(talks)]
    return [len(ids) for ids, _ in encode_chat.labelled(parts, tokenizer)]


def _question(talk: Any) -> str:
    first = next((turn["content"] for turn in talk if turn["role"] == "user"), "")
    return duplicates.normal_form(first)


def _warnings(report: ChatReport) -> Iterator[str]:
    for name, part in report.splits.items():
        c, n = part.coverage, part.coverage.rows
        if c.unstopped:
            yield (
                f"{name}: {len(c.unstopped):,} of {n:,} conversations lose their stop token at "
                f"{report.limit} tokens; a model that sees many of these learns not to stop."
            )
        if c.unsupervised:
            yield f"{name}: {len(c.unsupervised):,} conversations have nothing to learn from."
        if part.seen:
            yield (
                f"{name}: {part.seen:,} of {n:,} first questions are asked in an earlier split "
                "too: what is measured is too good."
            )
        if part.copies > 0.05 * n:
            yield f"{name}: {part.copies:,} of {n:,} conversations are copies of others."
        if part.answers[0] > max(5, 0.1 * n):
            yield (
                f"{name}: {part.answers[0]:,} answers are {_short(part.answers[1], 60)!r}: the "
                "model will learn to say just that."
            )
        if part.share < 0.1:
            yield (
                f"{name}: {part.share:.0%} of the tokens are learnt; most of the time goes "
                "into prompts."
            )
