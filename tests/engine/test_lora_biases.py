"""What is trained beside adapters, which layers get them, and adapters that are damaged."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sftkit import losses_lm
from sftkit.batches import Batches
from sftkit.errors import ModelError
from sftkit.fit import fit
from sftkit.models import added_tokens, lora, lora_files
from sftkit.models.export_chat import Card, export_chat
from tests.engine import tiny_chat

IDS = torch.tensor([[7, 8, 9, 10, 11], [21, 22, 23, 24, 25]])


def qwen(tied=False, vocab=50):
    """With biases on q_proj, k_proj and v_proj."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    config = Qwen2Config(vocab_size=vocab, tie_word_embeddings=tied, **sizes, **heads)
    return Qwen2ForCausalLM(config).double().eval()


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = dict(n_positions=40, n_embd=16, n_layer=2, n_head=2)
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, bos_token_id=1, eos_token_id=1, **sizes))


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def learned(model):
    fit(
        model, Batches(tiny_chat.examples(8), 8), losses_lm.causal_lm(),
        max_steps=3, lr=0.1, precision="fp32",
    )  # fmt: skip
    return model


# -------------------------------------------------------------------- trained beside adapters


@pytest.mark.parametrize(
    ("also", "kinds"), [("*.bias", "qkv"), ("q_proj.bias", "q"), ("v_proj.bias", "v")]
)
def test_biases_of_adapted_layers_are_trained_when_asked_for(also, kinds):
    model = qwen()
    start = copy.deepcopy(model.state_dict())
    lora.add(model, ["q_proj"], also=[also])
    biases = {f"model.layers.{i}.self_attn.{k}_proj.bias" for i in (0, 1) for k in kinds}
    adapters = {f"{n}.{m}" for n in lora.layers(model) for m in ("lora_a", "lora_b")}
    assert trained(model) == biases | adapters
    learned(model)
    moved = {n for n, t in model.state_dict().items() if n in start and (t != start[n]).any()}
    assert moved == biases


@pytest.mark.parametrize("merged", [False, True])
def test_trained_biases_survive_saving_merging_and_exporting(tmp_path, merged):
    from transformers import AutoModelForCausalLM

    words = tiny_chat.tokenizer()
    model = qwen(vocab=len(words))
    lora.add(model, ["q_proj", "down_proj"], also=["q_proj.bias"])
    expected = logits(learned(model))
    before = trained(model)
    biases = {name for name in before if name.endswith(".bias")}
    assert len(biases) == 2 and all(model.get_parameter(n).any() for n in biases)
    if merged:
        lora.merge(model)
        assert (logits(model) - expected).abs().max() < 1e-12
    lora_files.save(model, tmp_path / "adapter")
    again = lora_files.load(qwen(vocab=len(words)), tmp_path / "adapter")
    assert torch.equal(logits(again), expected) and trained(again) == before
    lora.unmerge(model)
    assert torch.equal(logits(model), expected) and trained(model) == before
    export_chat(model, words, tmp_path / "whole", Card("a", "MIT", ["x"]))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float64)
    assert (logits(loaded) - expected).abs().max() < 1e-12
    lora.merge(model)
    lora.remove(model)
    assert (logits(model) - expected).abs().max() < 1e-12


