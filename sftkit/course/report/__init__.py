"""What a sweep came to: tidy tables, figures, and one page that opens anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

__all__ = ["Written", "write_report"]


@dataclass(frozen=True)
class Written:
    """The files of a report.

    Attributes:
        notes: What is missing, in sentences.
    """

    page: Path
    table: Path
    notes: list[str] = field(default_factory=list)


def write_report(
    store: Path, name: str | None = None, to: Path | None = None, *, links: bool = True
) -> Written:
    """Write a sweep's report from its store.

    Args:
        store: Folder of all runs.
        name: Of the sweep; the newest of the store unless given.
        to: Folder of the report; ``STORE/sweeps/NAME/report`` unless given.
        links: Whether the page leads to the runs' notebooks; not for one that leaves its store.

    Returns:
        The page ``index.html`` and the table ``runs.csv``. Beside them ``runs.parquet`` and,
        where the notebook evaluates while it trains, ``curves.csv`` and ``curves.parquet``.

    Raises:
        ParameterError: There is no such sweep.
    """
    from sftkit.course.report import page, rows
    from sftkit.course.sweep.store import manifest_of, sweep_folder
    from sftkit.files import write_bytes, write_text

    store = Path(store).resolve()
    manifest = manifest_of(store, name)
    found = rows.tables(store, manifest)
    if not links:
        found = replace(found, links={})
    folder = Path(to) if to else sweep_folder(store, manifest["name"]) / "report"
    for kind, frame in (("runs", found.runs), ("curves", found.curves)):
        if len(frame) or kind == "runs":
            write_text(folder / f"{kind}.csv", frame.to_csv(index=False, lineterminator="\n"))
            write_bytes(folder / f"{kind}.parquet", frame.to_parquet(index=False))
    text, notes = page.page(found, folder)
    write_text(folder / "index.html", text)
    return Written(folder / "index.html", folder / "runs.csv", notes)
