"""The README's numbers are those of the records."""

from __future__ import annotations

import json

import pytest

from benchmarks import readme, readme_bench, readme_tasks
from benchmarks.campaign import as_record, jobs
from benchmarks.classification import summarize
from sftkit.course import notebooks
from sftkit.course.bench import BENCHMARKS
from sftkit.course.report.committed import committed_sweep
from sftkit.errors import ParameterError
from sftkit.files import PACKAGE
from tests.test_benchmarks import RESULT, measured

TEMPLATE = """# A title

<!-- results:classification -->
STALE TEXT
<!-- /results -->

<!-- results:tasks -->
<!-- /results -->

between

<!-- bench:goals -->
<!-- /bench -->

<!-- bench:classification -->
<!-- /bench -->

<!-- course:notebooks -->
<!-- /course -->

<!-- sweep:what_to_train -->
<!-- /sweep -->

end
"""


def with_accuracy(job, value):
    result = json.loads(json.dumps(RESULT))
    result["metrics"]["tuned"]["accuracy"] = {
        "value": value, "low": value - 0.01, "high": value + 0.01,
    }  # fmt: skip
    return as_record(job, result) | {
        "machine": {"processor": "A processor", "threads": 2, "cores": 2}
    }


@pytest.fixture
def records():
    plan = jobs()
    r8 = [j for j in plan if j.parameters["data"] == "reuters-r8"]
    r52 = [j for j in plan if j.parameters["data"] == "reuters-r52"]
    curve = [j for j in plan if j.group == "label-curve"][:2]
    values = [(r8[0], 0.97), (r8[1], 0.98), (r8[2], 0.978), (r52[0], 0.95)]
    return [with_accuracy(j, v) for j, v in [*values, (curve[0], 0.6), (curve[1], 0.65)]]


@pytest.fixture
def bench():
    runs = [measured("ours", s, 50 + s, 0.7) for s in range(3)]
    runs += [measured("trainer-default", s, 20, 0.70 + s / 100) for s in range(3)]
    runs += [measured("trainer-tuned", s, 45, 0.7) for s in range(3)]
    return {
        "date": "2026-01-02",
        "settings": {"rows": 2000, "epochs": 1, "batch_size": 32, "repetitions": 3,
                     "test_rows": 1000},
        "summary": summarize(runs),
        "machine": {"device_name": "A processor", "threads": 2, "gflops_float32": 170.4},
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "goals": {"trainer-default": 2.5, "trainer-tuned": 1.2, "limit_share": 0.75},
        "figure": {"file": "bench.png"},
    }  # fmt: skip


def test_results_are_means_ranges_and_intervals(records):
    part = readme.results_part(records)
    assert "| 97.6 (97.0 to 98.0) | 97.8 |" in part  # three seeds: the range; then published
    assert "| 95.0 (94.0 to 96.0) | 96.4 |" in part  # one seed: its interval
    assert "| reuters-r8 | 100 | 3 |" in part
    assert "| 100 | 1 |" in part and "| 300 | 1 |" in part  # the curve
    assert "6 runs of notebook 07, 2026-01-02, torch 2.13.0, on A processor (2 threads)" in part


def test_tasks_are_told_by_size_with_the_range_of_their_seeds(tmp_path):
    machine = {"processor": "A processor", "threads": 1}

    def run(model, sentences, seed, f1):
        job = {"group": "curve", "model": model, "sentences": sentences, "seed": seed}
        return {"job": job, "f1": [f1, 0, 1], "machine": machine, "processor_seconds": 9 + seed}

    runs = [run("features", 500, s, 0.70 + s / 100) for s in range(3)]
    runs += [run("pretrained, CRF", 500, s, 0.75) for s in range(3)]
    runs += [run("from scratch, CRF", 500, 0, 0.625), run("features", 2_000, 0, 0.8)]
    (tmp_path / "entities.json").write_text(json.dumps({"runs": runs}))
    part = readme_tasks.tasks_part(tmp_path)
    bar, tuned = "CRF on features: 71.0 (70.0 to 72.0)", "75.0 (75.0 to 75.0)"
    row = f"| 500 sentences | F1 | {bar} | 62.5 | {tuned} | 10 |"
    assert row in part and "A processor (1 thread)" in part
    assert "2,000 sentences" not in part  # nothing is fine-tuned there yet


def test_bench_tells_ratios_and_goals(bench):
    part = readme_bench.bench_part(bench)
    assert "| Trainer, its defaults | 20.0 | 2.55 (2.50 to 2.60) | 71.0 ± 2.5 |" in part
    assert "A processor (2 threads), which gives 170 GFLOP/s" in part


