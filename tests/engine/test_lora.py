"""Adapters: what they compute, peft's numbers, training, merging and files."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import BertForMaskedLM

from sftkit import losses, losses_chunked, losses_lm
from sftkit.batches import Batches
from sftkit.errors import CheckpointError, ModelError, ParameterError
from sftkit.fit import fit
from sftkit.models import lora, lora_files
from sftkit.models.encoder import Encoder, EncoderConfig
from tests.engine import tiny, tiny_chat


def encoder():
    torch.manual_seed(0)
    return Encoder(EncoderConfig(50, 16, 2, 2, 32, 40, dropout=0.0), "mlm").double()


def masked_bert():
    torch.manual_seed(0)
    return BertForMaskedLM(tiny.config()).double()


MODELS = {
    "BERT": masked_bert,
    "Llama": tiny_chat.llama,
    "encoder": encoder,
    "decoder": tiny_chat.decoder,
}
IDS = torch.tensor([[7, 8, 9, 10, 11], [21, 22, 23, 24, 25]])
SCALES = 0.05


def drawn(model, seed=1):
    """B is zero at first: with these numbers an adapter does something."""
    torch.manual_seed(seed)
    for layer in lora.layers(model).values():
        nn.init.normal_(layer.lora_b, std=SCALES)
    return model


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("name", MODELS)
def test_at_first_nothing_changes_and_later_it_is_the_formula(name):
    model = MODELS[name]()
    before = logits(model)
    names = lora.add(model, rank=3, alpha=6)
    assert torch.equal(logits(model), before)
    # Two blocks; six linear layers in an encoder's, seven in a decoder's.
    assert len(names) == 2 * (7 if name in ("Llama", "decoder") else 6)
    assert {n.rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad} == {
        "lora_a", "lora_b",
    }  # fmt: skip
    drawn(model)
    layer = lora.layers(model)[names[-1]]
    x = torch.randn(4, layer.in_features, dtype=torch.float64)
    whole = layer.weight + 6 / 3 * layer.lora_b @ layer.lora_a
    expected = x @ whole.T + (0 if layer.bias is None else layer.bias)
    assert (layer(x) - expected).abs().max() < 1e-13
    assert (logits(model) - before).abs().max() > 1e-3


def test_the_trained_share_by_hand():
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5, bias=False))
    lora.add(model, ["0"], rank=2)
    assert lora.trained_share(model) == (2 * 10 + 20 * 2) / (200 + 20 + 100 + 60)
    assert lora.settings(model) == {"rank": 2, "alpha": 4.0, "dropout": 0.0}


def test_names_ends_and_patterns():
    ends = lora.add(tiny_chat.llama(), ["q_proj", "v_proj"])
    assert ends == [f"model.layers.{i}.self_attn.{k}_proj" for i in (0, 1) for k in "qv"]
    some = lora.add(tiny_chat.llama(), ["*.layers.1.mlp.*"])
    assert some == [f"model.layers.1.mlp.{k}_proj" for k in ("gate", "up", "down")]
    one = lora.add(tiny_chat.decoder(), "blocks.0.query")
    assert one == ["blocks.0.query"]
    model = tiny.model("first")
    lora.add(model, ["query"], also=["classifier", "*.0.*.LayerNorm.bias"])
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    whole = [n for n in trained if "lora" not in n]
    assert whole == [
        "bert.encoder.layer.0.attention.output.LayerNorm.bias",
        "bert.encoder.layer.0.output.LayerNorm.bias",
        "classifier.weight",
        "classifier.bias",
    ]


def test_what_cannot_be_adapted_is_refused_before_anything_changes():
    model = tiny_chat.llama()
    with pytest.raises(ModelError, match="fits no linear layer.*\n.*q_proj"):
        lora.add(model, ["q_proj", "query"])
    with pytest.raises(ModelError, match="also='head' names no part"):
        lora.add(model, also=["head"])
    for name, value in (("rank", 0), ("rank", 2.5), ("alpha", 0.0), ("dropout", 1.0)):
        with pytest.raises(ParameterError, match=f"{name}={value}"):
            lora.add(model, **{name: value})
    assert all(p.requires_grad for p in model.parameters()) and not lora.layers(model)
    with pytest.raises(ModelError, match="has no adapters"):
        lora.merge(model)
    lora.add(model)
    with pytest.raises(ModelError, match="has an adapter already"):
        lora.add(model)
    untied = tiny_chat.decoder(tied=False)
    with pytest.raises(ModelError, match="reads the weight of output without calling"):
        lora.add(untied, ["output"])
    torchs = nn.TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(ModelError, match="reads the weight of linear1"):
        lora.add(torchs, ["linear1"])


def test_why_layers_that_are_read_directly_are_refused(monkeypatch):
    """The broken variants: torch's fast path, and our output matrix, would not see adapters."""
    monkeypatch.setattr(lora, "READ_DIRECTLY", ())
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    lora.add(layer, ["linear1"])
    drawn(layer)
    assert (layer.eval()(x) - layer.train()(x)).abs().max() > 1e-4  # without any dropout
    monkeypatch.setattr(type(tiny_chat.decoder()), "reads_directly", ())
    model = tiny_chat.decoder(tied=False).eval()
    before = logits(model)
    lora.add(model, ["output"])
    assert torch.equal(logits(drawn(model)), before)


