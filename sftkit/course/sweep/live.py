"""A sweep watched from a notebook: a table and curves that grow while it runs.

box = SweepBox(plan)
display(box.widget)
sweep(plan, watch=box.update)
box.show()            # static: it stays when the widget is gone
"""

from __future__ import annotations

import html
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from sftkit.course.run import CURVES_FILE, RESULT
from sftkit.course.sweep.plan import Plan
from sftkit.course.sweep.status import Progress
from sftkit.course.sweep.store import run_folder
from sftkit.files import read_json
from sftkit.teach import show

SECONDS = 1.0  # between two drawings
BEST = 8  # rows of the table


class SweepBox:
    """What a sweep has found so far, as a widget and as a static table with a figure.

    Args:
        plan: The sweep's plan.
        store: Folder of all runs.
    """

    def __init__(self, plan: Plan, store: Path | str = Path("runs")) -> None:
        import ipywidgets

        self.plan, self.store = plan, Path(store).resolve()
        self.progress: Progress | None = None
        self._bar = ipywidgets.IntProgress(min=0, max=1, layout={"width": "60%"})
        self._words = ipywidgets.HTML("The sweep has not begun.")
        self._table = ipywidgets.HTML()
        self._image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        self._image.layout.visibility = "hidden"
        self.widget = ipywidgets.VBox([self._bar, self._words, self._table, self._image])
        self._drawn = 0.0

    def update(self, progress: Progress) -> None:
        """Draw what is known now; pass this as ``watch`` to `sweep`."""
        self.progress = progress
        over = progress.settled >= progress.total
        if not over and time.monotonic() - self._drawn < SECONDS:
            return
        self._drawn = time.monotonic()
        self._bar.max, self._bar.value = max(1, progress.total), progress.settled
        self._words.value = f"<p>{html.escape(progress.words)}</p>"
        self._table.value = self.table()._repr_html_()
        drawn = self.figure()
        if drawn is not None:
            import matplotlib.pyplot as plt

            stream = BytesIO()
            drawn[0].savefig(stream, format="png")
            plt.close(drawn[0])
            self._image.value, self._image.layout.visibility = stream.getvalue(), "visible"

    def table(self) -> show.Table:
        """The best runs so far."""
        sign = -1 if self.plan.maximize else 1
        rows = []
        if self.progress is not None:
            ranked = sorted(self.progress.values, key=lambda pair: sign * pair[1])[:BEST]
            rows = [(self.progress.label(run), f"{value:.4g}") for run, value in ranked]
        header = ("run", self.plan.metric or "metric")
        return show.Table(rows, header, "Single runs, best first")

    def figure(self) -> tuple[Any, str] | None:
        """Learning curves of what is done (grey) and under way; None without any."""
        if self.progress is None:
            return None
        done = [run for run, _ in self.progress.values]
        under_way = list(self.progress.running.values())
        lines = []
        for run in [*done, *under_way]:
            points = self._curve(run.planned.source.name, run.hash)
            lines += [(run, name, points)] if (name := self._name(points)) else []
        if not lines:
            return None
        fig, ax = show.new_figure(height=2.8)
        for i, (run, name, points) in enumerate(lines):
            live = run in under_way
            told = self.progress.label(run) if live else "done" if i == 0 else None
            ax.plot(
                [row["step"] for row in points],
                [row[name] for row in points],
                color=show.COLOURS[0] if live else "#b8b8b8",
                marker="o" if live else None,
                ms=4,
                label=told,
            )
        ax.set(xlabel="optimizer step", ylabel=lines[-1][1])
        ax.set_title(f"Learning curves: {len(lines)} runs")
        ax.legend()
        return fig, f"Learning curves of {len(lines)} runs, {lines[-1][1]} by optimizer step."

    def _curve(self, notebook: str, digest: str) -> list[dict[str, float]]:
        folder = run_folder(self.store, notebook, digest)
        try:
            if (folder / RESULT).is_file():  # when the run is over, its curves are there
                found = read_json(folder / RESULT).get("curves", {})
            else:
                found = read_json(folder / CURVES_FILE)
        except (OSError, ValueError):
            return []
        return [row for rows in found.values() for row in rows]

    def _name(self, points: list[dict[str, float]]) -> str:
        """The metric of the curve that is drawn."""
        names = [name for row in points for name in row]
        wanted = [self.plan.search.watch, self.plan.metric.rpartition(".")[2], *names]
        known = set(names) - {"step", "training_loss"}
        return next((name for name in wanted if name in known), "")

    def show(self) -> None:
        """The same without a widget: it stays in the notebook, and in pages made of it."""
        from IPython.display import display

        print(self.progress.words if self.progress else "The sweep has not begun.")
        display(self.table())
        if (drawn := self.figure()) is not None:
            show.figure(*drawn)
