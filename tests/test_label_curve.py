"""The label curve's records: rows are nested, every start gets the same."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks import label_curve
from sftkit import encode_lm
from sftkit.course import committed_records
from sftkit.errors import ModelError
from sftkit.models.committed import committed_names, load_committed
from sftkit.models.decoder import Decoder, DecoderConfig
from sftkit.models.encoder import Encoder, EncoderConfig


def test_smaller_sets_are_parts_of_larger_ones_and_seeds_differ() -> None:
    data, ten = label_curve.reviews(10, 0)
    _, hundred = label_curve.reviews(100, 0)
    _, other = label_curve.reviews(10, 1)
    assert set(ten["text"]) < set(hundred["text"]) <= set(data["train"]["text"])
    assert set(ten["text"]) != set(other["text"])
    assert sorted(set(ten["label"])) == [0, 1]


def test_every_start_gets_the_same_runs() -> None:
    jobs = label_curve.jobs()
    assert len({str(job) for job in jobs}) == len(jobs)
    for group in ("tuning", "curve"):
        per_start = {
            start: [
                {k: v for k, v in job.items() if k != "start"}
                for job in jobs
                if job["group"] == group and job["start"] == start
            ]
            for start in label_curve.STARTS
        }
        assert per_start["scratch"] == per_start["pretrained"] == per_start["adapted"]
    # A run of the curve comes after all runs that tune its rate.
    for at, job in enumerate(jobs):
        if job["group"] == "curve":
            size = min(job["labels"], label_curve.TUNED_UP_TO)
            needed = [
                i
                for i, other in enumerate(jobs)
                if other["group"] == "tuning" and other["labels"] == size
            ]
            assert max(needed) < at
    assert label_curve.TUNING_SEED not in label_curve.SEEDS


def test_the_rate_is_the_best_on_validation() -> None:
    def run(start, size, lr, accuracy):
        job = {"group": "tuning", "start": start, "labels": size, "lr": lr}
        return {"job": job, "accuracy": accuracy}

    runs = [run("scratch", 100, 1e-3, 0.7), run("scratch", 100, 3e-4, 0.6)]
    runs += [run("scratch", 1_000, 1e-3, 0.7), run("scratch", 1_000, 3e-4, 0.8)]
    runs += [run("adapted", 100, 3e-4, 0.9)]
    assert label_curve.best_rate(runs, "scratch", 100) == 1e-3
    assert label_curve.best_rate(runs, "scratch", 10_000) == 3e-4


def test_committed_records_are_of_the_right_split() -> None:
    for run in committed_records("pretraining"):
        assert run["split"] == ("validation" if run["job"]["group"] == "tuning" else "test")
        assert 0.4 < run["accuracy"] < 1


def test_weights_in_half_precision_are_exact(tmp_path) -> None:
    tokenizer = encode_lm.char_tokenizer(list("abc 好"), 32)
    encoder = Encoder(EncoderConfig(len(tokenizer), 16, 1, 2, 32, 32), "mlm")
    decoder = Decoder(DecoderConfig(len(tokenizer), 16, 1, 2, 2, 32, 32))
    for name, model in (("encoder", encoder), ("decoder", decoder)):
        copy.deepcopy(model).half().save(tmp_path / name, tokenizer)
        loaded, same, record = load_committed(tmp_path / name)
        assert record == {} and same("好Ａ")["input_ids"] == tokenizer("好Ａ")["input_ids"]
        again = copy.deepcopy(loaded).half().float()
        for a, b in zip(loaded.parameters(), again.parameters(), strict=True):
            assert a.dtype == torch.float32 and torch.equal(a, b)
        ids = torch.tensor([[2, 5, 6, 3]])
        # Half precision has 11 bits: rounding moves the logits by less than that, summed up.
        torch.testing.assert_close(
            loaded(ids).logits, model.eval()(ids).logits, rtol=0, atol=5e-3
        )


def test_there_must_be_weights(tmp_path) -> None:
    with pytest.raises(ModelError, match="no weights"):
        load_committed("nothing")
    (tmp_path / "sftkit.json").write_text('{"format": 1, "kind": "tree"}')
    with pytest.raises(ModelError, match="tree"):
        load_committed(tmp_path)


@pytest.mark.parametrize("name", committed_names())
def test_committed_weights_are_what_their_record_says(name) -> None:
    model, tokenizer, record = load_committed(name)
    assert record["evaluations"][-1]["loss"] < record["losses"][0] - 1
    assert record["command"].startswith("python benchmarks/pretraining.py")
    assert len(tokenizer) == model.config.vocab