# ------------------------------------------------------------------------- equal to peft


PEFT = {
    "BERT": ("BERT", ["query", "value"]),
    "Llama": ("Llama", ["q_proj", "v_proj", "down_proj"]),
    "Llama and its tied output": ("Llama", ["q_proj", "lm_head"]),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("case", PEFT)
def test_forward_and_gradients_are_pefts(case):
    peft = pytest.importorskip("peft")
    name, targets = PEFT[case]
    ours, theirs = MODELS[name](), MODELS[name]()
    lora.add(ours, targets, rank=4, alpha=10)
    drawn(ours)
    config = peft.LoraConfig(r=4, lora_alpha=10, target_modules=targets)
    theirs = peft.get_peft_model(theirs, config).double()
    inside = theirs.base_model.model
    pairs = []
    with torch.no_grad():
        for path, layer in lora.layers(ours).items():
            other = inside.get_submodule(path)
            for mine, their in (
                (layer.lora_a, other.lora_A["default"].weight),
                (layer.lora_b, other.lora_B["default"].weight),
            ):
                their.copy_(mine)
                pairs.append((mine, their))
    both = []
    for model in (ours, theirs):
        found = model.eval()(input_ids=IDS).logits
        (found**2).sum().backward()
        both.append(found)
    assert (both[0] - both[1]).abs().max() < 1e-6
    for mine, their in pairs:
        assert mine.grad.abs().max() > 0
        assert (mine.grad - their.grad).abs().max() <= 1e-6 * their.grad.abs().max()
    trained = [
        sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (ours, theirs)
    ]
    assert trained[0] == trained[1]
    if "tied" in case:
        return  # peft merges into the embeddings too: see trap 17
    lora.merge(ours)
    merged = theirs.merge_and_unload()
    assert (logits(ours) - logits(merged)).abs().max() < 1e-6


def test_dropout_is_on_the_adapters_input_and_only_in_training():
    layer = lora.LoraLinear(nn.Linear(6, 5), rank=2, alpha=2.0, dropout=0.5)
    nn.init.normal_(layer.lora_b)
    x = torch.ones(1000, 6)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    torch.manual_seed(0)
    update = layer.train()(x) - plain
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.5)
    assert torch.allclose(update, dropped @ layer.update().T, atol=1e-5)
    assert torch.equal(layer.eval()(x), layer(x))
    assert torch.allclose(layer(x) - plain, x @ layer.update().T, atol=1e-5)


