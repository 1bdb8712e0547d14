"""What holds for all inputs: encoders, batches, packing, losses and schedules.

The examples are drawn the same way on every run (``derandomize``).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sftkit import encode_chat, encode_lm, losses, losses_chunked, optim
from sftkit.batches import IGNORE, Batches, Examples, Ragged
from sftkit.packing import PackedBatches, first_fit_decreasing
from tests.engine.tiny_chat import START, STOP, talk, tokenizer

fixed = settings(max_examples=30, deadline=None, derandomize=True, database=None)
CHAT = tokenizer()
STOP_ID = CHAT.eos_token_id
LETTERS = encode_lm.char_tokenizer(list("abc "), max_length=64)

content = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: START not in text and STOP not in text
)
talks = st.lists(st.lists(content, min_size=2, max_size=5), min_size=1, max_size=4)
lengths = st.lists(st.integers(1, 12), min_size=1, max_size=40)


def sequences(sizes: list[int]) -> Examples:
    """Rows of these lengths, every token with a number of its own."""
    ids = np.arange(sum(sizes), dtype=np.int32)
    ragged = Ragged(ids, np.array(sizes))
    return Examples({"input_ids": ragged, "labels": ragged, "row": np.arange(len(sizes))})


# -- encode -----------------------------------------------------------------------------------


@fixed
@given(talks, st.integers(16, 200))
def test_conversations(turns, limit):
    """Nothing is lost, answers and stops alone are supervised, a limit cuts the end only."""
    messages = [talk(*row) for row in turns]
    whole, coverage = encode_chat.conversations(messages, CHAT, 512)
    assert coverage.cut == coverage.unsupervised == coverage.unstopped == ()
    for row, talked in zip(whole, messages, strict=True):
        ids, labels = row["input_ids"], row["labels"]
        assert CHAT.decode(ids) == CHAT.apply_chat_template(talked, tokenize=False)
        assert all(b in (a, IGNORE) for a, b in zip(ids, labels, strict=True))
        answers = [turn["content"] + STOP for turn in talked if turn["role"] == "assistant"]
        assert CHAT.decode([b for b in labels if b != IGNORE]) == "".join(answers)
    try:
        cut, coverage = encode_chat.conversations(messages, CHAT, limit)
    except encode_chat.EncodeError:
        cut = []
        assert all(not any(b != IGNORE for b in row["labels"][:limit]) for row in whole)
    for row in cut:
        full = whole[row["row"]]
        for name in ("input_ids", "labels"):
            assert row[name] == full[name][:limit]
        assert row["cut"] == (len(full["input_ids"]) > limit)
        assert any(b != IGNORE for b in row["labels"])


@fixed
@given(st.lists(st.text("abcx "), min_size=1, max_size=5), st.integers(3, 20))
def test_language_models_see_every_token(texts, limit):
    causal = encode_lm.causal(texts, LETTERS, limit)
    for row, text in enumerate(texts):
        predicted = [b for p in causal if p["row"] == row for b in p["labels"] if b != IGNORE]
        assert predicted == LETTERS(text)["input_ids"][1:]
    assert all(len(piece["input_ids"]) <= limit for piece in causal)


# -- batches and packing ----------------------------------------------------------------------


@fixed
@given(lengths, st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 3))
def test_batches_hold_every_row_once_and_pad_only_the_end(sizes, size, micro, by_length, epoch):
    examples = sequences(sizes)
    batches = Batches(
        examples, size, micro_batch_size=min(size, micro), by_length=by_length, seed=epoch
    )
    steps, seen = list(batches.epoch(epoch)), []
    assert len(steps) == len(batches)
    for step in steps:
        assert sum(len(batch["row"]) for batch in step) <= size
        for batch in step:
            assert batch["attention_mask"].sum(dim=1).max() == batch["input_ids"].shape[1]
            for i, row in enumerate(batch["row"].tolist()):
                n = sizes[row]
                start = sum(sizes[:row])
                assert batch["input_ids"][i, :n].tolist() == list(range(start, start + n))
                assert (batch["labels"][i, n:] == IGNORE).all()
                assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (
                    batch["input_ids"].shape[1] - n
                )
                seen.append(row)
    assert sorted(seen) == list(range(len(sizes)))


@fixed
@given(lengths, st.integers(12, 40))
def test_bins_hold_every_item_once_and_are_few(sizes, room):
    bins = first_fit_decreasing(sizes, room)
    assert sorted(item for items in bins for item in items) == list(range(len(sizes)))
    fills = [sum(sizes[item] for item in items) for items in bins]
    assert max(fills) <= room
    least = math.ceil(sum(sizes) / room)
    # Two bins that are both at most half full would have been one.
    assert sum(fill <= room / 2 for fill in fills) <= 1
    assert len(bins) <= 2 * least


@fixed
@given(lengths, st.integers(1, 9), st.integers(12, 40), st.integers(1, 3), st.data())
def test_packed_rows_give_back_every_example_once(sizes, size, room, rows, data):
    batches = PackedBatches(sequences(sizes), size, row_tokens=room, rows=rows, seed=1)
    epoch, seen = data.draw(st.integers(0, 3)), []
    steps = list(batches.epoch(epoch))
    for step in steps:
        for batch in step:
            assert batch["input_ids"].shape[1] <= room
            number = iter(batch["row"].tolist())
            for i in range(len(batch["document"])):
                for document in range(int(batch["document"][i].max()) + 1):
                    row = next(number)
                    here = (batch["document"][i] == document).nonzero().flatten().tolist()
                    assert here == list(range(here[0], here[0] + sizes[row]))  # in one piece
                    start = sum(sizes[:row])
                    own = list(range(start, start + sizes[row]))
                    assert batch["input_ids"][i, here].tolist() == own
                    assert batch["labels"][i, here].tolist() == [IGNORE, *own[1:]]
                    assert batch["position_ids"][i, here].tolist() == list(range(sizes[row]))
                    seen.append(row)
            assert next(number, None) is None
    assert sorted(seen) == list(range(len(sizes)))
    start = data.draw(st.integers(0, len(steps)))
    late = list(batches.epoch(epoch, start=start))
    for step, other in zip(steps[start:], late, strict=True):
        for a, b in zip(step, other, strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)


# -- losses -----------------------------------------------------------------------------------

numbers = st.integers(0, 2**31 - 1)


@fixed
@given(numbers, st.integers(1, 30), st.integers(2, 7), st.integers(0, 30), st.floats(-50, 50))
def test_cross_entropy(seed, rows, classes, cut, shift):
    """Sums add up over any cut; logits may be shifted; and it is torch's, chunked or not."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(rows, classes, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    hidden = torch.rand(rows, generator=generator) < 0.3
    labels[hidden] = IGNORE
    loss_sum, n = losses.cross_entropy(logits, labels)
    assert n == (~hidden).sum() and loss_sum >= 0
    parts = [losses.cross_entropy(a, b) for a, b in ((logits[:cut], labels[:cut]),
                                                     (logits[cut:], labels[cut:]))]  # fmt: skip
    assert sum(float(p[0]) for p in parts) == pytest.approx(float(loss_sum), abs=1e-10)
    assert sum(int(p[1]) for p in parts) == n
    moved, _ = losses.cross_entropy(logits + shift, labels)
    assert float(moved) == pytest.approx(float(loss_sum), abs=1e-9)
    chunked = losses_chunked.linear_cross_entropy(
        logits[~hidden], torch.eye(classes, dtype=torch.float64), labels[~hidden], max(cut, 1)
    )
    assert float(chunked) == pytest.approx(float(loss_sum), abs=1e-10)


