"""The failure gallery: an index, a card per page, a checklist, and code run as printed.

Index, cards and checklist are made from one file, ``gallery.toml``, so they cannot disagree.
"""

from __future__ import annotations

import html
import math
import re
import tomllib
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from sftkit.teach import show

COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal
ROUNDING = 1e-9  # what is smaller differs from processor to processor
SOURCE = Path(__file__).with_name("gallery.toml")


@dataclass(frozen=True)
class Page:
    """One way in which fine-tuning goes wrong without a word."""

    number: int
    group: str
    name: str
    symptom: str
    tool: str
    mend: str
    seen: str = ""  # project and thread, where one was read


def pages() -> list[Page]:
    """All pages, in the order in which they are read."""
    content = tomllib.loads(SOURCE.read_text(encoding="utf-8"))
    return [Page(**entry) for entry in content["page"]]


class Gallery:
    """Shows pages, and keeps what was measured on each for the checklist."""

    def __init__(self) -> None:
        self.pages = {page.number: page for page in pages()}
        self.measured: dict[int, tuple[str, float, float]] = {}

    def index(self) -> None:
        """Show the table from symptom to page, with links."""
        rows = "".join(
            f'<tr><td style="text-align:left">{html.escape(p.symptom)}</td>'
            f'<td style="text-align:left"><a href="#page-{p.number}">{p.number}</a></td>'
            f'<td style="text-align:left">{html.escape(p.name)}</td></tr>'
            for p in self.pages.values()
        )
        head = "".join(
            f'<th style="text-align:left">{name}</th>'
            for name in ("what you see", "page", "what it may be")
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        lines = [f"{p.number:>3}  {p.symptom}: {p.name}" for p in self.pages.values()]
        _show(table, "\n".join(lines))

    def page(self, number: int) -> None:
        """Show the card at the head of a page."""
        p = self.pages[number]
        facts = [("You see", p.symptom), ("Diagnose with", p.tool), ("Mend", p.mend)]
        facts += [("Seen in", p.seen)] if p.seen else []
        cells = "".join(
            f'<tr><td style="text-align:left;white-space:nowrap"><b>{name}</b></td>'
            f'<td style="text-align:left">{html.escape(text)}.</td></tr>'
            for name, text in facts
        )
        box = f'<table id="page-{number}"><tbody>{cells}</tbody></table>'
        lines = [f"{name}: {text}." for name, text in facts]
        _show(box, "\n".join([f"Page {number} · {p.name}", *lines]))

    def proved(self, number: int, what: str, wrong: float, mended: float) -> None:
        """Note the number that went wrong, and what it is after the mend; print both.

        Raises:
            AssertionError: The two are equal, or the mended one is not finite: then nothing
                was shown.
        """
        wrong, mended = float(wrong), float(mended)
        name = self.pages[number].name
        assert math.isfinite(mended) and wrong != mended, f"{name}: {wrong} and {mended}"
        self.measured[number] = (what, wrong, mended)
        print(f"page {number}, {what}: wrong {_number(wrong)}, mended {_number(mended)}")

    def checklist(self) -> None:
        """The table at the end: every page with its number before and after the mend.

        Raises:
            AssertionError: A page has no number yet.
        """
        missing = sorted(self.pages.keys() - self.measured.keys())
        assert not missing, f"pages without a number: {missing}"
        rows = []
        for number, (what, wrong, mended) in self.measured.items():
            p = self.pages[number]
            rows.append([str(number), p.tool, what, _number(wrong), _number(mended)])
        show.table(rows, ["page", "look with", "number", "wrong", "mended"])

    def metrics(self) -> dict[str, dict[str, float | str]]:
        """What was measured, for `course.record`; a number that is not finite is a text."""
        found: dict[str, dict[str, float | str]] = {}
        for number, (what, wrong, mended) in sorted(self.measured.items()):
            shown: float | str = wrong if math.isfinite(wrong) else str(wrong)
            found[f"page {number}"] = {"what": what, "wrong": shown, "mended": mended}
        return found


def as_printed(code: str, **names: Any) -> dict[str, Any]:
    """Show code as it circulates, run it in a namespace of its own, and say what it does.

    Args:
        code: Python, as a reader would paste it.
        names: What the code may use without having made it.

    Returns:
        The namespace afterwards; ``"error"`` holds what was raised, or None.
    """
    from IPython.display import Markdown, display

    display(Markdown(f"```python\n{code.strip()}\n```"))
    space: dict[str, Any] = dict(names, error=None)
    said = StringIO()  # shown in one piece with the verdict, and so in the right place
    try:
        with redirect_stdout(said):
            exec(compile(code, "<as printed>", "exec"), space)
    except Exception as problem:  # whatever it raises is what the reader is to see
        space["error"] = problem
        lines = COLOUR_CODE.sub("", str(problem)).strip().splitlines()
        verdict = f"{type(problem).__name__}: {lines[0][:200] if lines else ''}"
    else:
        verdict = "No error."
    display({"text/plain": said.getvalue() + verdict}, raw=True)
    return space


def _number(value: float) -> str:
    """Three digits, powers of ten where they say more; rounding errors are not told apart."""
    if 0 < abs(value) < ROUNDING:
        return "≈ 0"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def _show(page: str, text: str) -> None:
    from IPython.display import display

    display({"text/html": page, "text/plain": text}, raw=True)
