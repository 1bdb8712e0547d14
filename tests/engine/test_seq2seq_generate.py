"""Writing targets: greedy as transformers, beams as exhaustive search, cache as no cache."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch

from sftkit.errors import ParameterError
from sftkit.models import seq2seq_generate
from sftkit.models.sampling import Sampling
from sftkit.models.seq2seq import Seq2Seq
from sftkit.models.seq2seq_generate import beam_search, generate
from tests.engine import tiny_pairs
from tests.engine.test_seq2seq import SIZES, bart, batch_of

BEGIN, STOP = tiny_pairs.BEGIN, tiny_pairs.STOP
SOURCES = batch_of(50)
SOURCE = {name: SOURCES[name] for name in ("input_ids", "attention_mask")}


def log_prob(model, source, ids):
    """Of a whole target, in one pass and without a cache."""
    given = torch.tensor([[BEGIN, *ids[:-1]]])
    with torch.no_grad():
        logits = model(*source, given).logits[0].log_softmax(dim=-1)
    return sum(float(logits[t, token]) for t, token in enumerate(ids))


def talkative(seed=0, **sizes):
    """The random model's logits are large: without this it always writes the same."""
    model = tiny_pairs.model(seed, **sizes).train()
    with torch.no_grad():
        model.embeddings.weight *= 0.3
    return model


def test_greedy_is_transformers(tmp_path):
    theirs = bart(*SIZES[0]).double()
    theirs.save_pretrained(tmp_path)
    ours = Seq2Seq.from_bart(tmp_path).double()
    expected = theirs.generate(**SOURCE, max_new_tokens=12, num_beams=1, do_sample=False)
    stopped = 0
    for found, row in zip(generate(ours, **SOURCE, most=12), expected.tolist(), strict=True):
        text = row[1:]
        if STOP in text:
            stopped, text = stopped + 1, text[: text.index(STOP)]
        assert found.ids == text and found.stopped == (STOP in row)
    assert len({tuple(w.ids) for w in generate(ours, **SOURCE, most=12)}) > 1


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9), Sampling(1.0, 5, 0.9, 1.3)])
def test_with_and_without_a_cache_and_with_its_own_probability(sampling):
    model = talkative()
    found = []
    for cache in (True, False):
        drawn = torch.Generator().manual_seed(5)
        found.append(
            generate(model, **SOURCE, most=9, sampling=sampling, generator=drawn, cache=cache)
        )
    for row, (a, b) in enumerate(zip(*found, strict=True)):
        assert a.ids == b.ids and a.log_prob == pytest.approx(b.log_prob, rel=1e-10)
        source = [SOURCE[name][row : row + 1] for name in ("input_ids", "attention_mask")]
        whole = a.ids + [STOP] * a.stopped
        assert a.log_prob == pytest.approx(log_prob(model.eval(), source, whole), rel=1e-10)
    again = beam_search(model, **SOURCE, most=9, beams=3, best=3, cache=False)
    kept = beam_search(model, **SOURCE, most=9, beams=3, best=3)
    assert [[w.ids for w in row] for row in again] == [[w.ids for w in row] for row in kept]


def test_one_by_one_is_all_together():
    model = talkative(1)
    for write in (generate, lambda *a, **k: [r[0] for r in beam_search(*a, **k, beams=3)]):
        together = write(model, **SOURCE, most=8)
        for row, found in enumerate(together):
            length = int(SOURCE["attention_mask"][row].sum())
            (alone,) = write(model, SOURCE["input_ids"][row : row + 1, :length], most=8)
            assert alone.ids == found.ids
            assert alone.log_prob == pytest.approx(found.log_prob, rel=1e-9)
    assert model.training  # as it was


def test_one_beam_is_greedy():
    model = talkative(2)
    greedy = generate(model, **SOURCE, most=8)
    beams = beam_search(model, **SOURCE, most=8, beams=1, length_penalty=0.0)
    assert [row[0].ids for row in beams] == [found.ids for found in greedy]


