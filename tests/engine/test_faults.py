"""Checkpoints that are damaged, put together from two, or of another run; runs that meet."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sftkit import checkpoints, generators, losses, states
from sftkit.batches import Batches
from sftkit.batches_lm import MaskedBatches
from sftkit.errors import CheckpointError, FitError
from sftkit.files import Held, held, read_json, sha256, write_json
from sftkit.fingerprint import data_digest
from sftkit.fit import fit, seed_everything
from sftkit.losses_chunked import causal_lm
from sftkit.losses_lm import masked_lm
from sftkit.packing import PackedBatches
from tests.engine import tiny, tiny_chat


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Stop:
    """Pulls the plug after a step; its checkpoint has not been written by then."""

    def __init__(self, step):
        self.step = step

    def on_step(self, model, state):
        if state.step == self.step:
            raise KeyboardInterrupt

    def on_evaluate(self, model, state):
        pass


def train(folder, *, stop=None, resume=False, model=None, batches=None, loss=None, **options):
    """Nine steps, of which the last three have checkpoints."""
    model = model or tiny.model(dropout=0.2)
    batches = batches or Batches(tiny.examples(20), 8, micro_batch_size=3)
    settings = {"epochs": 3, "lr": 1e-2, "save_every": 1, "keep": 3} | options
    callbacks = [*settings.pop("callbacks", []), *([Stop(stop)] if stop else [])]
    with contextlib.suppress(KeyboardInterrupt):
        fit(
            model,
            batches,
            loss or losses.classification(),
            folder=folder,
            resume=resume,
            callbacks=callbacks,
            **settings,
        )
    return weights(model)


# -- damage -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Checkpoints of steps 5, 6 and 7 of nine, and the weights of the unbroken run."""
    folder = tmp_path_factory.mktemp("interrupted")
    whole = train(None)
    train(folder / "a", stop=8)
    return folder / "a", whole


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def swap(path: Path) -> None:
    """The file of the checkpoint before in place of this one's."""
    shutil.copy(path.parent.with_name("step-00000006") / path.name, path)


FILES = (
    "model.safetensors",
    "optimizer.safetensors",
    "generators.safetensors",
    "state.json",
    "manifest.json",
)
DAMAGE = {"bit": flip, "cut": cut, "empty": lambda p: p.write_bytes(b""), "gone": Path.unlink}
CASES = [(f, d) for f in FILES for d in (*DAMAGE, "swapped")]


@pytest.mark.parametrize(("file", "damage"), CASES)
def test_a_damaged_newest_checkpoint_says_how_to_go_on(interrupted, tmp_path, file, damage):
    """A reader who does what the message says loses one step, and ends with the same bits."""
    source, whole = interrupted
    folder = tmp_path / "run"
    shutil.copytree(source, folder)
    newest = folder / "step-00000007"
    (DAMAGE | {"swapped": swap})[damage](newest / file)
    before = tiny.model(dropout=0.2)
    with pytest.raises(CheckpointError) as caught:
        train(folder, resume=True, model=before)
    said = str(caught.value)
    assert str(newest / file) in said or (file == "manifest.json" and str(newest) in said)
    assert same(weights(before), weights(tiny.model(dropout=0.2))), "nothing was loaded"
    (path,) = re.findall(r"Delete (\S+) and give resume=True again", said) or [newest]
    assert Path(path) == newest and ("step-00000006" in said)
    if file in ("model.safetensors", "manifest.json") and damage in ("cut", "swapped"):
        shutil.rmtree(path)
        assert same(train(folder, resume=True), whole)


def test_without_one_before_it_the_message_says_so(interrupted, tmp_path):
    shutil.copytree(interrupted[0] / "step-00000007", tmp_path / "step-00000007")
    flip(tmp_path / "step-00000007" / "model.safetensors")
    with pytest.raises(CheckpointError, match="There is none before it: start without resume"):
        train(tmp_path, resume=True)


def test_a_renamed_checkpoint_is_seen(interrupted, tmp_path):
    shutil.copytree(interrupted[0] / "step-00000006", tmp_path / "step-00000009")
    with pytest.raises(CheckpointError, match=r"step-00000009 holds the checkpoint of step 6"):
        train(tmp_path, resume=True)


