"""Hash the unpacked files again and say which are damaged."""

from __future__ import annotations

from dataclasses import dataclass

from sftkit.assets.entries import choose
from sftkit.assets.store import MANIFEST, folder_of, read_manifest
from sftkit.files import sha256


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an unpacked asset."""

    asset: str
    file: str
    what: str

    @property
    def fix(self) -> str:
        """The command that mends it."""
        return f"sftkit assets fetch --force {self.asset}"

    def __str__(self) -> str:
        return f"{self.asset}/{self.file}: {self.what}. Mend it with: {self.fix}"


def verify(names: str | list[str] | tuple[str, ...] | None = None) -> list[Problem]:
    """Compare every unpacked file with the manifest written when it was unpacked.

    Args:
        names: Names of the catalogue, all of which must be there; or None for those that
            have been fetched.

    Returns:
        What is wrong; empty when all is well.
    """
    problems: list[Problem] = []
    for asset in choose(names):
        folder = folder_of(asset)
        if not folder.exists():
            if names is not None:
                problems.append(Problem(asset.name, "", "it has not been fetched"))
            continue
        manifest = read_manifest(asset)
        if manifest is None:
            problems.append(Problem(asset.name, MANIFEST, "the manifest is missing or damaged"))
            continue
        if manifest.get("recipe") != asset.recipe:
            problems.append(Problem(asset.name, MANIFEST, "made from another catalogue entry"))
        for name, facts in manifest["files"].items():
            file = folder / name
            if not file.is_file():
                problems.append(Problem(asset.name, name, "the file is missing"))
            elif sha256(file) != facts["sha256"]:
                problems.append(Problem(asset.name, name, "the content has changed"))
    return problems
