"""The page of a report: one file, everything inside, nothing fetched, all text escaped."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sftkit.course.html import TEMPLATES, picture
from sftkit.course.report import figures, rows
from sftkit.course.sweep.status import label_of, number
from sftkit.course.sweep.store import STATES

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MOST_ROWS = 200  # of a table; the CSV has all
CSS = """
main { max-width: 62rem; } td.number { text-align: right; }
tr.failed td { background: #fdf3f0; } .note { color: #444; }
figure { margin: .6rem 0; } .wide { overflow-x: auto; }
"""


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads somewhere."""

    text: str
    href: str


@dataclass(frozen=True)
class Links:
    """Several of them."""

    links: list[Link]


def page(found: rows.Tables, folder: Path) -> tuple[str, list[str]]:
    """The page as text, for a file in ``folder``; and what is missing in it, in sentences."""
    manifest, notes = found.manifest, []
    counted = {name: int((found.runs["state"] == name).sum()) for name in STATES}
    counted["waiting"] += max(0, manifest["total"] - len(found.runs))
    words = ", ".join(f"{n} {_word(name)}" for name, n in counted.items() if n)
    parts = [
        f"<h1>{escape(manifest['name'])}</h1>",
        f"<p>A sweep of notebook <code>{escape(manifest['notebook'])}</code> over "
        f"{escape(', '.join(manifest['varied']) or 'nothing')}. "
        f"{manifest['total']} runs: {escape(words)}.</p>",
    ]
    open_runs = counted["waiting"] + counted["running"]
    if open_runs:
        notes.append(f"{open_runs} runs are not finished: the same sweep command goes on.")
    if not found.metric:
        notes.append("The plan names no metric, so nothing is compared.")
    elif not len(found.done()):
        notes.append("No run is done yet.")
    else:
        parts += _compared(found, folder)
    parts += [f'<p class="note">{escape(note)}</p>' for note in notes]
    parts += _failures(found, folder) + _all_runs(found, folder)
    parts.append(
        '<h2>Plan</h2><details><summary>As it was written</summary><div class="input"><pre>'
        f"{escape(manifest['plan'])}</pre></div></details>"
    )
    css = (TEMPLATES / "page" / "page.css").read_text(encoding="utf-8") + CSS
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(manifest['name'])}</title>\n<style>\n{css}</style>\n</head>\n"
        "<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )
    return text, notes


def _compared(found: rows.Tables, folder: Path) -> list[str]:
    ranked = rows.configurations(found)
    best = ranked[0]
    interval = ""
    if best.low is not None and best.high is not None:
        interval = f" [{best.low:.4g}, {best.high:.4g}]"
    unclear = _not_clearly_worse(ranked)
    several = (
        f"{unclear} of the others have a mean inside its 95 % interval over seeds."
        if interval
        else "It was run once: without several seeds nothing can be said about noise."
    )
    parts = [
        f"<p><strong>Best mean {escape(found.metric)}: {best.mean:.4g}{interval}</strong> with "
        f"{escape(label_of(best.chosen, found.varied, None))}. {several} The best of many is "
        "flattered by chance: run it again with fresh seeds before you believe its mean.</p>",
        "<h2>Configurations</h2>",
        _ranking(found, ranked, folder),
    ]
    effects = rows.effects(found)
    for title, text, made in (
        ("All together", "", figures.parallel(found, ranked)),
        (
            "What each parameter does",
            "Grey dots are runs; squares are means over everything else, with 95 % intervals "
            "where there are several runs. The share of the variance says how much of the "
            "difference between runs goes with this parameter. In a full grid the shares do "
            "not overlap; where parameters depend on others, or were drawn, they do.",
            figures.effect_panels(found, effects),
        ),
        ("Learning curves", "", figures.curves(found, ranked)),
        (
            "Time and memory against quality",
            "Seconds are those of whole runs, on the machines and under the load that they "
            "had.",
            figures.costs(found, ranked),
        ),
    ):
        if made is not None:
            parts.append(f"<h2>{title}</h2>" + (f"<p>{text}</p>" if text else ""))
            parts.append(_picture(*made))
    return parts


def _not_clearly_worse(ranked: Sequence[rows.Configuration]) -> int:
    best = ranked[0]
    if best.low is None or best.high is None:
        return 0
    return sum(best.low <= c.mean <= best.high for c in ranked[1:])


