"""A folder in one piece: whole, or as it was, also when the disk fails between two steps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sftkit.files import folder_in_one_piece


def content(place: Path) -> dict[str, str]:
    return {str(f.relative_to(place)): f.read_text() for f in place.rglob("*") if f.is_file()}


@pytest.fixture
def fail_at(tmp_path, monkeypatch):
    """A folder with one file; the function makes these calls of `os.rename` fail."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old.txt").write_text("old")
    rename, calls = os.rename, []

    def fail(*numbers):
        def flaky(source, target):
            calls.append(source)
            if len(calls) in numbers:
                raise OSError(5, "Input/output error")
            rename(source, target)

        monkeypatch.setattr(os, "rename", flaky)

    return fail


@pytest.mark.parametrize("failing", [1, 2])
def test_when_a_renaming_fails_the_old_folder_is_there(tmp_path, fail_at, failing):
    fail_at(failing)
    with (
        pytest.raises(OSError, match="Input/output"),
        folder_in_one_piece(tmp_path / "m") as part,
    ):
        (part / "new.txt").write_text("new")
    assert content(tmp_path) == {"m/old.txt": "old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_what_cannot_go_back_is_kept(tmp_path, fail_at):
    fail_at(2, 3)
    with pytest.raises(OSError, match="Input/output"), folder_in_one_piece(tmp_path / "m"):
        pass
    assert list(content(tmp_path).values()) == ["old"]


def test_a_new_folder_takes_the_old_ones_place(tmp_path):
    for text in ("one", "two"):
        with folder_in_one_piece(tmp_path / "m") as part:
            (part / f"{text}.txt").write_text(text)
    assert content(tmp_path) == {"m/two.txt": "two"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]
