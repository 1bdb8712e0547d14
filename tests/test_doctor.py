"""The doctor notices what is really wrong, and says how to mend it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sftkit import assets, doctor
from sftkit.doctor import Finding

NAMES = ["Python", "packages", "torch", "disk", "cache", "assets", "fonts", "kernel"]


def finding(name: str) -> Finding:
    ok, detail, fix = doctor.LOOKS[name]()
    return Finding(name, ok, detail, "" if ok else fix)


def test_everything_is_looked_at() -> None:
    assets.path("noto-sans-sc")
    findings = doctor.diagnose()
    assert [f.name for f in findings] == NAMES
    for f in findings:
        assert f.detail and f.ok == (f.fix == "")
    found = {f.name: f for f in findings}
    assert found["Python"].ok and sys.executable in found["Python"].detail
    assert "GFLOP/s in float32 matrix products" in found["torch"].detail
    assert found["fonts"] == Finding("fonts", True, "figures can show Chinese (中文)")
    shown = doctor.table(findings)
    assert [row[0] for row in shown.rows] == NAMES
    assert "GFLOP/s" in shown._repr_html_()


def test_an_empty_cache_is_no_failure_but_lacks_the_font(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFTKIT_CACHE", str(tmp_path / "new"))
    assert finding("cache").ok
    found = finding("assets")
    assert found.ok and found.detail.startswith("0 fetched and complete; the other")
    font = finding("fonts")
    assert not font.ok and font.fix.endswith("sftkit assets fetch noto-sans-sc")


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SFTKIT_CACHE", str(tmp_path / "file" / "cache"))
    found = finding("cache")
    assert not found.ok and "cannot be written" in found.detail
    assert found.fix == "Set SFTKIT_CACHE to a folder that you can write to."


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROOM_GB", 1e9)
    found = finding("disk")
    assert not found.ok and "GB free for" in found.detail and "SFTKIT_CACHE" in found.fix


def test_a_damaged_asset_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFTKIT_CACHE", str(tmp_path))
    (tmp_path / "assets" / "tweets").mkdir(parents=True)
    found = finding("assets")
    assert not found.ok and found.detail == "incomplete or out of date: tweets"
    assert found.fix == "Fetch them again: sftkit assets fetch tweets"


def test_other_and_missing_versions() -> None:
    pins = doctor.pinned_versions(
        "# a comment\nPyTest==0.0.1\nno_such.package==1.0\nother-missing==2\n"
        f"torch=={_torch()}  # the +cpu of an installed one does not count\n"
    )
    assert set(pins) == {"pytest", "no-such-package", "other-missing", "torch"}
    other, missing = doctor.compare_versions(pins, {"no-such-package", "pytest"})
    assert missing == ["no-such-package"]
    assert other == [f"pytest is {pytest.__version__}, pinned 0.0.1"]


def _torch() -> str:
    from importlib.metadata import version

    return version("torch").split("+")[0]


def test_anothers_kernel_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "kernels" / "python3"
    place.mkdir(parents=True)
    spec = {"argv": ["/elsewhere/bin/python", "-m", "ipykernel_launcher"], "display_name": "x"}
    (place / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    found = finding("kernel")
    assert not found.ok and found.detail == "python3 starts /elsewhere/bin/python"
    assert str(place) in found.fix


def test_a_broken_look_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Look:
        raise ImportError("libtorch.so cannot be loaded")

    monkeypatch.setattr(doctor, "LOOKS", {"torch": broken})
    (found,) = doctor.diagnose()
    assert found == Finding(
        "torch", False, "ImportError: libtorch.so cannot be loaded", doctor.REINSTALL
    )


def test_the_report_has_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = {"Python": doctor.LOOKS["Python"]}
    monkeypatch.setattr(doctor, "LOOKS", looks)
    assert doctor.report() == 0
    assert capsys.readouterr().out.endswith("\nAll is well.\n")
    looks["disk"] = lambda: (False, "0.1 GB free", "Free some room.")
    assert doctor.report() == 1
    out = capsys.readouterr().out
    assert "disk    MEND   0.1 GB free\n" in out
    assert "\ndisk: 0.1 GB free\n  Free some room.\n" in out