def test_both_parts_are_put_in_and_nothing_else_changes(tmp_path, records, bench):
    runs, result = tmp_path / "runs.json", tmp_path / "classification.json"
    runs.write_text(json.dumps({"runs": records}))
    result.write_text(json.dumps(bench))
    new = readme.updated(TEMPLATE, runs, tmp_path)
    assert (
        "STALE TEXT" not in new
        and new.startswith("# A title\n\n<!-- results")
        and "between" in new
    )
    assert readme.results_part(records) in new and readme_bench.bench_part(bench) in new
    assert readme.updated(new, runs, tmp_path) == new
    empty = readme.updated(TEMPLATE, *[tmp_path / "none"] * 3)
    assert empty.count("*No records yet.*") == 5


def test_every_benchmark_has_its_goal_beside_it(tmp_path, bench):
    (tmp_path / "classification.json").write_text(json.dumps(bench))
    chat = {
        "machine": {"processor": "Other", "threads": 1}, "figure": {"file": "chat.png"},
        "goals": {"speed": 2.0, "memory": 0.8, "loss_difference": 1e-3},
        "summary": {name: {"ours_over_this": {
            "speed": {"ratio_of_medians": 2.5, "paired_ratio_min": 2, "paired_ratio_max": 3},
            "memory": {"ratio_of_medians": 0.9, "paired_ratio_min": 0.8,
                       "paired_ratio_max": 1},
            "loss_difference": 2e-4,
        }} for name in ("trl", "trl-lora")} | {"ours": {"examples_per_second": 2.0}},
        "settings": {"rows": 64, "tokens": 6_400},
        "runs": [{"contestant": name, "seed": s, "repetition": s, "peak_memory_mb": memory}
                 for s in (0, 1) for name, memory in (("ours", 100), ("ours-lora", 70 + 2 * s),
                                      ("ours-lora-recompute", 50 + s))],
    }  # fmt: skip
    (tmp_path / "chat.json").write_text(json.dumps(chat))
    part = readme_bench.goals_part(tmp_path)
    link = "| [classification](benchmarks/results/bench.png) |"
    default = "speed over Trainer, its defaults | 2.55 (2.50 to 2.60) | at least 2.5 |"
    assert f"{link} {default} reached |" in part
    assert "speed over Trainer, tuned | 1.13 (1.11 to 1.16) | at least 1.2 | missed |" in part
    memory = "peak memory over TRL, all parameters | 0.90 (0.80 to 1.00) | at most 0.8 |"
    assert f"|  | {memory} missed |" in part
    assert "1,000 dialogues of 100 tokens, all parameters, minutes at its speed | 8.3 |" in part
    heavy = "peak memory of LoRA over all parameters | 0.71 (0.70 to 0.72) | at most 0.6 |"
    assert f"|  | {heavy} missed |" in part
    light = "of LoRA, recomputing, over all parameters | 0.51 (0.50 to 0.51) | at most 0.6 |"
    assert f"|  | peak memory {light} reached |" in part
    assert "nats | 2.0e-04 | at most 0.001 | reached |" in part
    assert "On A processor (2 threads); Other (1 thread)." in part


def test_every_benchmark_with_goals_is_in_the_table():
    assert set(readme_bench.FINDINGS) | {"growth"} == set(BENCHMARKS)


def test_the_sweep_is_told_by_its_best_settings(small_sweep):
    part = readme.sweep_part(committed_sweep("what_to_train", small_sweep))
    assert "6 runs done, 1 failed, 3 seeds each" in part
    assert "| all | 0.001 | 2 | 61.0 (58.5 to 63.5) | 58.0 (57.0 to 59.0) |" in part
    assert part.index("| all |") < part.index("| head |")
    assert "Shares of the variance of the validation accuracy: train 97 %, lr 97 %" in part


@pytest.mark.parametrize("text", ["no marker", TEMPLATE + TEMPLATE])
def test_missing_or_repeated_markers_are_refused(text):
    with pytest.raises(ParameterError, match="There must be one"):
        readme.put(text, "results", "classification", "x")


def test_the_course_lists_each_notebook_with_its_question_and_minutes():
    lines = readme.course_part().splitlines()
    assert len(lines) == 2 + len(notebooks.sources())
    assert any(
        line.startswith("| 07 | [Text classification](notebooks/07_text_classification.ipynb) ")
        and "?" in line
        for line in lines
    )


def test_the_readme_here_is_up_to_date():
    text = readme.README.read_text(encoding="utf-8")
    assert readme.updated(text) == text, "run: python benchmarks/readme.py"


def test_the_map_of_notebook_00_links_every_notebook_that_exists() -> None:
    folder = PACKAGE.parent / "notebooks" / "src"
    start = (folder / "00_start_here.py").read_text(encoding="utf-8")
    others = {path.stem for path in folder.glob("[0-9]*.py")} - {"00_start_here"}
    assert {stem for stem in others if f"]({stem}.ipynb)" not in start} == set()
