"""Packing is refused for models whose layers do not ask the mask, and right for all others."""

from __future__ import annotations

import pytest
import torch

from sftkit import losses_chunked, packed_attention
from sftkit.batches import Batches
from sftkit.errors import ParameterError
from sftkit.losses_lm import causal_inputs, causal_lm
from sftkit.packing import PackedBatches
from tests.engine import tiny_chat

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 32, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


def made(name, **more):
    """A model with large weights, so that every path matters."""
    import transformers

    torch.manual_seed(0)
    kind = "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config"
    model = getattr(transformers, f"{name}ForCausalLM")(
        getattr(transformers, kind)(**SIZES | more)
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def mean_loss(model, batches, loss):
    total = count = 0.0
    with torch.no_grad():
        for step in batches.epoch(0):
            for batch in step:
                part, n = loss(model, batch)
                total, count = total + float(part), count + int(n)
    return total / count


def both(examples):
    return (
        Batches(examples, 12, shuffle=False),
        PackedBatches(examples, 12, row_tokens=60, shuffle=False),
    )


@pytest.mark.parametrize("loss", [causal_lm, losses_chunked.causal_lm])
@pytest.mark.parametrize(
    ("name", "more"),
    [("Llama", {}), ("Qwen3", {"head_dim": 4}), ("Mistral", {"sliding_window": 13})],
)
def test_packed_rows_have_the_loss_of_padded_ones(name, more, loss):
    model = made(name, **more)
    padded, packed = (mean_loss(model, b, loss()) for b in both(tiny_chat.examples(12)))
    assert packed == pytest.approx(padded, abs=1e-9)


@pytest.mark.parametrize("loss", [causal_lm, losses_chunked.causal_lm])
def test_a_model_with_convolutions_is_refused(loss):
    model = made("Lfm2", layer_types=["conv", "full_attention"])
    examples = tiny_chat.examples(12)
    with pytest.raises(ParameterError, match="Lfm2ForCausalLM does not keep packed documents"):
        mean_loss(model, both(examples)[1], loss())
    assert mean_loss(model, both(examples)[0], loss()) > 0  # padded rows are well


def test_without_the_trial_documents_would_see_each_other(monkeypatch):
    model = made("Lfm2", layer_types=["conv", "full_attention"])
    monkeypatch.setattr(packed_attention, "keeps_apart", lambda model: True)
    padded, packed = (mean_loss(model, b, causal_lm()) for b in both(tiny_chat.examples(12)))
    assert abs(packed - padded) > 1e-3


@pytest.mark.parametrize(("name", "more"), [("Mistral", {}), ("Gemma3", {"head_dim": 4})])
def test_a_window_shorter_than_a_document_is_refused(name, more):
    model = made(name, **more, sliding_window=4)
    with pytest.raises(ParameterError, match=r"has \d+ tokens, and some layers .* look back 4"):
        mean_loss(model, both(tiny_chat.examples(12))[1], causal_lm())


def test_the_trial_is_made_once_and_leaves_the_model_alone(monkeypatch):
    model = made("Llama")
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    for step in both(tiny_chat.examples(12))[1].epoch(0):
        for batch in step:
            causal_inputs(model, batch)
    assert len(calls) == 3
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(state, torch.random.get_rng_state())