# ------------------------------------------------------------------- against every target

TOY, MOST = 5, 4


def every_target():
    """All that can be written: ended by the stop token, or as long as allowed."""
    others = [token for token in range(TOY) if token != STOP]
    for length in range(MOST + 1):
        for ids in itertools.product(others, repeat=length):
            if length < MOST:
                yield list(ids), True
            else:
                yield list(ids), False


@functools.cache
def toy(seed):
    """A model, a source, and the log probability of everything that it can write."""
    model = talkative(seed, vocab=TOY, width=8, heads=2).eval()
    with torch.no_grad():
        model.embeddings.weight *= 4
    source = torch.tensor([[3, 4, seed, STOP]])
    known = []
    for ids, stopped in every_target():
        whole = ids + [STOP] * stopped
        known.append((log_prob(model, (source, None), whole), len(whole), ids))
    return model, source, known


def exhaustive(seed, power):
    scored = [(total / length**power, ids, total) for total, length, ids in toy(seed)[2]]
    return sorted(scored, key=lambda found: -found[0])


@pytest.mark.parametrize("power", [0.0, 0.6, 1.0, 2.0, -0.5])
def test_a_beam_of_everything_is_exhaustive_search(power):
    wide = (TOY - 1) ** MOST + 100
    for seed in range(2):
        model, source, _ = toy(seed)
        expected = exhaustive(seed, power)
        (found,) = beam_search(
            model, source, beams=wide, best=20, length_penalty=power, most=MOST
        )
        for written, (score, ids, total) in zip(found, expected, strict=False):
            assert written.ids == ids
            assert written.score == pytest.approx(score, rel=1e-9)
            assert written.log_prob == pytest.approx(total, rel=1e-9)
        # Every target is there once: their probabilities add up to 1.
        (whole,) = beam_search(model, source, beams=wide, best=wide, most=MOST)
        assert sum(math.exp(w.log_prob) for w in whole) == pytest.approx(1, abs=1e-9)
        assert len({tuple(w.ids) for w in whole}) == len(whole) == len(expected)


def test_narrow_beams_find_less_and_length_penalties_favour_long_targets():
    gaps, lengths = [], []
    for seed in range(3):
        model, source, _ = toy(seed)
        best = exhaustive(seed, 1.0)[0][0]
        scores = [
            beam_search(model, source, beams=k, most=MOST)[0][0].score
            for k in (1, 2, 4, 16, 64)
        ]
        assert max(scores) <= best + 1e-9 and scores[-1] == pytest.approx(best, rel=1e-9)
        gaps.append(best - scores[0])
        lengths.append(
            [
                len(beam_search(model, source, beams=64, most=MOST, length_penalty=p)[0][0].ids)
                for p in (-1.0, 0.0, 1.0, 3.0)
            ]
        )
    assert max(gaps) > 1e-3  # greedy misses the best somewhere
    assert all(row == sorted(row) for row in lengths) and any(r[0] < r[-1] for r in lengths)


def test_the_detector_of_a_search_that_ends_too_early(monkeypatch):
    """Broken variant: done as soon as there are enough finished targets."""
    monkeypatch.setattr(
        seq2seq_generate._Finished, "done", lambda self, highest, step: bool(self.found)
    )
    with pytest.raises(AssertionError):
        test_a_beam_of_everything_is_exhaustive_search(1.0)


def test_impossible_wishes_are_refused():
    model = talkative()
    for options in ({"beams": 0}, {"beams": 2, "best": 3}, {"length_penalty": float("nan")}):
        with pytest.raises(ParameterError, match=next(iter(options))):
            beam_search(model, **SOURCE, **options)
    for most in (0, 41):
        with pytest.raises(ParameterError, match=f"most={most}"):
            generate(model, **SOURCE, most=most)
