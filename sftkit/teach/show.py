"""Figures and tables for notebooks: one style, alt text always, text escaped always."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH = 7.2  # inches: the width of a notebook's text at 100 dots per inch
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59")
MARKERS = ("o", "s", "^", "D", "v", "P")


def new_figure(height: float = 3.2, columns: int = 1, rows: int = 1, **options: Any):
    """A figure in the course's style.

    Args:
        height: Inches.
        columns, rows: Number of panels.
        options: Passed to ``matplotlib.pyplot.subplots``.

    Returns:
        ``(figure, axes)`` as from ``subplots``.
    """
    import matplotlib.pyplot as plt
    from cycler import cycler

    style: Any = {  # (matplotlib's stubs list every key)
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 10,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "figure.dpi": 100,
        "figure.constrained_layout.use": True,
        "font.family": ["DejaVu Sans", *_chinese_font()],
        "svg.hashsalt": "sftkit",  # the same figure gives the same bytes
    }
    plt.rcParams.update(style)
    return plt.subplots(rows, columns, figsize=(WIDTH, height), **options)


def figure(fig: Any, alt: str) -> None:
    """Show a figure with alt text, then close it.

    Args:
        fig: A matplotlib figure.
        alt: What a reader would see, in a sentence or two. Must not be empty.
    """
    import matplotlib.pyplot as plt
    from IPython.display import display

    if not alt.strip():
        raise ValueError("a figure needs alt text: say what a reader would see")
    # Without the software version in the PNG, the same figure gives the same bytes.
    fig.canvas.draw()
    display(fig, metadata={"image/png": {"alt": alt}})
    plt.close(fig)


def table(
    rows: Iterable[Sequence[Any]], header: Sequence[str], caption: str = "", digits: int = 3
) -> None:
    """Show a table: HTML in a notebook, aligned text elsewhere. Every cell is escaped.

    Args:
        rows: The cells, row by row. Floats are rounded to ``digits``.
        header: The names of the columns.
        caption: A sentence above the table.
    """
    from IPython.display import display

    display(Table(rows, header, caption, digits))


class Table:
    """A table that shows itself as escaped HTML or as aligned text."""

    def __init__(
        self,
        rows: Iterable[Sequence[Any]],
        header: Sequence[str],
        caption: str = "",
        digits: int = 3,
    ) -> None:
        self.header = [str(name) for name in header]
        self.caption = caption
        self.rows = [list(row) for row in rows]
        self.cells = [[_text(cell, digits) for cell in row] for row in self.rows]

    def __repr__(self) -> str:
        lines = [self.header, *self.cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        numeric = [_is_numeric(row[i] for row in self.rows) for i in range(len(self.header))]

        def pad(line: Sequence[str]) -> str:
            parts = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, numeric, strict=True)
            ]
            return "  ".join(parts).rstrip()

        text = [pad(self.header), "  ".join("-" * w for w in widths), *map(pad, self.cells)]
        return "\n".join([self.caption, *text] if self.caption else text)

    def _repr_html_(self) -> str:
        numeric = [_is_numeric(row[i] for row in self.rows) for i in range(len(self.header))]
        align = ["right" if right else "left" for right in numeric]

        def line(cells: Sequence[str], tag: str) -> str:
            inner = "".join(
                f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>'
                for cell, side in zip(cells, align, strict=True)
            )
            return f"<tr>{inner}</tr>"

        # A short caption may be wider than its table; a long one wraps within it.
        wrap = "normal" if len(self.caption) > 90 else "nowrap"
        style = f"caption-side:top;text-align:left;white-space:{wrap}"
        text = html.escape(self.caption)
        caption = f'<caption style="{style}">{text}</caption>' if self.caption else ""
        body = "\n".join(line(row, "td") for row in self.cells)
        return (
            f"<table>{caption}\n<thead>{line(self.header, 'th')}</thead>\n"
            f"<tbody>\n{body}\n</tbody></table>"
        )


def _text(cell: Any, digits: int) -> str:
    if isinstance(cell, float):
        return f"{cell:.{digits}f}"
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    return str(cell)


def _is_numeric(cells: Iterable[Any]) -> bool:
    return all(isinstance(cell, int | float) for cell in cells)


def _chinese_font() -> list[str]:
    """The name of the font for Chinese glyphs if it has been fetched, as a list."""
    from matplotlib import font_manager

    from sftkit.files import cache_folder

    path = cache_folder() / "assets" / "noto-sans-sc" / "NotoSansSC-Regular.otf"
    if not path.is_file():
        return []
    # The font has one weight; matplotlib would say so for every bold title.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    if "Noto Sans SC" not in {entry.name for entry in font_manager.fontManager.ttflist}:
        font_manager.fontManager.addfont(str(path))
    return ["Noto Sans SC"]