def _ranking(found: rows.Tables, ranked: Sequence[rows.Configuration], folder: Path) -> str:
    header = ["", *found.varied, "runs", f"{found.metric}, mean", "from", "to", "seconds", "GB"]
    lines = []
    for rank, c in enumerate(ranked[:MOST_ROWS], 1):
        links = [
            Link(name, _href(found.links[run], folder))
            for run, name in zip(c.runs, _copies(found, c), strict=True)
            if run in found.links
        ]
        lines.append([
            rank, *(number(c.chosen[name]) for name in found.varied), len(c.runs),
            f"{c.mean:.4f}", _short(c.low), _short(c.high), f"{c.seconds:.1f}",
            f"{c.memory:.2f}" if c.memory else "", Links(links),
        ])  # fmt: skip
    return _linked(found, [*header, "executed notebooks"], lines)


def _copies(found: rows.Tables, c: rows.Configuration) -> list[str]:
    """What tells the runs of one configuration from each other."""
    runs = found.runs.set_index("run").loc[c.runs]
    both = zip(_whole(runs["seed"]), runs["repetition"], strict=True)
    names = [label_of({}, [], seed, repetition) for seed, repetition in both]
    return ["open" if name == "the run" else name.replace("=", " ") for name in names]


def _whole(column: Any) -> list[int | None]:
    import pandas as pd

    return [None if pd.isna(value) else int(value) for value in column]


def _failures(found: rows.Tables, folder: Path) -> list[str]:
    failed = found.runs[found.runs["state"] == "failed"]
    if not len(failed):
        return []
    lines = [
        [
            _name(found, row),
            row["cell"],
            row["attempts"],
            row["error"],
            _link(found, row, folder),
        ]
        for _, row in failed.head(MOST_ROWS).iterrows()
    ]
    header = ["run", "cell", "tried", "what was wrong", "notebook, as far as it came"]
    return ["<h2>Failed runs</h2>", _linked(found, header, lines, "failed")]


def _all_runs(found: rows.Tables, folder: Path) -> list[str]:
    lines = []
    for _, row in found.runs.head(MOST_ROWS).iterrows():
        value = _short(row[found.metric]) if found.metric else ""
        lines.append([_name(found, row), _word(row["state"]), value, _short(row["seconds"], 1),
                      _link(found, row, folder)])  # fmt: skip
    more = len(found.runs) - len(lines)
    cut = f"<p>The first {len(lines)} of {len(found.runs)}.</p>" if more > 0 else ""
    files = ["runs.csv", "runs.parquet"]
    files += ["curves.csv", "curves.parquet"] if len(found.curves) else []
    tidy = ", ".join(f'<a href="{name}">{name}</a>' for name in files)
    header = ["run", "state", found.metric or "metric", "seconds", "executed notebook"]
    return [
        f"<h2>All runs</h2><p>As tidy tables: {tidy}.</p>{cut}",
        _linked(found, header, lines),
    ]


def _name(found: rows.Tables, row: Any) -> str:
    import pandas as pd

    seed = _whole([row["seed"]])[0]
    chosen = {name: row[name] for name in found.varied if not pd.isna(row[name])}
    return label_of(chosen, found.varied, seed, int(row["repetition"]))


def _link(found: rows.Tables, row: Any, folder: Path) -> Link | str:
    path = found.links.get(row["run"])
    return Link(row["run"], _href(path, folder)) if path else ""


def _href(path: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def _short(value: Any, digits: int = 4) -> str:
    import pandas as pd

    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def _word(state: str) -> str:
    return "given up early" if state == "stopped" else state


def _linked(
    found: rows.Tables, header: Sequence[str], lines: Sequence[Sequence[Any]], kind: str = ""
) -> str:
    """A table whose last column leads to notebooks; without it where the page has no links."""
    if found.links:
        return _table(header, lines, kind)
    return _table(header[:-1], [line[:-1] for line in lines], kind)


def _table(header: Sequence[str], lines: Sequence[Sequence[Any]], kind: str = "") -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "\n".join(
        f'<tr class="{kind}">' + "".join(map(_cell, line)) + "</tr>" for line in lines
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    import pandas as pd

    if isinstance(value, Link):
        value = Links([value])
    if isinstance(value, Links):
        made = (f'<a href="{escape(a.href)}">{escape(a.text)}</a>' for a in value.links)
        return f"<td>{' '.join(made)}</td>"
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "<td></td>"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    numeric = text.replace(".", "", 1).replace("-", "", 1).isdigit()
    return f'<td class="number">{text}</td>' if numeric else f"<td>{escape(text)}</td>"


def _picture(fig: Any, alt: str) -> str:
    import matplotlib.pyplot as plt

    stream = BytesIO()
    fig.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    plt.close(fig)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"<figure>{picture('image/png', data, {'alt': alt})}</figure>"
