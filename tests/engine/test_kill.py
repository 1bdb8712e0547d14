"""A process killed with -9 at random points goes on to the same bits: also when it dies while
it saves, in a window of micro-batches, alone or as one of two."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sftkit import checkpoints
from sftkit.files import read_json
from tests.engine.zygote import Child, Zygote

JOB = "tests.engine.killed:train"
KINDS = ("time", "saving", "time", "saving", "window")


def finals(folder: Path, processes: int = 1) -> list[bytes]:
    names = [f"final-{i}{end}" for i in range(processes) for end in (".safetensors", ".json")]
    return [(folder / name).read_bytes() for name in names]


def saved(child: Child) -> list[int]:
    return [int(mark[1]) for mark in child.marks() if mark and mark[0] == "saved"]


def tidy(folder: Path) -> None:
    """What is left is at most the newest, the best, and the files of the lock."""
    names = {entry.name for entry in (folder / "checkpoints").iterdir()}
    kept = {entry.name for entry in checkpoints.existing(folder / "checkpoints")}
    assert len(kept) <= 3 and names - kept <= {".held.lock", ".held.json"}


def campaign(zygote: Zygote, folder: Path, kills: int, seed: int) -> None:
    epochs = max(10, kills)  # of 5 steps
    (whole,) = zygote.together(JOB, folder / "whole", 1, epochs=epochs)
    assert whole.wait() == 0, whole.log.read_text()
    lines = max(int(mark[2]) for mark in whole.marks() if mark[0] == "saved")
    print(f"seed {seed}; a save runs {lines} lines of ours")
    chance, broken, newest = random.Random(seed), folder / "broken", 0
    died: Counter[str] = Counter()
    for number in range(kills):
        kind = KINDS[number % len(KINDS)]
        options = {
            "time": {},
            "saving": {"saving": (chance.randint(1, 3), chance.randint(1, lines))},
            "window": {"window": chance.randint(1, 8)},
        }[kind]
        (child,) = zygote.together(JOB, broken, 1, epochs=epochs, **options)
        if kind == "time" and child.mark("begin"):
            time.sleep(chance.uniform(0, 0.3))
            child.kill()
        assert child.wait() in (0, -9), child.log.read_text()
        marks = child.marks()
        began = next((int(mark[1]) for mark in marks if mark[0] == "begin"), newest)
        assert began >= newest, f"{began} after a checkpoint of {newest}: steps were lost"
        newest = max([newest, *saved(child)])
        last = marks[-1][0] if marks else "start"
        died["saving" if last == "save" else last] += 1
    print(dict(died))
    assert died["saving"] >= kills // 5 and died["window"] >= kills // 10
    (final,) = zygote.together(JOB, broken, 1, epochs=epochs)
    assert final.wait() == 0, final.log.read_text()
    assert finals(broken) == finals(folder / "whole")
    tidy(broken)


def test_killed_ten_times(zygote, tmp_path):
    campaign(zygote, tmp_path, 10, random.SystemRandom().randrange(10**6))


@pytest.mark.slow
def test_killed_fifty_times(zygote, tmp_path):
    campaign(zygote, tmp_path, 50, random.SystemRandom().randrange(10**6))


def two(zygote: Zygote, folder: Path, **options) -> list[Child]:
    return zygote.together(JOB, folder, 2, epochs=2, **options)


@pytest.fixture(scope="module")
def whole_by_two(zygote, tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("two")
    for child in two(zygote, folder):
        assert child.wait() == 0, child.log.read_text()
    return finals(folder, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"window": 5, "rank": 0},
        {"window": 6, "rank": 1},
        {"saving": (4, 60), "rank": 0},
        {"window": 9},
    ],
    ids=["first in a window", "second in a window", "first while saving", "both"],
)
def test_one_of_two_or_both(zygote, whole_by_two, tmp_path, options):
    """With dropout, whose numbers differ between the processes."""
    children = two(zygote, tmp_path, **options)
    codes = [child.wait() for child in children]  # who is left alone ends, and does not hang
    assert -9 in codes and 0 not in codes
    for child in two(zygote, tmp_path):
        assert child.wait() == 0, child.log.read_text()
    assert finals(tmp_path, 2) == whole_by_two
    tidy(tmp_path)


def test_the_two_draw_other_numbers_and_both_are_brought_back(zygote, whole_by_two, tmp_path):
    """Broken variant: without the second process's generators the weights differ."""
    for child in two(zygote, tmp_path, window=9):
        assert child.wait() == -9
    (newest, *_) = reversed(checkpoints.existing(tmp_path / "checkpoints"))
    saved_state = checkpoints.tensors(newest, "generators")
    assert {name.partition(".")[0] for name in saved_state} == {"0", "1"}
    assert not np.array_equal(saved_state["0.torch"], saved_state["1.torch"])
    from safetensors.torch import save_file

    from sftkit.files import sha256, write_json

    first_only = {k: v for k, v in saved_state.items() if k.startswith("0.")}
    save_file(first_only, newest / "generators.safetensors")
    manifest = read_json(newest / "manifest.json")
    manifest["files"]["generators.safetensors"] = sha256(newest / "generators.safetensors")
    write_json(newest / "manifest.json", manifest)
    for child in two(zygote, tmp_path):
        assert child.wait() == 0, child.log.read_text()
    assert finals(tmp_path, 2) != whole_by_two


