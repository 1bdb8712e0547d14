"""A module of the reader's own, as notebook 06 uses it: trained, resumed, evaluated, saved."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sftkit import checkpoints, losses, models
from sftkit.batches import Batches, Examples, Ragged
from sftkit.errors import ModelError, ParameterError
from sftkit.evaluate import evaluation, predict
from sftkit.fit import fit
from sftkit.optim import parameter_groups


class Own(nn.Module):
    """Convolution over words, pooled; no ``config`` and no ``base_model``."""

    def __init__(self, dropout=0.3):
        super().__init__()
        self.embedding = nn.Embedding(30, 8, padding_idx=0)
        self.convolution = nn.Conv1d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)  # has buffers that training moves
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        x = torch.relu(self.convolution(self.embedding(input_ids).mT)).mT
        pooled = (x * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        return SimpleNamespace(logits=self.dense(self.dropout(self.norm(pooled))))


def own(**options):
    torch.manual_seed(0)
    return Own(**options)


def examples(rows=40):
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 9, size=rows)
    words = Ragged(generator.integers(1, 30, size=lengths.sum()), lengths)
    labels = np.array([words.values[words.starts[i]] % 3 for i in range(rows)])
    return Examples({"input_ids": words, "labels": labels, "row": np.arange(rows)})


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def test_it_learns_and_is_evaluated():
    model = own()
    batches = Batches(examples(), 8)
    evaluate = evaluation(examples())
    state = fit(model, batches, losses.classification(), evaluate=evaluate, epochs=25, lr=1e-2)
    assert state.losses[-1] < 0.7 * state.losses[0]
    assert predict(model, examples()).accuracy > 0.7


@pytest.mark.parametrize("stop", [2, 7])
def test_resume_in_the_middle_of_an_epoch_with_buffers(tmp_path, stop):
    def train(folder, resume=False, stop=None):
        class Plug:
            def on_step(self, model, state):
                if state.step == stop:
                    raise KeyboardInterrupt

            def on_evaluate(self, model, state):
                pass

        model = own()
        batches = Batches(examples(), 8, micro_batch_size=3)
        with contextlib.suppress(KeyboardInterrupt):
            fit(model, batches, losses.classification(), folder=tmp_path / folder,
                resume=resume, callbacks=[Plug()], save_every=1, epochs=3, lr=1e-2)  # fmt: skip
        return {k: v.clone() for k, v in model.state_dict().items()}

    whole = train("whole")
    stopped = train("stopped", stop=stop)
    torch.manual_seed(99)
    assert not same(stopped, whole)
    assert same(train("stopped", resume=True), whole)


def test_the_best_checkpoint_and_a_file_of_its_own_give_the_same_logits(tmp_path):
    model = own()
    fit(model, Batches(examples(), 8), losses.classification(), folder=tmp_path, epochs=1)
    expected = predict(model, examples()).logits
    again = own()
    checkpoints.load_model(checkpoints.existing(tmp_path)[-1], again)
    assert np.array_equal(predict(again, examples()).logits, expected)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    again = own()
    again.load_state_dict(load_file(tmp_path / "own.safetensors"))
    assert np.array_equal(predict(again, examples()).logits, expected)


def test_what_needs_a_model_of_transformers_says_so(tmp_path):
    with pytest.raises(ModelError, match=r"safetensors\.torch\.save_model"):
        models.save(own(), None, tmp_path / "model")
    with pytest.raises(ParameterError, match="no trained part of Own is its head"):
        parameter_groups(own(), head_lr_factor=10.0)
    names = {group["name"] for group in parameter_groups(own())}
    assert names == {"body", "body decayed"}