def test_adapters_of_a_base_in_half_precision_are_kept_in_float32():
    layer = lora.LoraLinear(nn.Linear(6, 5).bfloat16(), rank=2, alpha=2.0)
    assert layer.lora_a.dtype == layer.lora_b.dtype == torch.float32
    output = layer(torch.ones(3, 6, dtype=torch.bfloat16))
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert layer.lora_b.grad.dtype == torch.float32


# ------------------------------------------------------------------------------- training


def test_only_adapters_move_and_the_loss_falls():
    model = tiny_chat.llama()
    start = copy.deepcopy(model.state_dict())
    lora.add(model, rank=4)
    batches = Batches(tiny_chat.examples(16), 8)
    state = fit(model, batches, losses_chunked.causal_lm(), epochs=4, lr=5e-2)
    assert state.losses[-1] < 0.9 * state.losses[0]
    for name, tensor in model.state_dict().items():
        if "lora" in name:
            assert tensor.abs().max() > 0
        else:
            assert torch.equal(tensor, start[name]), name


def test_a_head_is_trained_whole_beside_the_adapters():
    model = tiny.model("first")
    start = copy.deepcopy(model.state_dict())
    lora.add(model, ["query", "value"], rank=2, also=["classifier"])
    fit(model, Batches(tiny.examples(24), 8), losses.classification(), epochs=2, lr=1e-2)
    moved = {n for n, t in model.state_dict().items() if n in start and (t != start[n]).any()}
    assert moved == {"classifier.weight", "classifier.bias"}


def test_the_chunked_loss_sees_an_adapter_on_the_output_layer():
    """Elsewhere it takes the output matrix and never calls the layer."""
    model = tiny_chat.llama()
    lora.add(model, ["lm_head"])
    drawn(model)
    batch = tiny_chat.examples(4).batch([0, 1, 2, 3])
    whole, _ = losses_lm.causal_lm()(model, batch)
    chunked, _ = losses_chunked.causal_lm()(model, batch)
    assert whole.item() == pytest.approx(chunked.item(), rel=1e-12)


def test_recomputed_activations_give_the_same_gradients():
    """All that goes into the first block is frozen: the graph begins within it."""
    found = []
    for recompute in (False, True):
        model = tiny_chat.llama().train()
        lora.add(model)
        drawn(model)
        if recompute:
            model.activation_checkpointing_enable()
        model(input_ids=IDS).logits.square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    for a, b in zip(*found, strict=True):
        assert a.abs().max() > 0 and torch.equal(a, b)


def test_a_layer_in_two_places_is_adapted_in_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.two = self.one

        def forward(self, x):
            return self.two(self.one(x))

    model = Twice()
    assert lora.add(model, ["one"]) == ["one"]
    assert model.one is model.two and isinstance(model.two, lora.LoraLinear)
    lora.remove(model)
    assert model.one is model.two and type(model.two) is nn.Linear


