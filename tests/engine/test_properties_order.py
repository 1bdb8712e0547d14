"""What holds for all inputs: encoders of texts, samplers, masks, states, seeds and arguments.

The examples are drawn the same way on every run (``derandomize``). Batches, packing, losses and
schedules have more in test_properties.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sftkit import checkpoints, encode, encode_lm, generators, losses, losses_lm, optim, states
from sftkit.arguments import number, whole
from sftkit.batches import IGNORE, Batches, Examples, Ragged
from sftkit.batches_lm import MaskedBatches
from sftkit.course.parameters import Parameter, convert
from sftkit.errors import ParameterError
from sftkit.fingerprint import data_digest
from sftkit.packing import PackedBatches

fixed = settings(max_examples=30, deadline=None, derandomize=True, database=None)
LETTERS = encode_lm.char_tokenizer(list("abc "), max_length=64)
lengths = st.lists(st.integers(1, 12), min_size=1, max_size=30)
letters = st.text("abcx ", max_size=20)


def sequences(sizes: list[int]) -> Examples:
    """Rows of these lengths; ids from 5 on, and every token is its own label."""
    ids = 5 + np.arange(sum(sizes), dtype=np.int32) % 40
    ragged = Ragged(ids, np.array(sizes))
    return Examples({"input_ids": ragged, "labels": ragged, "row": np.arange(len(sizes))})


# -- encode -----------------------------------------------------------------------------------


@settings(fixed, max_examples=8)
@given(st.lists(st.tuples(letters, letters, st.integers(0, 2)), min_size=1, max_size=6),
       st.integers(6, 40), st.booleans())  # fmt: skip
def test_classification_keeps_rows_and_says_what_it_cuts(rows, limit, pairs):
    columns = {"text": [a for a, _, _ in rows], "label": [y for *_, y in rows]}
    if pairs:
        columns["text_pair"] = [b for _, b, _ in rows]
    data = DatasetDict({"train": Dataset.from_dict(columns)})
    encoded = encode.classification(data, LETTERS, limit)["train"]
    assert encoded["row"] == list(range(len(rows))) and encoded["labels"] == columns["label"]
    for found, (a, b, _) in zip(encoded, rows, strict=True):
        (whole_ids,) = LETTERS([a], [b] if pairs else None)["input_ids"]
        ids = found["input_ids"]
        assert found["cut"] == (len(whole_ids) > limit) and len(ids) == min(
            len(whole_ids), limit
        )
        assert ids[0] == LETTERS.cls_token_id and ids[-1] == LETTERS.sep_token_id
        assert ids.count(LETTERS.sep_token_id) == 1 + pairs  # both texts are still there
        if not found["cut"]:
            assert ids == whole_ids


@fixed
@given(st.lists(letters, min_size=1, max_size=5), st.integers(3, 20))
def test_masked_pieces_hold_every_known_letter_once(texts, limit):
    pieces = (
        encode_lm.masked(texts, LETTERS, limit)
        if any(set(t) & set("abc ") for t in texts)
        else []
    )
    for row, text in enumerate(texts):
        known = [i for i in LETTERS(text, add_special_tokens=False)["input_ids"] if i != 1]
        own = [p for p in pieces if p["row"] == row]
        assert [b for p in own for b in p["labels"] if b != IGNORE] == known
        assert all(len(p["input_ids"]) <= limit for p in own)
        for piece in own:
            for a, b in zip(piece["input_ids"], piece["labels"], strict=True):
                assert b in (a, IGNORE)


# -- samplers ---------------------------------------------------------------------------------


@fixed
@given(lengths, st.integers(1, 9), st.booleans(), st.booleans(), st.integers(0, 99), st.data())
def test_an_order_is_a_permutation_of_its_own(sizes, size, by_length, shuffle, seed, data):
    options = {"by_length": by_length, "shuffle": shuffle, "seed": seed}
    batches = Batches(sequences(sizes), size, **options)
    epoch = data.draw(st.integers(0, 5))
    order = batches.order(epoch)
    assert sorted(np.concatenate(order).tolist()) == list(range(len(sizes)))
    assert [len(step) for step in order].count(size) >= len(sizes) // size
    again = Batches(sequences(sizes), size, **options).order(epoch)
    assert all(np.array_equal(a, b) for a, b in zip(order, again, strict=True))
    if not shuffle:
        assert all(np.array_equal(a, b) for a, b in zip(order, batches.order(9), strict=True))
    if by_length:  # within what is sorted together, a step's lengths touch no other step's
        spans = sorted((min(sizes[i] for i in s), max(sizes[i] for i in s)) for s in order)
        assert all(a[1] <= b[0] for a, b in zip(spans[:-1], spans[1:], strict=True))
    start = data.draw(st.integers(0, len(order)))
    late = [
        torch.cat([b["row"] for b in step]).tolist() for step in batches.epoch(epoch, start)
    ]
    assert late == [step.tolist() for step in order[start:]]


@fixed
@given(lengths, st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_layout_does_not_choose_the_examples_of_a_step(sizes, size, micro, seed):
    """Micro-batches and packing move nothing from one optimizer step to another."""
    examples = sequences(sizes)
    kinds = [
        Batches(examples, size, seed=seed, by_length=False),
        Batches(examples, size, micro_batch_size=min(micro, size), seed=seed, by_length=False),
        PackedBatches(examples, size, row_tokens=12 + micro, seed=seed),
    ]
    steps = [
        [sorted(int(r) for b in step for r in b["row"]) for step in k.epoch(2)] for k in kinds
    ]
    assert steps[0] == steps[1] == steps[2]


def masks(batches: MaskedBatches, epoch: int) -> dict[int, tuple[list[int], list[int]]]:
    found = {}
    for step in batches.epoch(epoch):
        for b in step:
            for i, row in enumerate(b["row"].tolist()):
                n = int(b["attention_mask"][i].sum())
                found[row] = (b["input_ids"][i, :n].tolist(), b["labels"][i, :n].tolist())
    return found


@fixed
@given(lengths, st.integers(1, 9), st.integers(1, 9), st.floats(0.05, 1), st.integers(0, 3))
def test_masks_depend_on_seed_epoch_and_row_alone(sizes, size, other, rate, epoch):
    examples = sequences(sizes)
    options = {"mask_id": 4, "tokens": (5, 45), "rate": rate}
    found = masks(MaskedBatches(examples, size, **options), epoch)
    assert found == masks(MaskedBatches(examples, other, by_length=False, **options), epoch)
    whole_rows = [r.tolist() for r in np.split(examples.columns["labels"].values,
                                               np.cumsum(sizes)[:-1])]  # fmt: skip
    for row, (ids, labels) in found.items():
        chosen = [label != IGNORE for label in labels]
        assert any(chosen)  # every piece has something to predict
        for i, (token, label, true) in enumerate(
            zip(ids, labels, whole_rows[row], strict=True)
        ):
            assert label in (true, IGNORE)
            assert token == true or (chosen[i] and (token == 4 or 5 <= token < 45))


@fixed
@given(lengths, st.data())
def test_taking_rows_and_padding_them_loses_nothing(sizes, data):
    examples = sequences(sizes)
    rows = data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=9))
    ours, taken = examples.batch(rows), examples.take(rows).batch(np.arange(len(rows)))
    assert all(torch.equal(ours[name], taken[name]) for name in ours)
    starts = np.cumsum([0, *sizes])
    for i, row in enumerate(rows):
        real = ours["input_ids"][i][ours["attention_mask"][i].bool()].tolist()
        assert (
            real == examples.columns["input_ids"].values[starts[row] : starts[row + 1]].tolist()
        )


@fixed
@given(lengths, st.data())
def test_a_digest_is_of_the_content(sizes, data):
    one, two = sequences(sizes), sequences(sizes)
    assert data_digest(one) == data_digest(two)
    name = data.draw(st.sampled_from(["input_ids", "labels"]))
    two.columns[name] = Ragged(two.columns[name].values.copy(), two.columns[name].lengths)
    two.columns[name].values[data.draw(st.integers(0, sum(sizes) - 1))] += 1
    assert data_digest(one) != data_digest(two)


# -- losses -----------------------------------------------------------------------------------

seeds = st.integers(0, 2**31 - 1)


@fixed
@given(seeds, st.integers(1, 20), st.integers(2, 6), st.floats(0, 0.9), st.booleans())
def test_smoothing_and_weights_are_torchs(seed, rows, classes, smoothing, weighted):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < 0.2] = IGNORE
    labels[0] = 0
    weights = torch.rand(classes, dtype=torch.float64, generator=generator) + 0.1
    options = {"class_weights": weights if weighted else None, "label_smoothing": smoothing}
    loss_sum, n = losses.cross_entropy(logits, labels, **options)
    theirs = functional.cross_entropy(
        logits, labels, weight=options["class_weights"], label_smoothing=smoothing
    )
    assert float(loss_sum / n) == pytest.approx(float(theirs), abs=1e-10)


@fixed
@given(seeds, st.integers(1, 20), st.sampled_from(["squared", "absolute", "huber"]),
       st.floats(0.1, 3), st.integers(0, 20))  # fmt: skip
def test_regression_adds_up_over_any_cut(seed, rows, kind, delta, cut):
    generator = torch.Generator().manual_seed(seed)
    predictions, targets = torch.randn(2, rows, dtype=torch.float64, generator=generator)
    targets[torch.rand(rows, generator=generator) < 0.3] = torch.nan
    options = {"kind": kind, "delta": delta}
    loss_sum, n = losses.regression(predictions, targets, **options)
    assert n == (~targets.isnan()).sum() and loss_sum >= 0
    parts = [losses.regression(predictions[s], targets[s], **options)
             for s in (slice(cut), slice(cut, None))]  # fmt: skip
    assert float(sum(p[0] for p in parts)) == pytest.approx(float(loss_sum), abs=1e-10)
    same, _ = losses.regression(predictions, predictions, **options)
    assert same == 0


@fixed
@given(seeds, st.integers(1, 4), st.integers(2, 9), st.integers(2, 7))
def test_the_shift_pairs_logits_with_the_next_token(seed, rows, tokens, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, tokens, classes, generator=generator)
    labels = torch.randint(0, classes, (rows, tokens), generator=generator)
    a, b = losses_lm.next_token(logits, labels)
    for t in range(tokens - 1):
        assert torch.equal(a[:, t], logits[:, t]) and torch.equal(b[:, t], labels[:, t + 1])


# -- schedules, states, seeds, arguments ------------------------------------------------------


@fixed
@given(st.sampled_from(optim.SCHEDULES), st.integers(1, 40), st.floats(0, 0.9), st.data())
def test_every_schedule_goes_on_from_its_state(name, total, warmup, data):
    scores = data.draw(st.lists(st.floats(-9, 9), min_size=total, max_size=total))
    cut = data.draw(st.integers(0, total))
    whole_run, first = (optim.Schedule(name, total, warmup) for _ in range(2))
    expected = [(whole_run.factor(i), whole_run.observe(s))[0] for i, s in enumerate(scores)]
    found = [(first.factor(i), first.observe(s))[0] for i, s in enumerate(scores[:cut])]
    second = optim.Schedule(name, total, warmup)
    second.restore(json.loads(json.dumps(first.state())))
    found += [
        (second.factor(cut + i), second.observe(s))[0] for i, s in enumerate(scores[cut:])
    ]
    assert found == expected


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
tensors = st.sampled_from([torch.float64, torch.int64, torch.bool, torch.bfloat16]).flatmap(
    lambda kind: st.lists(st.integers(0, 1), max_size=4).map(
        lambda values: torch.tensor(values).to(kind)
    )
)
keys = st.text("abc.0", max_size=4)
trees = st.recursive(
    plain | tensors,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@fixed
@given(st.dictionaries(keys, trees, max_size=4))
def test_any_state_of_a_callback_comes_back(state):
    held: dict[str, torch.Tensor] = {}
    text = json.dumps(states.pack(state, "0", held, None), allow_nan=False)
    assert equal(state, states.unpack(json.loads(text), held))


@fixed
@given(seeds, st.sampled_from(["adamw", "adam", "sgd"]), st.integers(0, 3), st.integers(1, 3))
def test_a_checkpoint_gives_back_model_and_optimizer(seed, name, steps, more):
    """Whatever was done before: what follows is the same, bit for bit."""

    def parts():
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        return model, optim.make_optimizer(name, optim.parameter_groups(model), 0.1)

    def go(model, optimizer, count):
        for _ in range(count):
            model(torch.randn(5, 3)).tanh().pow(2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    model, optimizer = parts()
    go(model, optimizer, steps)
    with tempfile.TemporaryDirectory() as folder:
        saved = checkpoints.save(Path(folder), steps, model, optimizer, {"x": 1})
        go(model, optimizer, more)
        torch.manual_seed(1)
        fresh, again = parts()
        assert checkpoints.restore(saved, fresh, again) == {"x": 1}
        kept = checkpoints.tensors(saved, "generators")
    generators.restore(kept)
    go(fresh, again, more)
    for a, b in zip(model.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@fixed
@given(st.integers(-(2**63), 2**63 - 1), st.lists(st.integers(0, 500), unique=True, min_size=2))
def test_processes_have_seeds_of_their_own_that_torch_takes(seed, indices):
    found = [generators.of_process(seed, index) for index in indices]
    assert len(set(found)) == len(found)
    for value in found:
        torch.Generator().manual_seed(value)


@fixed
@given(st.one_of(plain, st.lists(st.integers(), max_size=2)), st.integers(-2, 5))
def test_arguments_are_numbers_or_refused_by_name(value, least):
    right = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if right:
        assert whole("x", value, least) == value
    else:
        with pytest.raises(ParameterError, match="^x="):
            whole("x", value, least)
    finite = isinstance(value, int | float) and not isinstance(value, bool)
    finite = finite and abs(value) < 1e300 and math.isfinite(value) and value > least
    if finite:
        assert number("x", value, above=least) == value
    elif not isinstance(value, int | float) or isinstance(value, bool) or not value > least:
        with pytest.raises(ParameterError, match="^x="):
            number("x", value, above=least)


KINDS = {"int": st.integers(), "float": st.floats(allow_nan=False, allow_infinity=False),
         "bool": st.booleans(), "list[int]": st.lists(st.integers(), max_size=3),
         "int | None": st.none() | st.integers()}  # fmt: skip


@fixed
@given(st.sampled_from(sorted(KINDS)).flatmap(lambda k: st.tuples(st.just(k), KINDS[k])))
def test_parameters_typed_on_a_command_line_are_those_given_in_python(drawn):
    kind, value = drawn
    parameter = Parameter("p", kind, None, "")
    typed = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    assert convert(parameter, typed) == convert(parameter, value) == value


@fixed
@given(st.sampled_from(sorted(KINDS)), st.text("ab,[]{}. ", min_size=1, max_size=6))
def test_parameters_that_do_not_fit_are_refused(kind, text):
    try:
        found = convert(Parameter("p", kind, None, ""), text)
    except ParameterError as refused:
        assert "parameter p must be of type" in str(refused)
    else:
        assert found == [] and kind.startswith("list")
