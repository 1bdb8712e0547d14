"""Tiny real packages for pip: wheels and source archives, made in a folder."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from sftkit.files import sha256

# A build backend that lives in the archive and needs nothing. It notes that it ran, and can
# be told to take its time, so that tests can look at what happens meanwhile.
BACKEND = """
import os, time, zipfile
from pathlib import Path

def _ran():
    with open({log!r}, "a") as stream:
        stream.write("ran\\n")
    wait = Path({log!r} + ".wait")
    for _ in range(600):
        if not wait.exists():
            return
        time.sleep(0.1)

def get_requires_for_build_wheel(config_settings=None):
    return []

get_requires_for_build_editable = get_requires_for_build_wheel
METADATA = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n{more}"

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    _ran()
    info = Path(folder, "{under}-{version}.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "WHEEL").write_text("Wheel-Version: 1.0\\nTag: py3-none-any\\n")
    return info.name

prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "{under}-{version}-py3-none-any.whl"
    info = "{under}-{version}.dist-info/"
    with zipfile.ZipFile(Path(folder, name), "w") as wheel:
        wheel.writestr("{under}.pth", os.getcwd())
        wheel.writestr(info + "METADATA", METADATA)
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""
BUILD_SYSTEM = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def make_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    """A wheel of ``files`` (path inside -> content)."""
    folder.mkdir(parents=True, exist_ok=True)
    under = name.replace("-", "_")
    path = folder / f"{under}-{version}-py3-none-any.whl"
    info = f"{under}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for inside, content in files.items():
            wheel.writestr(inside, content)
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def backend(name: str, version: str, log: Path, more: str = "") -> str:
    """The source of a build backend that appends a line to ``log`` when it runs."""
    under = name.replace("-", "_")
    return BACKEND.format(name=name, version=version, under=under, log=str(log), more=more)


def make_sdist(
    folder: Path, name: str, version: str, files: dict[str, bytes], log: Path
) -> Path:
    """A source archive of ``files``; its build appends a line to ``log``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    project = f'[project]\nname = "{name}"\nversion = "{version}"\n{BUILD_SYSTEM}'
    content = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        "pyproject.toml": project.encode(),
        "backend.py": backend(name, version, log).encode(),
        **files,
    }
    with tarfile.open(path, "w:gz") as tar:
        for inside, data in content.items():
            member = tarfile.TarInfo(f"{name}-{version}/{inside}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def entry(
    name: str,
    archive: Path,
    package: str,
    files: dict[str, str],
    version: str = "1.0",
    digest: str = "",
    kind: str = "corpus",
    size: int = 1000,
) -> str:
    """A catalogue entry, as TOML."""
    named = "".join(f'"{source}" = "{target}"\n' for source, target in files.items())
    return (
        f'[{name}]\nkind = "{kind}"\ntitle = "{name}"\npackage = "{package}"\n'
        f'version = "{version}"\nlicence = "MIT"\ncitation = "none"\n'
        f"download = {size}\nunpacked = {size}\n"
        f'[{name}.archives]\n"{archive.name}" = "{digest or sha256(archive)}"\n'
        f"[{name}.files]\n{named}\n"
    )
