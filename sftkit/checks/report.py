"""The report on a data set: what it holds, as tables, a figure and plain text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sftkit.teach import show

_SHOWN_CLASSES = 15  # bars in the figure, rows in the table


@dataclass
class Doubt:
    """A training row whose label a linear model, trained on other rows, does not believe."""

    row: int
    text: str
    label: str
    guess: str
    margin: float  # probability of the guess minus probability of the label


@dataclass
class DataReport:
    """What ``data_report`` found. ``show`` draws it, ``print`` gives it as plain text.

    Attributes:
        rows: Rows per split.
        classes: Class names.
        counts: Rows per split and class, ``{split: [C]}``.
        lengths: Tokens of each counted row, ``{split: [N]}``, special tokens included.
        limit: The longest input that the model will read, in tokens.
        cut: Share of the counted rows that are longer than the limit.
        unknown: Share of tokens that the tokenizer does not know.
        empty: Rows without text, per split.
        copies: Rows that repeat an earlier row of their split word for word, per split.
        across: Rows of one split that are near-duplicates of rows in another.
        conflicts: Texts that occur with different labels: ``(text, labels)``.
        doubts: Training rows whose label looks wrong, most doubtful first.
        disagreement: Share of training labels that the linear model does not agree with; None
            if it was not asked.
        notes: What the loader did, and what was counted on a sample.
        warnings: What to think about before training, in plain words.
    """

    rows: dict[str, int]
    classes: list[str]
    counts: dict[str, list[int]]
    limit: int
    lengths: dict[str, list[int]] = field(default_factory=dict, repr=False)
    cut: float = 0.0
    unknown: float = 0.0
    empty: dict[str, int] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)
    across: dict[str, int] = field(default_factory=dict)
    conflicts: list[tuple[str, list[str]]] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    disagreement: float | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def tables(self) -> list[show.Table]:
        """The report as tables: splits, classes, lengths, doubtful labels."""
        return list(_tables(self))

    def show(self) -> None:
        """Show tables, the figure, warnings and notes in a notebook."""
        from IPython.display import display

        for table in self.tables():
            display(table)
        fig, alt = _picture(self)
        show.figure(fig, alt)
        told = [["warning", line] for line in self.warnings] or [["", "No warnings."]]
        show.table(told + [["note", line] for line in self.notes], ["", "what was found"])

    def __repr__(self) -> str:
        blocks = [repr(table) for table in self.tables()]
        blocks.append("\n".join(f"Warning: {line}" for line in self.warnings) or "No warnings.")
        if self.notes:
            blocks.append("\n".join(f"Note: {line}" for line in self.notes))
        return "\n\n".join(blocks)


def _tables(report: DataReport) -> Iterator[show.Table]:
    import numpy as np

    splits = list(report.rows)
    yield show.Table(
        [[s, report.rows[s], report.empty.get(s, 0), report.copies.get(s, 0)] for s in splits],
        ["split", "rows", "empty", "copies"],
        "Rows; copies repeat an earlier row of the same split word for word.",
    )
    order = _largest_first(report)
    rows = [[report.classes[at], *(report.counts[s][at] for s in splits)] for at in order]
    more = len(order) - _SHOWN_CLASSES
    caption = f"Classes{f' (and {more} smaller ones)' if more > 0 else ''}."
    yield show.Table(rows[:_SHOWN_CLASSES], ["class", *splits], caption)
    quantiles: list[list[Any]] = [
        [s, *np.quantile(report.lengths[s], [0.05, 0.5, 0.95, 1]).round().astype(int).tolist()]
        + [f"{np.mean(np.array(report.lengths[s]) > report.limit):.1%}"]
        for s in splits
        if report.lengths.get(s)
    ]
    header = ["split", "5 %", "median", "95 %", "longest", f"over {report.limit}"]
    yield show.Table(quantiles, header, "Length in tokens, and the share that a limit cuts.")
    if report.across:
        pairs = [[*pair.split("/"), count] for pair, count in report.across.items()]
        yield show.Table(pairs, ["rows of", "near-duplicates in", "count"], "Across splits.")
    if report.conflicts:
        lines = [[_short(text), ", ".join(names)] for text, names in report.conflicts[:5]]
        caption = f"Texts with several labels ({len(report.conflicts):,} in all)."
        yield show.Table(lines, ["text", "labels"], caption)
    if report.doubts:
        doubts = [[d.row, _short(d.text), d.label, d.guess, d.margin] for d in report.doubts]
        yield show.Table(
            doubts,
            ["row", "text", "label", "guess", "margin"],
            f"Labels to look at: a linear model disagrees with {report.disagreement:.1%} of "
            "the training labels, most of all with these.",
            digits=2,
        )


def _picture(report: DataReport) -> tuple[Any, str]:
    import numpy as np

    order = _largest_first(report)[:_SHOWN_CLASSES]
    height = max(3.0, 1.4 + 0.22 * len(order))
    fig, (left, right) = show.new_figure(height, columns=2)
    names = [_short(report.classes[at], 22) for at in order]
    start = np.zeros(len(order))
    for split, counts in report.counts.items():
        size = np.array([counts[at] for at in order])
        left.barh(names, size, left=start, label=split)
        start += size
    left.invert_yaxis()
    left.set_xlabel("rows")
    left.legend()
    top, total = order[0], sum(report.rows.values())
    share = sum(counts[top] for counts in report.counts.values()) / total
    largest = f"{_short(report.classes[top], 22)}: {share:.0%} of all rows"
    left.set_title(largest)
    flat = np.array([length for lengths in report.lengths.values() for length in lengths])
    edge = max(report.limit * 1.1, np.quantile(flat, 0.99))
    right.hist(np.minimum(flat, edge), bins=40, color=show.COLOURS[0])
    right.axvline(report.limit, color=show.COLOURS[2], linestyle="--")
    right.text(
        report.limit, right.get_ylim()[1], " limit", color=show.COLOURS[2], va="top", ha="left"
    )
    finding = f"{report.cut:.1%} exceed {report.limit} tokens"
    right.set_title(finding)
    right.set_xlabel("length (tokens)")
    right.set_ylabel("rows")
    alt = (
        f"Left: bars with the rows of each class, divided by split; the largest class is "
        f"{largest}. Right: histogram of lengths in tokens with median {np.median(flat):.0f}; "
        f"a dashed line marks the limit, and {finding}."
    )
    return fig, alt


def _largest_first(report: DataReport) -> list[int]:
    total = [sum(counts) for counts in zip(*report.counts.values(), strict=True)]
    return sorted(range(len(total)), key=lambda at: (-total[at], at))


def some(names: list[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    listed = ", ".join(map(repr, names[:most]))
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


def _short(text: str, most: int = 110) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