@pytest.mark.parametrize("stop", [2, 4])
def test_resume_is_exact(tmp_path, stop):
    def run(folder, resume=False, **options):
        model = tiny_chat.llama()
        torch.manual_seed(9)
        lora.add(model, rank=2, alpha=options.pop("alpha", 4.0), dropout=0.3)
        batches = Batches(tiny_chat.examples(20), 8, micro_batch_size=4)
        state = fit(
            model, batches, losses_lm.causal_lm(), folder=folder, resume=resume,
            **{"epochs": 2, "lr": 1e-2, "save_every": 1, "precision": "fp32"} | options,
        )  # fmt: skip
        return model, state

    class Stop:
        def on_step(self, model, state):
            if state.step == stop:
                raise KeyboardInterrupt

        def on_evaluate(self, model, state): ...

    whole, expected = run(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", callbacks=[Stop()])
    with pytest.raises(CheckpointError, match=r"adapters was .*4.*and is .*8"):
        run(tmp_path / "b", resume=True, alpha=8.0)
    again, found = run(tmp_path / "b", resume=True)
    assert found.losses == expected.losses
    for (name, a), b in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name


# ------------------------------------------------------------------------ merging and files


@pytest.mark.parametrize("name", MODELS)
def test_merge_unmerge_and_remove(name):
    model = MODELS[name]()
    plain = logits(model)
    lora.add(model)
    drawn(model)
    apart, weights = logits(model), copy.deepcopy(model.state_dict())
    lora.merge(model)
    lora.merge(model)  # a second time changes nothing
    assert (logits(model) - apart).abs().max() < 1e-12
    with pytest.raises(ParameterError, match="no trainable parameter"):
        fit(model, Batches(tiny_chat.examples(4), 4), losses_lm.causal_lm())
    moved = copy.deepcopy(model)
    for twin in (model, moved):
        lora.unmerge(twin)
        assert torch.equal(logits(twin), apart)
        assert all(torch.equal(t, weights[n]) for n, t in twin.state_dict().items())
    lora.merge(model)
    lora.remove(model)
    assert not lora.layers(model) and (logits(model) - apart).abs().max() < 1e-12
    lora.remove(moved)
    assert torch.equal(logits(moved), plain)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded(tmp_path, name, merged):
    model = MODELS[name]()
    lora.add(model, rank=3, alpha=5, dropout=0.1)
    expected = logits(drawn(model))
    if merged:
        lora.merge(model)
    folder = lora_files.save(model, tmp_path / "adapter")
    assert {f.name for f in folder.iterdir()} == {"adapter.json", "adapter.safetensors"}
    again = lora_files.load(MODELS[name](), folder)
    assert torch.equal(logits(again), expected)
    assert lora.settings(again) == {"rank": 3, "alpha": 5, "dropout": 0.1}
    trained = {n for n, p in again.named_parameters() if p.requires_grad}
    assert trained == {f"{n}.lora_{x}" for n in lora.layers(again) for x in "ab"}


def test_a_trained_head_is_in_the_folder(tmp_path):
    model = tiny.model("first")
    lora.add(model, ["query"], also=["classifier"])
    drawn(model)
    nn.init.normal_(model.classifier.weight)
    lora_files.save(model, tmp_path / "adapter")
    lora_files.save(model, tmp_path / "adapter")  # again, over itself
    fresh = tiny.model("first")
    fresh.classifier.weight.data.zero_()  # a new head is drawn anew, and is not compared
    again = lora_files.load(fresh, tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model))


def test_adapters_of_another_model_and_damaged_folders_are_refused(tmp_path):
    model = tiny_chat.llama()
    with pytest.raises(ModelError, match="has no adapters"):
        lora_files.save(model, tmp_path / "a")
    lora.add(model)
    folder = lora_files.save(model, tmp_path / "a")
    with pytest.raises(ModelError, match="belongs to another model: model.embed_tokens.weight"):
        lora_files.load(tiny_chat.llama(seed=1), folder)
    with pytest.raises(ModelError, match="belongs to another model"):
        lora_files.load(tiny_chat.decoder(), folder)
    with pytest.raises(ModelError, match="has adapters already"):
        lora_files.load(model, folder)
    lora_files.load(tiny_chat.llama().float().bfloat16(), folder)  # another type is no other
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="holds no adapter"):
        lora_files.save(model, tmp_path / "other")
    with pytest.raises(ModelError, match="has no adapter.json"):
        lora_files.load(tiny_chat.llama(), tmp_path / "other")
    weights = folder / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    fresh = tiny_chat.llama()
    with pytest.raises(ModelError, match="cannot be read"):
        lora_files.load(fresh, folder)
    assert not lora.layers(fresh)


def test_a_merged_model_of_transformers_is_an_ordinary_folder(tmp_path):
    from transformers import AutoModelForCausalLM

    model = tiny_chat.llama()
    lora.add(model)
    expected = logits(drawn(model))
    lora.merge(model)
    lora.remove(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert (logits(again) - expected).abs().max() < 1e-12
