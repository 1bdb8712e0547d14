"""The catalogue as tables: what there is, what is in the cache, under which licence."""

from __future__ import annotations

from pathlib import Path

from sftkit.assets.entries import Asset, catalogue
from sftkit.assets.store import is_here
from sftkit.errors import AssetError
from sftkit.files import project_folder, write_text
from sftkit.teach.show import Table

BEGIN, END = "<!-- catalogue: begin -->", "<!-- catalogue: end -->"


def table() -> Table:
    """What the catalogue has, with its size and whether it is in the cache."""
    rows = [
        (a.name, a.kind, "yes" if is_here(a.name) else "no", _size(a.download), a.title)
        for a in catalogue().values()
    ]
    return Table(rows, ["name", "kind", "fetched", "download", "what"])


def licenses() -> list[dict[str, str]]:
    """Package, licence and citation of every asset, as plain dictionaries."""
    return [
        {
            "name": a.name,
            "package": a.pin,
            "licence": a.licence,
            "note": a.licence_note,
            "citation": a.citation,
        }
        for a in catalogue().values()
    ]


def licence_table() -> Table:
    """`licenses` as a table."""
    rows = [tuple(entry.values()) for entry in licenses()]
    return Table(rows, ["name", "package", "licence", "note", "citation"])


def licence_markdown() -> str:
    """The table of ``data/README.md``: every asset with source, licence and hash."""
    lines = [
        "| name | what | package | licence | cite | SHA-256 of the archive |",
        "|---|---|---|---|---|---|",
    ]
    for a in catalogue().values():
        what = " ".join(filter(None, [f"{a.title}.", a.note]))
        licence = f"{a.licence}. {a.licence_note}".strip() if a.licence_note else a.licence
        cells = [f"`{a.name}`", what, f"`{a.pin}`", licence, a.citation, _hashes(a)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def write_readme(path: Path | None = None) -> None:
    """Put `licence_markdown` into ``data/README.md``, between its two marks.

    Args:
        path: The file; by default the checkout's.

    Raises:
        AssetError: There is no such file, or its marks are gone.
    """
    if path is None:
        path = (project_folder() or Path()) / "data" / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise AssetError(
            f"{path} is not there, or lacks the lines {BEGIN!r} and {END!r}.",
            "Run this in a checkout; put the two lines back where the table belongs.",
        )
    head, rest = text.split(BEGIN)
    write_text(path, f"{head}{BEGIN}\n{licence_markdown()}{END}{rest.split(END)[1]}")


def _hashes(asset: Asset) -> str:
    if len(asset.archives) == 1:
        return f"`{next(iter(asset.archives.values()))}`"
    return "<br>".join(f"{file}: `{value}`" for file, value in asset.archives.items())


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