REFUSED = {
    "its weight": (qwen, ["lm_head"], ["lm_head"], "the weight of lm_head, which gets"),
    "a part with it": (qwen, ["down_proj"], ["*.mlp"], r"the weight of model\.layers\.0\.mlp"),
    "with a bias": (qwen, ["q_proj"], ["q_proj"], r"\n.*such as .*0\.self_attn\.q_proj\.bias"),
    "under a tied name": (
        lambda: qwen(True), ["lm_head"], ["embed_tokens"], "the weight of lm_head, which gets",
    ),
    "tied": (
        lambda: qwen(True), ["q_proj"], ["lm_head"],
        r"lm_head.weight, which is tied to model\.embed_tokens\.weight.*\n.*embed_tokens",
    ),
    "tied besides": (
        lambda: qwen(True), ["q_proj"], ["norm", "lm_head"], "which is tied to model.embed_tok",
    ),
    "no layer": (qwen, [], [], r"targets=\[\] names no layer.*\n.*q_proj"),
    "only Conv1D": (
        gpt2, None, [], r"have no linear layer.*\n.*nn\.Linear.* Conv1D \(c_attn, c_fc, c_p",
    ),
    "a Conv1D": (gpt2, ["c_attn"], [], r"targets='c_attn' fits no linear.*\n.*Conv1D \(c_attn"),
    "nothing at all": (lambda: nn.Linear(2, 3), ["*"], [], r"\n.*There is none here\.$"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "targets", "also", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_trained_so_is_refused_and_nothing_is_frozen(make, targets, also, words):
    model = make()
    with pytest.raises(ModelError, match=words):
        lora.add(model, targets, also=also)
    assert not lora.layers(model) and all(p.requires_grad for p in model.parameters())


def test_a_tied_tensor_may_have_both_of_its_names():
    model = qwen(True)
    lora.add(model, ["q_proj"], also=["lm_head", "embed_tokens"])
    assert "model.embed_tokens.weight" in trained(model)


# ------------------------------------------------------------------------------------- files


def changed(key, value=None):
    def change(folder):
        facts = json.loads((folder / "adapter.json").read_text())
        facts.pop(key) if value is None else facts.update({key: value})
        (folder / "adapter.json").write_text(json.dumps(facts))

    return change


def text(content):
    return lambda folder: (folder / "adapter.json").write_text(content)


def tensors(change):
    def rewrite(folder):
        found = load_file(folder / "adapter.safetensors")
        change(found)
        save_file(found, folder / "adapter.safetensors")

    return rewrite


Q = "model.layers.0.self_attn.q_proj"
DAMAGE = {
    "truncated": (text('{"format": 1, "kind'), "cannot be read"),
    "a list": (text("[]"), "holds a list"),
    **{
        f"no {key}": (changed(key), f"damaged: '{key}' is missing")
        for key in ("layers", "rank", "alpha", "dropout", "rows", "added", "frozen")
    },
    **{
        f"{key} {value}": (changed(key, value), f"damaged: '{key}'")
        for key, value in (
            ("layers", []), ("layers", "q_proj"), ("layers", [Q, Q]), ("rank", "8"),
            ("rank", 0), ("alpha", "x"), ("dropout", 1.0), ("rows", 2.5), ("added", [-1]),
            ("added", [50]), ("frozen", {Q: []}), ("frozen", [1]),
        )
    },
    "another rank": (changed("rank", 4), r"lora_a is \(8, 16\) there and \(4, 16\) here"),
    "another layer": (changed("layers", ["model.norm"]), "no linear layer here"),
    "fewer rows": (changed("rows", 20), "Rows are not taken away"),
    "no lora_b": (tensors(lambda t: t.pop(f"{Q}.lora_b")), "lora_b is absent there"),
    "another bias": (
        tensors(lambda t: t.update({f"{Q}.bias": torch.zeros(3)})), r"bias is \(3,\) there",
    ),
    "one more": (tensors(lambda t: t.update(x=torch.zeros(3))), r"x is \(3,\) there and abs"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_adapters_are_refused_before_the_model_is_touched(tmp_path, damage, words):
    model = qwen()
    lora.add(model, ["q_proj"], also=["q_proj.bias"])
    damage(lora_files.save(model, tmp_path / "a"))
    fresh = qwen()
    names = [name for name, _ in fresh.named_parameters()]
    with pytest.raises(ModelError, match=words):
        lora_files.load(fresh, tmp_path / "a")
    assert [n for n, p in fresh.named_parameters() if p.requires_grad] == names
    assert not lora.layers(fresh)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_and_an_adapted_output_survive_saving(tmp_path, tied, merged):
    """The row of a merged output layer has the adapter's product in it already."""
    words = tiny_chat.tokenizer()
    model = qwen(tied, len(words))
    added_tokens.add_tokens(model, words, ["<a>"])
    lora.add(model, ["lm_head"])
    nn.init.normal_(lora.layers(model)["lm_head"].lora_b)
    expected = logits(model)
    if merged:
        lora.merge(model)
    lora_files.save(model, tmp_path / "a")
    again = lora_files.load(qwen(tied, len(words) - 1), tmp_path / "a")
    assert torch.equal(logits(again), expected)
