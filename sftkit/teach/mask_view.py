"""What a model learns from, as boxes and as a picture: learnt, read, cut, padded, packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sftkit.teach import show
from sftkit.teach.tokens import (
    _COLOURS,
    _SPECIAL,
    MOST,
    NOT_SUPERVISED,
    _box,
    _counted,
)

PADDING, CONTEXT, SUPERVISED, CUT = 0, 1, 2, 3
NAMES = ("padding", "context", "supervised", "cut off")
_SHADES = ("#ffffff", "#d9d9d9", "#1f5fa0", "#f0a58f")
_STYLES = {
    PADDING: ("#ffffff", "color:#999;border:1px dashed #bbb;"),
    CONTEXT: (_SPECIAL, ""),
    SUPERVISED: (_COLOURS[0], "font-weight:600;border-bottom:3px solid #1f5fa0;"),
    CUT: (_COLOURS[3], "text-decoration:line-through;"),
}


def kinds(labels: Sequence[int], mask: Sequence[int], kept: int | None = None) -> list[int]:
    """What each place is.

    Args:
        labels: -100 where nothing is supervised.
        mask: 0 for padding.
        kept: Places from here on are cut off; None: none are.
    """
    found = []
    for at, (label, real) in enumerate(zip(labels, mask, strict=True)):
        if not real:
            found.append(PADDING)
        elif kept is not None and at >= kept:
            found.append(CUT)
        else:
            found.append(CONTEXT if label == NOT_SUPERVISED else SUPERVISED)
    return found


def chat_html(
    ids: Sequence[int],
    labels: Sequence[int],
    decode: Callable[[list[int]], str],
    *,
    mask: Sequence[int] | None = None,
    kept: int | None = None,
    document: Sequence[int] | None = None,
    log_probs: Sequence[float] | None = None,
    most: int = MOST,
) -> str:
    """HTML with a box per token: blue is learnt, grey is read, struck out is cut, dashed is
    padding; a bar with a number begins each packed document. All text is escaped.

    Hovering over a box shows the token's id and, where given, how probable the model finds it.

    Args:
        ids, labels: ``(T,)``; labels not shifted.
        decode: Ids to text, as a tokenizer's ``decode``.
        mask: ``(T,)``, 0 for padding; all ones unless given.
        kept: Tokens from here on are cut off.
        document: ``(T,)``, as in packed batches.
        log_probs: ``(T,)``: of each token, given those before it.
        most: The most tokens drawn. What is left out is said.

    Raises:
        ValueError: The sequences have different lengths.
    """
    what = kinds(labels, mask if mask is not None else [1] * len(ids), kept)
    for other in (labels, document, log_probs):
        if other is not None and len(other) != len(ids):
            raise ValueError(f"{len(ids)} ids, but {len(other)} values beside them")
    if not len(ids):
        return "<p>There are no tokens.</p>"
    parts, before = [], None
    for at, (token, kind) in enumerate(zip(ids[:most], what, strict=False)):
        if document is not None and document[at] >= 0 and document[at] != before:
            before = document[at]
            bar = "border-left:4px solid #832db6;padding-left:3px;margin-left:4px;"
            parts.append(f'<span style="{bar}"><sub>{int(before)}</sub></span>')
        colour, more = _STYLES[kind]
        hover = [f"id {int(token)}", NAMES[kind]]
        if log_probs is not None and kind != PADDING:
            hover.append(f"log p = {log_probs[at]:.2f}")
        text = decode([int(token)]) if kind != PADDING else "·"
        parts.append(_box([", ".join(hover)], text, colour, more))
    facts = [_counted(len(ids), "token")]
    facts += [f"{what.count(k):,} {NAMES[k]}" for k in (2, 1, 3, 0) if what.count(k)]
    facts += [f"the first {most:,} are shown"] if len(ids) > most else []
    boxes = "".join(parts)
    return f'<div style="line-height:2.1">{boxes}</div><p>{", ".join(facts)}</p>'


def mask_figure(
    rows: Sequence[Sequence[int]],
    title: str,
    *,
    documents: Sequence[Sequence[int]] | None = None,
    names: Sequence[str] = (),
) -> tuple[Any, str]:
    """A picture of rows of `kinds`, one square per token.

    Args:
        rows: Per row, what each place is; shorter rows end in padding.
        documents: Per row, the number of the packed document of each place; a line is drawn
            where a new one begins.
        names: Of the rows, beside them.

    Returns:
        ``(figure, alternative text)``.
    """
    import numpy as np
    from matplotlib.colors import ListedColormap
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    longest = max(map(len, rows))
    grid = np.zeros((len(rows), longest), dtype=int)
    for i, row in enumerate(rows):
        grid[i, : len(row)] = row
    fig, ax = show.new_figure(height=1.3 + 0.28 * len(rows))
    ax.imshow(grid, cmap=ListedColormap(_SHADES), vmin=0, vmax=3, aspect="auto",
              interpolation="nearest")  # fmt: skip
    for i, row in enumerate(documents or ()):
        steps = np.flatnonzero(np.diff(np.asarray(row)) != 0) + 1
        ax.vlines(steps - 0.5, i - 0.5, i + 0.5, color="#832db6", lw=2)
    for edge in range(len(rows) - 1):
        ax.axhline(edge + 0.5, color="#777", lw=0.6)
    ax.grid(False)
    ax.set(xlabel="token", title=title, yticks=range(len(rows)))
    ax.set_yticklabels(names or [str(i) for i in range(len(rows))])
    if not names:
        ax.set_ylabel("row")
    shown = [k for k in (SUPERVISED, CONTEXT, CUT, PADDING) if (grid == k).any()]
    patches: list[Any] = [
        Patch(facecolor=_SHADES[k], edgecolor="#777", label=NAMES[k]) for k in shown
    ]
    if documents is not None:
        patches.append(Line2D([], [], color="#832db6", lw=2, label="a conversation begins"))
    fig.legend(handles=patches, ncols=len(patches), loc="outside lower center")
    counts = ", ".join(f"{int((grid == k).sum())} {NAMES[k]}" for k in shown)
    return fig, f"{len(rows)} rows of up to {longest} tokens: {counts}."