@fixed
@given(numbers, st.integers(1, 12), st.integers(2, 6), st.floats(0, 5))
def test_focal_is_never_above_cross_entropy(seed, rows, classes, gamma):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(rows, classes, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    focal, n = losses.focal(logits, labels, gamma=gamma)
    whole, _ = losses.cross_entropy(logits, labels)
    assert 0 <= focal <= whole + 1e-12 and n == rows


# -- schedules --------------------------------------------------------------------------------


@fixed
@given(st.sampled_from(optim.SCHEDULES), st.integers(1, 200), st.floats(0, 0.99))
def test_schedules_rise_once_and_then_never_again(name, total, warmup):
    schedule = optim.Schedule(name, total, warmup)
    factors = [schedule.factor(step) for step in range(total)]
    top = min(schedule.warmup_steps, total - 1)
    assert all(0 < factor <= 1 for factor in factors)  # no step is wasted
    assert all(a < b for a, b in zip(factors[:top], factors[1 : top + 1], strict=True))
    after = factors[top:]
    assert all(a >= b for a, b in zip(after[:-1], after[1:], strict=True))
    if schedule.warmup_steps < total:
        assert factors[top] == 1.0


@fixed
@given(st.lists(st.floats(-1, 1), max_size=12), st.integers(0, 12), st.integers(1, 3))
def test_a_plateau_goes_on_from_its_state(scores, cut, patience):
    whole, parted = (optim.Schedule("plateau", 50, patience=patience) for _ in range(2))
    for score in scores:
        whole.observe(score)
    for score in scores[:cut]:
        parted.observe(score)
    resumed = optim.Schedule("plateau", 50, patience=patience)
    resumed.restore(parted.state())
    for score in scores[cut:]:
        resumed.observe(score)
    assert resumed.state() == whole.state() and 0 < whole.factor(20) <= 1