@pytest.mark.parametrize("processes", [(2, 1), pytest.param((1, 2), marks=pytest.mark.slow)])
def test_another_number_of_processes_agrees_within_rounding(zygote, tmp_path, processes):
    """In float64 and without dropout: 1e-9 of the losses, 1e-8 of the weights."""
    from safetensors.torch import load_file

    before, after = processes
    for folder, first in ((tmp_path / "whole", None), (tmp_path / "broken", 12)):
        job = dict(epochs=2, dropout=0.0)
        for child in zygote.together(JOB, folder, before, window=first, **job):
            assert child.wait() == (-9 if first else 0), child.log.read_text()
    children = zygote.together(JOB, tmp_path / "broken", after, **job)
    for child in children:
        assert child.wait() == 0, child.log.read_text()
    assert "resumed under other conditions: losses agree" in children[0].log.read_text()
    a, b = (read_json(tmp_path / name / "final-0.json") for name in ("whole", "broken"))
    assert b["losses"] == pytest.approx(a["losses"], rel=1e-9)
    a, b = (load_file(tmp_path / n / "final-0.safetensors") for n in ("whole", "broken"))
    for name in a:
        assert np.allclose(a[name], b[name], rtol=0, atol=1e-8)


@pytest.mark.parametrize("tmpfs", [True, False], ids=["small disk", "files too large"])
def test_a_full_disk_loses_only_the_steps_since_the_last_save(zygote, tmp_path, tmpfs):
    """Real errors of the operating system, in the middle of writing a checkpoint."""
    (child,) = zygote.together("tests.engine.full_disk:disk_full", tmp_path, 1, tmpfs=tmpfs)
    assert child.wait() == 0, child.log.read_text()
    said = {mark[0]: " ".join(mark[1:]) for mark in child.marks()}
    if "not" in said:
        pytest.skip("no permission to mount a file system")
    why = "No space left on device" if tmpfs else "File too large"
    assert "step-00000003 could not be saved" in said["error"] and why in said["error"]
    assert "Make room or give another folder, then go on with resume=True." in said["error"]
    assert said["left"].split() == [".held.lock", "step-00000002"]
    a, b = (tmp_path / f"{name}.safetensors" for name in ("whole", "resumed"))
    assert a.read_bytes() == b.read_bytes()


def test_a_command_says_that_the_disk_is_full(zygote, tmp_path):
    (child,) = zygote.together("tests.engine.full_disk:command", tmp_path, 1)
    assert child.wait() == 0, child.log.read_text()
    assert ["code", "2"] in child.marks()  # and no half copy beside it
    said = child.log.read_text()
    assert "The disk is full" in said and "Make room" in said and "Traceback" not in said


def test_a_second_run_on_a_folder_is_refused_and_a_killed_one_blocks_nobody(zygote, tmp_path):
    (holder,) = zygote.together("tests.engine.full_disk:slowly", tmp_path, 1)
    assert holder.mark("holds"), holder.log.read_text()
    (second,) = zygote.together("tests.engine.full_disk:beside", tmp_path, 1)
    assert second.wait() == 1
    message = second.log.read_text()
    assert (
        f"FitError: {tmp_path / 'checkpoints'} is in use by process {holder.pid} on" in message
    )
    assert "Wait until it ends, end it, or give another folder." in message
    holder.kill()
    assert (tmp_path / "checkpoints" / ".held.lock").is_file()  # left behind, and harmless
    (third,) = zygote.together("tests.engine.full_disk:beside", tmp_path, 1)
    assert third.wait() == 0, third.log.read_text()


def test_two_processes_are_refused_together(zygote, tmp_path):
    """The one that does not hold the lock learns why, and does not wait for the other."""
    (holder,) = zygote.together("tests.engine.full_disk:slowly", tmp_path, 1)
    assert holder.mark("holds"), holder.log.read_text()
    pair = zygote.together("tests.engine.full_disk:beside", tmp_path, 2)
    assert [child.wait() for child in pair] == [1, 1]
    assert all("is in use by process" in child.log.read_text() for child in pair)
    holder.kill()
