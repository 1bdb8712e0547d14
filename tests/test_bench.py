"""The other benchmarks really run; what was measured is kept; `sftkit bench` finds them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import beside, growth, turns
from sftkit.course import bench
from sftkit.errors import ParameterError
from sftkit.files import read_json

MODULE = "tests.counting_benchmark"


def test_turns_go_round_and_nothing_is_measured_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "STORE", tmp_path / "store")
    told = tmp_path / "told"
    told.mkdir()
    shared = {"_folder": str(told), "rows": 3}

    def go(repetitions):
        return turns.take_turns(MODULE, ["a", "b"], repetitions, shared, str)

    first = go(1)
    runs = go(2)
    assert [(r["contestant"], r["seed"]) for r in runs] == [
        ("a", 0), ("b", 0), ("a", 1), ("b", 1),
    ]  # fmt: skip
    # Each measurement left one file, by a process of its own.
    assert len(list(told.iterdir())) == 4
    assert len({r["process"] for r in runs}) == 4 and os.getpid() not in {
        r["process"] for r in runs
    }
    assert [r["process"] for r in runs[:2]] == [r["process"] for r in first]
    shared = {"_folder": str(told), "rows": 4}
    assert go(1)[0]["process"] not in {r["process"] for r in runs}  # other settings


def test_a_failing_measurement_stops_with_its_error(tmp_path):
    with pytest.raises(SystemExit, match="(?s)counting_benchmark b failed.*no rows"):
        turns.take_turns(
            MODULE, ["b"], 1, {"_folder": str(tmp_path), "rows": 0}, str, keep=False
        )


def test_ratios_are_of_medians_and_within_repetitions():
    runs = [
        {"contestant": name, "seed": seed, "speed": speed}
        for name, values in (("ours", (2, 9, 4)), ("theirs", (1, 3, 4)))
        for seed, speed in enumerate(values)
    ]
    assert turns.ratio(runs[::-1], "ours", "theirs", "speed") == {
        "ratio_of_medians": 4 / 3, "paired_ratio_min": 1.0, "paired_ratio_max": 3.0,
    }  # fmt: skip


def test_the_exponent_of_a_power_is_found():
    sizes = [10, 100, 1_000]
    assert growth.exponent(sizes, [3 * s**1.5 for s in sizes]) == pytest.approx(1.5)


def test_every_script_has_a_name():
    folder = Path(turns.__file__).parent
    marks = re.compile(r"turns\.take_turns|\bclassification\.main\(")  # its own turns, or those
    scripts = {file.stem for file in folder.glob("*.py") if marks.search(
               file.read_text(encoding="utf-8"))}  # fmt: skip
    assert scripts - {"turns"} == {b.script for b in bench.BENCHMARKS.values()}
    listing = bench.listing()
    assert all(name in listing for name in bench.BENCHMARKS)
    with pytest.raises(ParameterError, match="no benchmark speed"):
        bench.bench(["speed"])


def test_what_was_found_here_stands_beside_the_repositorys_results(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, share in ((here, 0.02), (there, 0.04)):
        folder.mkdir()
        result = {"share": share, "goals": {"share": 0.03}}
        (folder / "collation.json").write_text(json.dumps(result))
    what = "encoding and collation, share of an epoch"
    (row,) = beside.rows(["collation", "chat"], here, there)
    assert row == ["collation", what, "0.020", "0.040", "at most 0.03"]
    assert beside.rows(["collation"], here, tmp_path)[0][3] == "–"  # none in the repository
    assert beside.rows(["chat"], here, there) == []


def test_the_result_of_the_long_form_alone_goes_into_the_repository():
    parser = turns.parser("What it is.", "more")
    files = {form: turns.result_file(parser.parse_args(arguments), "chat")
             for form, arguments in (("full", ["--full"]), ("quick", ["--quick", "--full"]),
                                     ("short", []))}  # fmt: skip
    assert files["full"] == turns.RESULTS / "chat.json"
    assert files["short"].parent == turns.STORE / "short"
    assert files["quick"].parent == turns.STORE / "quick"


QUICK = [n for n in bench.BENCHMARKS if n != "classification"]  # see test_benchmarks.py


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_quick_run(name, tmp_path):
    if name == "chat" and not importlib.util.find_spec("trl"):
        pytest.skip("TRL is not installed: pip install sftkit[bench]")
    script = Path(turns.__file__).parent / f"{bench.BENCHMARKS[name].script}.py"
    out = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, script, "--quick", "--out", out],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = read_json(out)
    assert result["form"] == "quick" and result["runs"] and result["summary"]
    assert result["machine"]["gflops_float32"] > 0
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert len(result["figure"]["alt"]) > 40
