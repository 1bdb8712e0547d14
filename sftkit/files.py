"""Files that are whole or absent: atomic writes, hashes, locks, and where things are kept."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent


def project_folder() -> Path | None:
    """The checkout that this package runs from, or None when it is installed as a wheel."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() else None


def cache_folder() -> Path:
    """Where fetched and prepared files live.

    ``SFTKIT_CACHE`` if it is set; ``data/cache`` in a checkout; otherwise the platform's
    cache folder for users.
    """
    if configured := os.environ.get("SFTKIT_CACHE"):
        return Path(configured).expanduser().resolve()
    if root := project_folder():
        return root / "data" / "cache"
    import platformdirs

    return Path(platformdirs.user_cache_dir("sftkit"))


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives 0600; these files are for sharing
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str) -> None:
    """As `write_bytes`, in UTF-8 with LF line ends."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """As `write_text`; keys keep their order, and NaN is refused."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


@contextmanager
def folder_in_one_piece(final: Path) -> Iterator[Path]:
    """A temporary folder beside ``final`` that takes its place when the block succeeds.

    When the block or the renaming fails, the temporary folder is removed and ``final`` is as it
    was.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o755)  # mkdtemp gives 0700
        if final.exists():
            old = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.old."))
            try:
                os.rename(final, old / "old")
                os.rename(temporary, final)
            except BaseException:
                if not final.exists():
                    os.rename(old / "old", final)
                shutil.rmtree(old, ignore_errors=True)  # only where ``final`` stands again
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two processes do one job after the other."""
    import filelock

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(str(path)):
        yield


class Held(Exception):
    """Another process holds the folder; the text says which, as far as is known."""


@contextmanager
def held(folder: Path, name: str = ".held") -> Iterator[None]:
    """Hold a folder, or one thing in it, for this process alone; others are refused at once.

    The lock is the operating system's. It ends with the process, also when that is killed, so
    what it leaves behind blocks nobody.

    Args:
        folder: Where the lock is; it is made if it is not there.
        name: Of the thing, without the endings of the two files that stand for it.

    Raises:
        Held: Another process holds the folder.
        OSError: The folder cannot be made or written.
    """
    import filelock

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / f"{name}.json"
    lock = filelock.FileLock(str(folder / f"{name}.lock"), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Held(_owner(owner)) from None
    try:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        with suppress(OSError):  # it only makes the message better
            write_json(owner, {"process": os.getpid(), "host": platform.node(), "since": now})
        yield
    finally:
        with suppress(OSError):
            owner.unlink()
        lock.release()


def _owner(path: Path) -> str:
    try:
        facts = read_json(path)
        return f"process {facts['process']} on {facts['host']}, since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has only just begun
