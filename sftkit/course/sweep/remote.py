"""A store that is not a folder here: any address that fsspec knows.

The worker runs in a scratch folder and then puts the files in place, ``result.json`` last.
The sweep keeps a local copy of the small records; notebooks and models stay at the address.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sftkit.course.planned import PlannedRun
from sftkit.course.run import RESULT
from sftkit.errors import RunError
from sftkit.files import cache_folder, read_json, sha256_text, write_json

RECORDS = (RESULT, "failure.json", "stopped.json")


def is_address(store: str) -> bool:
    """Whether a store is an fsspec address, such as ``s3://bucket/runs``."""
    return "://" in store


def filesystem(address: str) -> tuple[Any, str]:
    """The filesystem of an address, and the path on it.

    Raises:
        RunError: fsspec does not know the protocol, or its package is missing.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)
    except (ValueError, ImportError) as error:
        raise RunError(
            f"The store {address} cannot be opened: {error}",
            "Install the package that it names, or use a folder.",
        ) from None


def mirror(address: str) -> Path:
    """The folder here that holds the records of a store elsewhere."""
    return cache_folder() / "stores" / sha256_text(address)[:12]


@contextmanager
def working_store(store: str, planned: PlannedRun) -> Iterator[Path]:
    """A folder to run in. What is in the run's part of it is put in place in any case."""
    if not is_address(store):
        yield Path(store)
        return
    with tempfile.TemporaryDirectory(prefix="sftkit-run-") as scratch:
        try:
            yield Path(scratch)
        finally:
            put(planned.folder(Path(scratch)), store, planned)


def put(folder: Path, address: str, planned: PlannedRun) -> None:
    """Copy a run's folder to its address, its result last: then it is whole or not there."""
    files, root = filesystem(address)
    there = f"{root}/{planned.source.name}/{planned.hash[:12]}"
    found = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(found, key=lambda path: path.name == RESULT):
        target = f"{there}/{path.relative_to(folder).as_posix()}"
        files.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        files.put_file(str(path), target)


def pull_records(address: str, notebook: str) -> Path:
    """Copy the records that are not here yet; returns the folder that holds them."""
    files, root = filesystem(address)
    local = mirror(address)
    for name in RECORDS:
        for there in files.glob(f"{root}/{notebook}/*/{name}"):
            path = local / notebook / there.split("/")[-2] / name
            if not path.is_file() or name != RESULT:
                path.parent.mkdir(parents=True, exist_ok=True)
                files.get_file(there, str(path))
                if name == RESULT:  # it is whole at the address, and here without the rest
                    write_json(path, read_json(path) | {"files": [RESULT]})
    return local