def test_the_state_of_another_run_is_seen(interrupted, tmp_path):
    """Same settings, same data, whole files: but not the run that the folder is of."""
    folder = tmp_path / "run"
    shutil.copytree(interrupted[0], folder)
    train(tmp_path / "b", stop=9, model=tiny.model(dropout=0.2, seed=1))
    shutil.copytree(tmp_path / "b" / "step-00000008", folder / "step-00000008")
    with pytest.raises(CheckpointError, match="step-00000008 is of another run than"):
        train(folder, resume=True)
    # One file of it, with a manifest that has been made to fit.
    shutil.rmtree(folder / "step-00000008")
    mixed = folder / "step-00000007"
    shutil.copy(tmp_path / "b" / "step-00000007" / "state.json", mixed)
    manifest = read_json(mixed / "manifest.json")
    manifest["files"]["state.json"] = sha256(mixed / "state.json")
    write_json(mixed / "manifest.json", manifest)
    with pytest.raises(CheckpointError, match="step-00000007 is put together from two"):
        train(folder, resume=True)


def test_the_best_checkpoint_is_checked_too(tmp_path):
    scores = [0.5, 0.9, 0.7, 0.6, 0.8, 0.7, 0.6, 0.5, 0.4]

    def go(folder, **options):
        left = iter(scores[options.pop("done", 0) :])
        evaluate = lambda model: {"accuracy": next(left)}  # noqa: E731
        more = {"evaluate": evaluate, "evaluate_every": 1, "keep_best": True, "keep": 1}
        return train(folder, **more, **options)

    whole = go(tmp_path / "whole")
    go(tmp_path / "run", stop=6)
    assert [c.name[-1] for c in checkpoints.existing(tmp_path / "run")] == ["2", "5"]
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    assert same(go(tmp_path / "again", resume=True, done=5), whole)
    flip(tmp_path / "run" / "step-00000002" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"the best weights so far, of step 2, .*damaged"):
        go(tmp_path / "run", resume=True, done=5)


# -- another run ------------------------------------------------------------------------------


def other_ids():
    """As many rows and tokens, one id another."""
    examples = tiny.examples(20)
    examples.columns["input_ids"].values[17] ^= 1
    return Batches(examples, 8, micro_batch_size=3)


def other_labels():
    examples = tiny.examples(20)
    examples.columns["labels"][3] = (examples.columns["labels"][3] + 1) % 3
    return Batches(examples, 8, micro_batch_size=3)


def half_frozen():
    model = tiny.model(dropout=0.2)
    for parameter in list(model.parameters())[3:5]:
        parameter.requires_grad_(False)
    return model


