"""New tokens: their rows, their ids, and models that go on as before."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel, LlamaConfig, LlamaForCausalLM

from sftkit.errors import ModelError, ParameterError
from sftkit.models import MeanPoolClassifier, added_tokens, lora
from sftkit.models.encoder import Encoder, EncoderConfig
from tests.engine import tiny_chat

KNOWN = 263  # tokens of the tiny tokenizer
SIZES = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)


def bert(vocab, kind=BertForMaskedLM):
    model = kind(BertConfig(vocab_size=vocab, max_position_embeddings=40, **SIZES))
    if kind is BertForMaskedLM:
        torch.nn.init.normal_(model.cls.predictions.bias)
    return model


def llama(vocab, tied=True):
    config = LlamaConfig(vocab_size=vocab, tie_word_embeddings=tied, **SIZES)
    return LlamaForCausalLM(config)


def encoder(vocab):
    model = Encoder(EncoderConfig(vocab, 16, 1, 2, 32, 40, classes=2), "mlm")
    torch.nn.init.normal_(model.head.bias)
    return model


MODELS = {
    "BERT": (bert, {"input", "bias"}),
    "classifier": (lambda v: MeanPoolClassifier(bert(v, BertModel)), {"input"}),
    "Llama": (llama, {"input"}),
    "Llama, untied": (lambda v: llama(v, tied=False), {"input", "output"}),
    "encoder": (encoder, {"input", "bias"}),
    "decoder": (lambda v: tiny_chat.decoder(vocab=v), {"input"}),
    "decoder, untied": (lambda v: tiny_chat.decoder(vocab=v, tied=False), {"input", "output"}),
}
IDS = torch.tensor([[7, 8, 9, 200, 11]])


def made(name, vocab=KNOWN):
    torch.manual_seed(0)
    return MODELS[name][0](vocab).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("padded", [0, 5])
@pytest.mark.parametrize("name", MODELS)
def test_new_rows_are_the_mean_of_the_old_and_the_old_stay(name, padded):
    model, words = made(name, KNOWN + padded), tiny_chat.tokenizer()
    before = {k: t.detach().clone() for k, t in added_tokens.vocabulary_tensors(model).items()}
    assert set(before) == MODELS[name][1]
    old = logits(model)
    found = added_tokens.add_tokens(model, words, ["<a>", "<b>", "he"], multiple_of=8)
    he = tiny_chat.tokenizer().convert_tokens_to_ids("he")
    assert found.ids == [KNOWN, KNOWN + 1, he]  # "he" was there, and keeps its row
    rows = 272 if padded == 0 else KNOWN + padded
    assert found.rows == (KNOWN + padded, rows)
    reset = list(range(KNOWN, rows)) if padded == 0 else [KNOWN, KNOWN + 1]
    assert found.reset == reset == added_tokens.added_rows(model)
    kept = [i for i in range(KNOWN + padded) if i not in reset]
    for kind, tensor in added_tokens.vocabulary_tensors(model).items():
        assert len(tensor) == rows and tensor.requires_grad
        assert torch.equal(tensor[kept], before[kind][kept])
        mean = before[kind][:KNOWN].double().mean(dim=0).to(tensor.dtype)
        assert all(torch.equal(tensor[i], mean) for i in reset), kind
    new = logits(model)
    if new.shape[-1] == 2:
        assert torch.equal(new, old)
    else:
        assert new.shape[-1] == rows and torch.allclose(new[..., kept], old[..., kept])
        average = new[..., :KNOWN].mean(dim=-1)
        assert torch.allclose(new[..., KNOWN], average, atol=1e-5)
    assert words("x<a>he")["input_ids"][1:] == [KNOWN, he]


@pytest.mark.parametrize("name", ["BERT", "Llama", "decoder"])
def test_what_was_tied_stays_tied_and_saves(name, tmp_path):
    model, words = made(name), tiny_chat.tokenizer()
    added_tokens.add_tokens(model, words, ["<a>"])
    expected = logits(model)
    if name == "decoder":
        again = type(model).load(model.save(tmp_path)).double()
        assert again.config.vocab == KNOWN + 1
    else:
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path).eval()
        output = again.get_output_embeddings()
        assert output.weight is again.get_input_embeddings().weight
    assert torch.allclose(logits(again), expected, atol=1e-6)


def test_added_twice():
    model, words = made("Llama"), tiny_chat.tokenizer()
    added_tokens.add_tokens(model, words, ["<a>"])
    second = added_tokens.add_tokens(model, words, ["<a>", "<b>"])
    assert second.ids == [KNOWN, KNOWN + 1] and second.reset == [KNOWN + 1]
    assert added_tokens.added_rows(model) == [KNOWN, KNOWN + 1]


def test_random_numbers_go_on_as_if_nothing_had_been_drawn():
    for name in ("Llama", "encoder"):
        model, words = made(name), tiny_chat.tokenizer()
        torch.manual_seed(3)
        expected = torch.rand(())
        torch.manual_seed(3)
        added_tokens.add_tokens(model, words, ["<a>"])
        assert torch.equal(torch.rand(()), expected)


def test_what_cannot_be_added_is_refused_before_anything_changes():
    model, words = made("Llama"), tiny_chat.tokenizer()
    weights = copy.deepcopy(model.state_dict())
    for tokens in ([], "<a>", ["<a>", ""]):
        with pytest.raises(ModelError, match="Give a list of texts"):
            added_tokens.add_tokens(model, words, tokens)
    with pytest.raises(ParameterError, match="multiple_of=0"):
        added_tokens.add_tokens(model, words, ["<a>"], multiple_of=0)
    with pytest.raises(ModelError, match="the id 262, and the model 50 rows"):
        added_tokens.add_tokens(tiny_chat.llama(), words, ["<a>"])
    with pytest.raises(ModelError, match="does not say where its embeddings are"):
        added_tokens.add_tokens(torch.nn.Linear(2, 2), words, ["<a>"])
    with pytest.raises(ModelError, match="Rows are not taken away"):
        added_tokens.grow(model, 5)
    lora.add(model, ["lm_head"])
    with pytest.raises(ModelError, match="output layer has an adapter"):
        added_tokens.add_tokens(model, words, ["<a>"])
    assert len(words) == KNOWN
    lora.remove(model)
    assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())
