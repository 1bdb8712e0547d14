"""Reports: complete, offline, escaped; tables, effects and fronts that are right."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

from sftkit.course.report import write_report
from sftkit.course.report.rows import Configuration, configurations, effects, pareto, tables
from sftkit.course.sweep import expand, sweep
from sftkit.course.sweep.estimate import distance, duration, estimate
from sftkit.course.sweep.live import SweepBox
from sftkit.course.sweep.status import status_words
from sftkit.course.sweep.store import manifest_of
from sftkit.errors import ParameterError
from tests.sweep.stubs import quick

EVIL = "<img src=x onerror=alert(1)>"


def fill(plan, store: Path, without: int | None = None) -> None:
    """Results of a made-up sweep: the score is x, plus a tenth where kind is fancy."""
    for number, run in enumerate(expand(plan)):
        folder = store / "05_stub" / run.hash[:12]
        folder.mkdir(parents=True)
        if number == without:
            error = f"cell [4] failed {EVIL}"
            content = {"hash": run.hash, "error": error, "cell": 4, "attempts": 2}
            (folder / "failure.json").write_text(json.dumps(content))
            (folder / "notebook.ipynb").write_text("{}")
            continue
        p = run.planned.parameters
        score = p["x"] + (0.1 if p["kind"] != "plain" else 0) + 0.01 * p["seed"]
        curve = [{"step": s, "training_loss": 1 / s, "score": score * s / 3} for s in (1, 2, 3)]
        data = {
            "hash": run.hash,
            "parameters": run.planned.parts["parameters"],
            "metrics": {"score": {"value": score, "low": score - 0.1, "high": score + 0.1}},
            "timings": {"with_page": 10 * p["x"]},
            "peak_memory_gb": 0.5 + p["x"],
            "curves": {"training": curve},
            "files": [],
        }
        (folder / "result.json").write_text(json.dumps(data))
        (folder / "notebook.html").write_text("<p>page</p>")


@pytest.fixture
def store(plan_of, tmp_path, said) -> Path:
    plan = plan_of({"x": [1.0, 2.0, 3.0], "kind": ["plain", EVIL]}, seeds=2)
    fill(plan, tmp_path, without=1)
    sweep(plan, store=tmp_path, work=quick, tell=said, executor="processes:1")
    return tmp_path


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_offline_escaped_and_links_every_notebook(store) -> None:
    written = write_report(store)
    text = written.page.read_text()
    assert written.notes == [] and EVIL not in text
    assert "default-src 'none'" in text
    page = Page(text)
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 4
    assert all(
        i["src"].startswith("data:image/png;base64,") and len(i["alt"]) > 40 for i in images
    )
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
    hrefs = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert not [href for href in hrefs if "://" in href]
    for href in hrefs:
        assert (written.page.parent / unquote(href)).resolve().is_file(), href
    runs = manifest_of(store)["runs"]
    assert all(run["hash"][:12] in text for run in runs) and len(runs) == 12
    for heading in ("Configurations", "What each parameter does", "Learning curves",
                    "Time and memory against quality", "Failed runs", "All runs"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in text


def test_a_page_to_give_away_leads_to_its_own_tables_only(store, tmp_path) -> None:
    written = write_report(store, to=tmp_path / "away", links=False)
    hrefs = {a["href"] for tag, a in Page(written.page.read_text()).tags if tag == "a"}
    assert hrefs and all(
        (written.page.parent / href).parent == tmp_path / "away" for href in hrefs
    )
    text = written.page.read_text()
    assert str(store) not in text
    for heading in ("executed notebook", "as far as it came"):  # no column that is empty
        assert heading not in text and heading in write_report(store).page.read_text()


def test_the_tables_are_tidy_and_agree(store) -> None:
    written = write_report(store)
    csv = pd.read_csv(written.table)
    parquet = pd.read_parquet(written.table.with_suffix(".parquet"))
    assert len(csv) == 12 and list(csv.columns) == list(parquet.columns)
    assert csv["state"].value_counts().to_dict() == {"done": 11, "failed": 1}
    assert set(csv["x"]) == {1.0, 2.0, 3.0} and csv["score"].equals(parquet["score"])
    assert csv.loc[csv["state"] == "failed", "cell"].tolist() == [4]
    curves = pd.read_csv(written.page.parent / "curves.csv")
    assert len(curves) == 11 * 3 * 2 and set(curves["name"]) == {"training_loss", "score"}


def test_configurations_are_ranked_with_intervals_over_seeds(store) -> None:
    found = configurations(tables(store, manifest_of(store)))
    assert [c.chosen["x"] for c in found] == [3, 3, 2, 2, 1, 1]
    assert found[0].mean == pytest.approx(3.105) and len(found[0].runs) == 2
    half = 12.706 * 0.01 / 2  # Student's t with one degree of freedom; spread 0.01 of two
    assert found[0].high - found[0].mean == pytest.approx(half, rel=1e-3)
    alone = [c for c in found if len(c.runs) == 1]
    assert len(alone) == 1 and alone[0].low is None


def test_effects_are_shares_of_the_variance(plan_of, tmp_path, said) -> None:
    plan = plan_of({"x": [1.0, 2.0, 3.0], "kind": ["plain", "fancy"]}, seeds=2)
    fill(plan, tmp_path)
    sweep(plan, store=tmp_path, work=quick, tell=said, executor="processes:1")
    found = effects(tables(tmp_path, manifest_of(tmp_path)))
    assert [e.name for e in found] == ["x", "kind"]
    between = (1.0 + 0 + 1.0) / 3, 0.05**2, 0.005**2  # of x, of kind, of the seed
    assert found[0].share == pytest.approx(between[0] / sum(between))
    assert found[1].share == pytest.approx(between[1] / sum(between))
    assert [m[1] for m in found[0].means] == pytest.approx([1.055, 2.055, 3.055])
    assert [m[0] for m in found[1].means] == ["plain", "fancy"]  # as in the plan


def test_the_front_holds_what_none_beats_in_both() -> None:
    def at(number, mean, seconds):
        return Configuration(number, {}, [], mean, None, None, seconds, None)

    points = [at(0, 0.5, 1), at(1, 0.4, 2), at(2, 0.7, 3), at(3, 0.7, 4), at(4, 0.5, 1.5)]
    assert [c.number for c in pareto(points, maximize=True)] == [0, 2]
    assert [c.number for c in pareto(points, maximize=False)] == [0, 1]


def test_an_unfinished_sweep_says_so(plan_of, tmp_path, said) -> None:
    plan = plan_of({"x": [1.0, 2.0]}, budget={"minutes": 1e-6})
    sweep(plan, store=tmp_path, work=quick, tell=said, executor="processes:1")
    written = write_report(tmp_path)
    assert any("2 runs are not finished" in note for note in written.notes)
    assert any("No run is done" in note for note in written.notes)
    with pytest.raises(ParameterError, match="no sweep"):
        write_report(tmp_path / "empty")


def test_status_tells_counts_the_best_and_the_failed(store) -> None:
    lines = status_words(store, manifest_of(store))
    assert lines[0] == "p: 11 done, 1 failed, of 12 runs"
    assert lines[1].startswith("best:    x=3 kind=<img") and "score 3.11" in lines[1]
    assert [line for line in lines if line.startswith("failed:")]


def test_estimates_follow_the_nearest_runs(plan_of) -> None:
    runs = expand(plan_of({"x": [1.0, 10.0], "kind": ["plain", "fancy"]}))
    known = [
        {
            "parameters": r.planned.parts["parameters"],
            "timings": {"with_page": 5 * r.chosen["x"]},
            "peak_memory_gb": 1.0,
        }
        for r in runs
    ]
    found = estimate(runs, known)
    assert 80 < found.seconds < 150 and found.memory == 1.3
    assert estimate(runs, []).seconds == 4 * 60  # the notebook's own minutes
    assert distance({"a": 1, "seed": 1}, {"a": 1, "seed": 2}) == 0
    assert distance({"a": 2.0, "b": "x"}, {"a": 1.0, "b": "y"}) == pytest.approx(
        1.693, abs=1e-3
    )
    assert [duration(s) for s in (45, 600, 12_000)] == ["45 s", "10 min", "3 h 20 min"]


def test_a_sweep_is_watched_from_a_notebook(plan_of, tmp_path, said) -> None:
    plan = plan_of({"x": [1.0, 2.0], "mode": ["ok", "fail"]})
    fill(plan_of({"x": [1.0, 2.0]}), tmp_path)
    box = SweepBox(plan, tmp_path)
    sweep(plan, store=tmp_path, work=quick, tell=said, watch=box.update, executor="processes:1")
    bar, words, table, image = box.widget.children
    assert (bar.value, bar.max) == (4, 4)
    assert re.search("2 of 4 done, 0 running, 2 failed", words.value)
    assert "x=2" in table.value and bytes(image.value).startswith(b"\x89PNG")
    fig, alt = box.figure()
    assert "Learning curves of 2 runs" in alt
    box.show()