OTHERS = {
    "data of the same size": ({"batches": other_ids()}, "examples are others .hash"),
    "labels": ({"batches": other_labels()}, "examples are others .hash"),
    "rows": ({"batches": Batches(tiny.examples(21), 8, micro_batch_size=3)}, "rows was 20"),
    "order": (
        {"batches": Batches(tiny.examples(20), 8, micro_batch_size=3, seed=1)},
        "seed was",
    ),
    "micro-batches": ({"batches": Batches(tiny.examples(20), 8)}, "micro_batch_size was 3"),
    "a larger model": (
        {"model": tiny.model(dropout=0.2, layers=3)},
        "of another model: encoder",
    ),
    "another type": ({"model": tiny.model(dropout=0.2).double()}, "float32 there and torch.fl"),
    "dropout": ({"model": tiny.model(dropout=0.3)}, r"dropout was \[0.2\] and is \[0.3\]"),
    "what is trained": ({"model": half_frozen()}, "other parameters are trained"),
    "smoothing": ({"loss": losses.classification(label_smoothing=0.1)}, "loss was .*smoothing"),
    "rate": ({"lr": 2e-2}, "lr was 0.01 and is 0.02"),
    "schedule": ({"schedule": "cosine"}, "schedule was linear and is cosine"),
    "steps": ({"epochs": 4}, "epochs was 3 and is 4"),
    "seed": ({"seed": 4}, "fit_seed was 0 and is 4"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_run_is_refused(interrupted, name):
    """Before the model is touched, and naming what differs."""
    options, wanted = OTHERS[name]
    before = options.get("model") or tiny.model(dropout=0.2)
    kept = weights(before)
    with pytest.raises(CheckpointError, match=wanted) as caught:
        train(interrupted[0], resume=True, **({"model": before} | options))
    assert "step-00000007" in str(caught.value) and "start without resume" in caught.value.fix
    assert same(weights(before), kept)


def test_precision_that_was_measured_is_kept(interrupted, tmp_path, monkeypatch):
    """`auto` may measure speed; a run that goes on must not change its mind."""
    from sftkit import device

    shutil.copytree(interrupted[0], tmp_path / "run")
    monkeypatch.setattr(device, "auto_precision", lambda kind: "bf16")  # faster now
    assert same(train(tmp_path / "run", resume=True), interrupted[1])
    with pytest.raises(CheckpointError, match="precision was fp32 and is bf16"):
        train(interrupted[0], resume=True, precision="bf16")


def test_a_fresh_start_keeps_what_an_earlier_run_left_until_it_ends(interrupted, tmp_path):
    """Its own checkpoints are not mixed with the earlier ones, which have higher numbers."""
    folder = tmp_path / "run"
    shutil.copytree(interrupted[0], folder)
    with pytest.warns(UserWarning, match="checkpoints of an earlier run are now in"):
        train(folder, stop=3)
    assert [c.name[-1] for c in checkpoints.existing(folder)] == ["1", "2"]
    assert len(checkpoints.existing(folder / "before")) == 3
    assert same(train(folder, resume=True), interrupted[1])
    assert not (folder / "before").exists()


def test_what_a_killed_save_left_is_removed(interrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(interrupted[0], folder)
    (folder / ".step-00000008.abc").mkdir()
    (folder / ".step-00000008.abc" / "model.safetensors").write_bytes(b"half")
    assert same(train(folder, resume=True), interrupted[1])
    assert not list(folder.glob(".step-*"))


# -- bucket, packing and masking state; callbacks; generators ---------------------------------

DECODER = {"loss": causal_lm(4), "epochs": 3, "lr": 1e-2}
KINDS = {
    "sorted by length": lambda: ({}, Batches(tiny.examples(20), 8, by_length=False)),
    "packed": lambda: (
        DECODER | {"model": tiny_chat.decoder()},
        PackedBatches(tiny_chat.examples(20), 8, row_tokens=20),
    ),
    "masked": lambda: (
        {"model": _masked_model(), "loss": masked_lm(), "lr": 1e-2},
        MaskedBatches(tiny_chat.examples(20), 8, mask_id=1, tokens=(5, 50), by_length=True),
    ),
    "plateau": lambda: (
        {"schedule": "plateau", "evaluate": _worse(), "evaluate_every": 1, "patience": 6},
        Batches(tiny.examples(20), 8, micro_batch_size=3),
    ),
}


def _worse():
    """An evaluation that gets worse with the weights' norm, so that the plateau has work."""
    return lambda model: {
        "accuracy": -sum(float(p.detach().norm()) for p in model.parameters())
    }


def _masked_model():
    from transformers import BertForMaskedLM

    torch.manual_seed(0)
    return BertForMaskedLM(tiny.config(dropout=0.2))


@pytest.mark.parametrize("stop", [2, 5])
@pytest.mark.parametrize("name", KINDS)
def test_order_packing_masks_and_plateau_go_on(tmp_path, name, stop):
    def go(folder, **more):
        options, batches = KINDS[name]()
        return train(folder, batches=batches, **options, **more)

    whole = go(None)
    go(tmp_path, stop=stop)
    seed_everything(99)
    assert same(go(tmp_path, resume=True), whole)


def test_in_a_window_of_micro_batches(tmp_path):
    """What is left of a half-made gradient is nothing: the step is made anew."""

    def dying(call):
        inner, calls = losses.classification(), [0]

        def loss(model, batch):
            calls[0] += 1
            if calls[0] == call:
                raise KeyboardInterrupt
            return inner(model, batch)

        return loss

    whole = train(None, loss=dying(0))
    for call in (2, 6, 10):  # three micro-batches a step
        train(tmp_path / str(call), loss=dying(call))
        assert same(train(tmp_path / str(call), loss=dying(0), resume=True), whole)


class Average:
    """Keeps a running mean of the weights, and adds a little of it."""

    def __init__(self):
        self.mean, self.seen, self.worst = None, 0, -float("inf")

    def on_step(self, model, state):
        bias = model.classifier.bias.data
        self.mean = bias.clone() if self.mean is None else 0.7 * self.mean + 0.3 * bias
        bias += 0.1 * self.mean
        self.seen += 1

    def on_evaluate(self, model, state):
        pass

    def state_dict(self):
        return {"mean": self.mean, "seen": self.seen, "worst": self.worst, "list": [1, [2.5]]}

    def load_state_dict(self, state):
        assert state["list"] == [1, [2.5]]
        self.mean, self.seen, self.worst = state["mean"], state["seen"], state["worst"]


class Forgetful(Average):
    """Broken variant: it is not saved."""

    state_dict = load_state_dict = property()  # hasattr says no


def test_a_callback_that_remembers_goes_on(tmp_path):
    whole = train(None, callbacks=[Average()])
    train(tmp_path / "a", stop=5, callbacks=[Average()])
    resumed = Average()
    assert same(train(tmp_path / "a", resume=True, callbacks=[resumed]), whole)
    assert resumed.seen == 9 and resumed.worst == -float("inf")
    train(tmp_path / "b", stop=5, callbacks=[Forgetful()])
    assert not same(train(tmp_path / "b", resume=True, callbacks=[Forgetful()]), whole)


def test_callbacks_must_be_those_that_the_run_began_with(tmp_path):
    train(tmp_path, stop=5, callbacks=[Average()])
    with pytest.raises(CheckpointError, match=r"were \['Average'\] and are \[\]"):
        train(tmp_path, resume=True)

    class Odd(Average):
        def state_dict(self):
            return {"open": {1, 2}}

    with pytest.raises(CheckpointError, match=r"state of Odd holds a set at 0\.open"):
        train(tmp_path / "odd", callbacks=[Odd()])


@pytest.mark.parametrize("draws", [0, 1, 2, 3])
def test_every_generator_comes_back(draws):
    """Normal numbers are made in pairs: after an odd number of draws one waits."""
    seed_everything(5)
    for _ in range(draws):
        np.random.normal(), random.gauss(0, 1), torch.randn(3)
    kept = {k: v.clone() for k, v in generators.capture().items()}
    expected = [
        np.random.normal(),
        random.gauss(0, 1),
        torch.randn(3).tolist(),
        random.random(),
    ]
    seed_everything(6)
    generators.restore(kept)
    found = [np.random.normal(), random.gauss(0, 1), torch.randn(3).tolist(), random.random()]
    assert found == expected


def test_processes_start_from_other_seeds_and_the_first_from_the_given_one():
    assert generators.of_process(7, 0) == 7
    assert len({generators.of_process(7, i) for i in range(64)}) == 64
    assert generators.of_process(2**63 - 1, 5) < 2**63


# -- the parts --------------------------------------------------------------------------------


def test_the_digest_sees_every_column():
    def changed(change):
        examples = tiny.examples(20, per_token=True)
        change(examples)
        return data_digest(examples)

    def move(examples):  # the same tokens, cut elsewhere
        lengths = examples.columns["input_ids"].lengths
        lengths[0], lengths[1] = lengths[0] + 1, lengths[1] - 1

    changes = {
        "nothing": lambda e: None,
        "ids": lambda e: e.columns["input_ids"].values.__setitem__(0, 1),
        "labels": lambda e: e.columns["labels"].values.__setitem__(5, -100),
        "rows": lambda e: e.columns["row"].__setitem__(2, 99),
        "lengths": move,
        "padding": lambda e: setattr(e, "pad_id", 9),
        "texts": lambda e: e.columns.update(text=np.array(["a"] * 20, dtype=object)),
        "other texts": lambda e: e.columns.update(text=np.array(["b"] * 20, dtype=object)),
    }
    found = {name: changed(change) for name, change in changes.items()}
    assert len(set(found.values())) == len(changes) and found["nothing"] == changed(lambda e: 0)


def test_states_go_through_json():
    tensors: dict = {}
    state = {"a": [1, (2.5, None)], "b": {"t": torch.arange(3)}, "c": float("nan"), "d": True}
    plain = json.loads(json.dumps(states.pack(state, "0", tensors, None), allow_nan=False))
    back = states.unpack(plain, tensors)
    assert back["a"] == [1, [2.5, None]] and back["d"] is True and np.isnan(back["c"])
    assert torch.equal(back["b"]["t"], torch.arange(3))


def test_a_folder_is_held_by_one(tmp_path):
    with held(tmp_path / "a"):
        with (
            pytest.raises(Held, match=r"process \d+ on .*, since 20\d\d-"),
            held(tmp_path / "a"),
        ):
            pass
        with held(tmp_path / "b"):
            pass
    with held(tmp_path / "a"):
        pass


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="file cannot hold checkpoints: .*xists"):
        train(tmp_path / "file")
    with held(tmp_path / "a"), pytest.raises(FitError, match="is in use by process"):
        train(tmp_path / "a")
