"""The runs of notebook 19: what they depend on, and that the records are whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import search
from sftkit.course.report.committed import committed_sweep
from sftkit.course.report.rows import best_by, configurations
from sftkit.course.sweep import Plan
from sftkit.errors import CorpusError
from sftkit.lessons import heads

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def data() -> dict[str, heads.Split]:
    """Two classes that one feature tells apart."""
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for name, rows in (("train", 96), ("validation", 60), ("test", 60)):
        x = torch.randn(rows, 6, generator=generator)
        parts[name] = heads.Split(x, (x[:, 0] > 0).long())
    return parts


SETTING = {"lr": 5e-2, "batch_size": 32, "dropout": 0.2, "weight_decay": 0.0, "epochs": 4}


def test_a_run_learns_and_depends_on_its_settings_and_seed_alone(data) -> None:
    first = heads.train_head(data, SETTING, 0)
    torch.rand(5)  # what was drawn before does not matter
    again, other = heads.train_head(data, SETTING, 0), heads.train_head(data, SETTING, 1)
    assert len(first["validation"]) == 4 and first["test"] > 0.8
    assert again["validation"] == first["validation"]
    assert other["validation"] != first["validation"]
    slow = heads.train_head(data, SETTING | {"lr": 1e-6}, 0)
    assert slow["test"] < first["test"]


def test_features_survive_a_file(data, tmp_path) -> None:
    heads.save(data, tmp_path / "f.npz")
    back = heads.load(tmp_path / "f.npz")
    assert back.keys() == data.keys()
    assert all(torch.equal(back[s].x, data[s].x) for s in data)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for path in ("none.npz", "other.npz"):
        with pytest.raises(CorpusError, match="holds no features"):
            heads.load(tmp_path / path)


def test_the_records_are_whole() -> None:
    runs = search.CAMPAIGN.read()
    assert [run["job"] for run in runs] == search.jobs()
    for run in runs:
        assert np.array(run["validation"]).shape == (len(search.SEEDS), heads.EPOCHS)
        assert len(run["test"]) == len(run["seeds"]) == len(search.SEEDS)
        assert np.min(run["validation"]) > 0.2 and np.max(run["test"]) < 0.9
    assert len({run["torch"] for run in runs}) == 1


def test_the_campaign_goes_on_where_it_was(tmp_path, monkeypatch, data, capsys) -> None:
    monkeypatch.setattr(heads, "settings", lambda: [SETTING, SETTING | {"lr": 1e-3}])
    monkeypatch.setattr(search, "data", lambda: data)
    monkeypatch.setattr(search, "SEEDS", (0, 1))
    campaign = replace(search.CAMPAIGN, records=tmp_path / "search.json")
    campaign.do(SETTING)
    before = campaign.read()
    campaign.main("doc", [])
    after = campaign.read()
    assert after[0] == before[0] and len(after) == 2
    campaign.main("doc", [])
    assert "0 of 2 runs to do" in capsys.readouterr().out


def test_the_plan_for_readers_is_valid() -> None:
    plan = Plan.read(ROOT / "notebooks" / "plans" / "head_search.yaml")
    assert plan.search.method == "tpe" and plan.most_runs == 12
    assert {entry.name for entry in plan.entries} <= {p.name for p in plan.prepared.known}


def test_a_committed_sweep_is_read_as_a_store_is(small_sweep, tmp_path) -> None:
    assert committed_sweep("what_to_train", tmp_path / "elsewhere") is None
    found = committed_sweep("what_to_train", small_sweep)
    assert found is not None and len(found.done()) == 6
    best, second = configurations(found)
    assert best.chosen == {"train": "all", "lr": 1e-3, "epochs": 2}
    assert best.mean == pytest.approx(0.61) and second.mean == pytest.approx(0.51)
    assert best_by(found, "epochs") == [best] and best_by(found, "train") == [best, second]
