"""Exports of models that sample, of frozen adapters, and facts that are damaged or odd."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from sftkit.cli import main
from sftkit.errors import ModelError
from sftkit.models import lora, lora_files
from sftkit.models.export_chat import Card, export_chat
from tests.engine import tiny
from tests.engine.tiny_chat import llama, tokenizer

WORDS = tokenizer()
CARD = Card(base="a tiny model", licence="MIT", data=["Nothing."])
SAMPLES = dict(do_sample=True, temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.1)


def sampling_llama():
    model = llama(vocab=len(WORDS)).float().eval()
    model.generation_config.update(**SAMPLES, bos_token_id=1, eos_token_id=None, pad_token_id=0)
    return model


def test_a_model_that_samples_is_exported_without_sampling(tmp_path):
    model = sampling_llama()
    before = model.generation_config.to_dict()
    folder = export_chat(model, WORDS, tmp_path / "a", CARD, max_new_tokens=7)
    written = json.loads((folder / "generation_config.json").read_text())
    written.pop("transformers_version")
    assert written == {
        "bos_token_id": 1, "eos_token_id": WORDS.eos_token_id, "max_new_tokens": 7,
        "pad_token_id": WORDS.pad_token_id, "do_sample": False,
    }  # fmt: skip
    assert model.generation_config.to_dict() == before


def test_the_generation_config_comes_back_when_writing_fails(tmp_path, monkeypatch):
    model, words = sampling_llama(), tokenizer()
    before = model.generation_config

    def full(*known):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(words, "save_pretrained", full)
    with pytest.raises(OSError, match="No space"):
        export_chat(model, words, tmp_path / "a", CARD)
    assert model.generation_config is before and not (tmp_path / "a").exists()


def test_a_model_that_writes_nothing_is_refused(tmp_path):
    with pytest.raises(ModelError, match="BertForSequenceClassification is no causal model"):
        export_chat(tiny.model("first"), WORDS, tmp_path / "a", CARD)


@pytest.mark.parametrize("frozen", [True, False])
def test_adapters_are_frozen_or_trained_as_before_the_export(tmp_path, frozen):
    model = sampling_llama()
    lora.add(model, ["q_proj"], rank=2)
    if frozen:
        model.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    export_chat(model, WORDS, tmp_path / "a", CARD)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_the_command_exports_adapters_that_were_saved_again(tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    model = sampling_llama()
    model.save_pretrained(tmp_path / "base")
    lora.add(model, ["q_proj"], rank=2)
    adapter, to = tmp_path / "adapter", tmp_path / "assistant"
    lora_files.save(model, adapter, WORDS)
    Card(base=str(tmp_path / "base"), licence="MIT", data=["x"]).save(adapter)
    (adapter / "README.md").write_text("A card.")
    for layer in lora.layers(model).values():
        torch.nn.init.normal_(layer.lora_b, std=0.1)
    lora_files.save(model, adapter, WORDS)
    assert (adapter / "README.md").read_text() == "A card."
    assert main(["export", str(adapter), "--to", str(to)]) == 0
    assert main(["export", str(adapter), "--to", str(to)]) == 0  # over itself
    loaded = AutoModelForCausalLM.from_pretrained(to, dtype=torch.float32)
    ids = torch.tensor([[3, 7, 9, 30]])
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=1e-4)
    (tmp_path / "file").write_text("mine")
    assert main(["export", str(adapter), "--to", str(tmp_path / "file")]) == 2
    assert "file is no folder" in capsys.readouterr().err
    lora_files.save(model, adapter)
    assert main(["export", str(adapter), "--to", str(to)]) == 2
    assert "has no tokenizer" in capsys.readouterr().err


DAMAGED = {
    "truncated": ('{"base": "a", ', "cannot be read"),
    "no text": (b"\xff\xfe", "cannot be read"),
    "a list": ("[]", "holds a list"),
    "no licence": ('{"base": "a", "data": []}', "other facts: .*licence"),
    "another's": ('{"base": "a", "licence": "b", "data": [], "x": 1}', "other facts: .*'x'"),
    "a number": ('{"base": "a", "licence": 3, "data": []}', "other facts than"),
    "pairs": ('{"base": "a", "licence": "b", "data": [], "results": [[1, 2]]}', "other facts"),
}


@pytest.mark.parametrize(("text", "words"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_facts_are_named(tmp_path, capsys, text, words):
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(ModelError, match=f"card.json .*{words}"):
        Card.load(tmp_path)
    assert main(["export", str(tmp_path), "--to", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.startswith("ModelError: ")


def test_facts_are_read_as_they_were_saved(tmp_path):
    card = Card("b", "MIT", ["d"], {"lr": 0.1}, [("right", "1", "2")], ["l"], "de")
    card.save(tmp_path)
    assert Card.load(tmp_path).text("n") == card.text("n")


@pytest.mark.parametrize(
    "base",
    [
        "my: model #2",
        "- x",
        "hub:owner/name",
        "12",
        "C:\\models",
        "模型",
        "{a}",
        "'\"",
        "a" * 200,
    ],
)
def test_any_name_of_a_base_is_in_the_header(base):
    card = Card(base=base, licence="Other: see #3", data=["x"], language="no")
    _, header, _ = card.text("n").split("---\n", 2)
    facts = yaml.safe_load(header)
    assert facts == {
        "license": "other: see #3", "base_model": base, "language": "no",
        "library_name": "transformers", "pipeline_tag": "text-generation",
        "tags": ["sft", "chat"],
    }  # fmt: skip
