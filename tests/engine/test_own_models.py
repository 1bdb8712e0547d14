"""Our encoder and decoder compute what transformers' BERT and Llama compute."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from sftkit import assets, losses
from sftkit.batches import Batches
from sftkit.errors import AssetError, ModelError, ParameterError
from sftkit.evaluate import predict
from sftkit.fit import fit
from sftkit.models import parameter_counts, set_trainable
from sftkit.models.decoder import Decoder, DecoderConfig
from sftkit.models.encoder import Encoder, EncoderConfig, with_head
from sftkit.models.generate import generate
from tests.engine import tiny

ENCODERS = [(50, 16, 2, 2, 32), (31, 24, 1, 3, 40), (97, 20, 3, 5, 28)]
DECODERS = [(50, 16, 2, 2, 2, 32), (31, 24, 1, 6, 2, 40), (97, 40, 3, 4, 1, 28)]


def encoder(head="classes", dropout=0.0, **sizes):
    torch.manual_seed(0)
    defaults = dict(vocab=50, width=16, layers=2, heads=2, feed_forward=32, max_length=40)
    config = EncoderConfig(**defaults | sizes, dropout=dropout, classes=tiny.CLASSES)
    return Encoder(config, head).eval()


def decoder(**sizes):
    torch.manual_seed(0)
    defaults = dict(vocab=50, width=16, layers=2, heads=4, kv_heads=2, feed_forward=32)
    return Decoder(DecoderConfig(**defaults | dict(max_length=24) | sizes)).eval()


def bert_config(vocab, width, layers, heads, feed_forward):
    return BertConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=feed_forward,
        max_position_embeddings=40,
        initializer_range=0.2,  # large, so that every part matters to the result
    )


def ids_and_mask(vocab, rows=4, tokens=11, seed=1):
    torch.manual_seed(seed)
    ids = torch.randint(0, vocab, (rows, tokens))
    lengths = torch.randint(1, tokens + 1, (rows, 1))
    lengths[0] = tokens
    return ids, (torch.arange(tokens) < lengths).long()


# ------------------------------------------------------------- equal to transformers


@pytest.mark.parametrize("sizes", ENCODERS)
def test_encoder_equals_bert(sizes, tmp_path):
    torch.manual_seed(len(sizes))
    theirs = BertModel(bert_config(*sizes)).eval()
    theirs.save_pretrained(tmp_path)
    ours = Encoder.from_bert(tmp_path)
    ids, mask = ids_and_mask(sizes[0])
    types = torch.randint(0, 2, ids.shape)
    for kinds in (None, types):
        with torch.no_grad():
            expected = theirs(ids, mask, token_type_ids=kinds).last_hidden_state
            found = ours(ids, mask, kinds).hidden
        assert (found - expected)[mask.bool()].abs().max() < 1e-5


@pytest.mark.parametrize("sizes", ENCODERS)
def test_mlm_head_equals_berts(sizes, tmp_path):
    torch.manual_seed(1)
    theirs = BertForMaskedLM(bert_config(*sizes)).eval()
    torch.nn.init.normal_(theirs.cls.predictions.bias)
    theirs.save_pretrained(tmp_path)
    ids, mask = ids_and_mask(sizes[0])
    with torch.no_grad():
        expected = theirs(ids, mask).logits
        found = Encoder.from_bert(tmp_path, head="mlm")(ids, mask).logits
    assert (found - expected)[mask.bool()].abs().max() < 1e-5


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sizes", DECODERS)
def test_decoder_equals_llama(sizes, tied, tmp_path):
    vocab, width, layers, heads, kv_heads, feed_forward = sizes
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=feed_forward,
        max_position_embeddings=40,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = Decoder.from_llama(tmp_path)
    ids, mask = ids_and_mask(vocab)
    with torch.no_grad():
        expected, found = theirs(ids, mask).logits, ours(ids, mask).logits
    assert expected.abs().max() > 0.5
    assert (found - expected)[mask.bool()].abs().max() < 1e-5


def need(name):
    try:
        return assets.path(name)
    except AssetError as problem:
        pytest.skip(f"{name} has not been fetched: {problem}")


def test_minilm_hidden_states():
    from transformers import AutoTokenizer

    folder = need("minilm")
    texts = ["The bank raised its prime rate.", "Wheat."]
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    theirs = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        expected = theirs(**batch).last_hidden_state
        found = Encoder.from_bert(folder)(**batch).hidden
    assert (found - expected)[batch["attention_mask"].bool()].abs().max() < 1e-5


def test_smollm2_logits():
    from transformers import AutoTokenizer

    folder = need("smollm2-135m-instruct")
    ids = AutoTokenizer.from_pretrained(folder)(
        "Gravity is a force that", return_tensors="pt"
    ).input_ids
    ours = Decoder.from_llama(folder)
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected, found = theirs(ids).logits, ours(ids).logits
    assert (found - expected).abs().max() < 1e-4
    steps = theirs.generate(ids, max_new_tokens=5, do_sample=False)
    assert generate(ours, ids, 5, temperature=0).tolist() == steps.tolist()


# ------------------------------------------------------------------ masks and padding


@pytest.mark.parametrize("head", ["mlm", "classes", None])
def test_padding_changes_nothing_for_the_encoder(head):
    model = encoder(head)
    ids, mask = ids_and_mask(50)
    with torch.no_grad():
        together = model(ids, mask)
        for i, length in enumerate(mask.sum(dim=1).tolist()):
            alone = model(ids[i : i + 1, :length])
            assert (alone.hidden[0] - together.hidden[i, :length]).abs().max() < 1e-5
            if head == "classes":
                assert (alone.logits[0] - together.logits[i]).abs().max() < 1e-5
        # The broken variant: without the mask, padding takes part.
        assert (model(ids).hidden - together.hidden)[mask.bool()].abs().max() > 1e-3


def test_padding_changes_nothing_for_the_decoder():
    model = decoder()
    ids, mask = ids_and_mask(50)
    with torch.no_grad():
        together = model(ids, mask).logits
        for i, length in enumerate(mask.sum(dim=1).tolist()):
            alone = model(ids[i : i + 1, :length]).logits[0]
            assert (alone - together[i, :length]).abs().max() < 1e-5


def test_decoder_does_not_look_ahead():
    model = decoder()
    ids = torch.randint(0, 50, (1, 12))
    changed = ids.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 50
    with torch.no_grad():
        before, after = model(ids).logits, model(changed).logits
    assert torch.equal(before[0, :7], after[0, :7])
    assert (before[0, 7:] - after[0, 7:]).abs().max() > 1e-3


def test_decoder_refuses_padding_on_the_left():
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ModelError, match="padding before tokens"):
        decoder()(ids, torch.tensor([[0, 1, 1]]))


def test_an_empty_row_gives_no_nan():
    model = encoder("classes")
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    out = model(torch.ones(2, 3, dtype=torch.long), mask)
    assert out.logits.isfinite().all()
    out.logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_too_many_tokens():
    for model in (encoder(), decoder()):
        with pytest.raises(ModelError, match="positions for"):
            model(torch.zeros(1, 41, dtype=torch.long))


# --------------------------------------------------------------------------- training


def test_trap_18_dropout_is_off_in_evaluation_and_on_in_training():
    model = encoder(dropout=0.3)
    examples = tiny.examples()
    model.train()
    first, second = (predict(model, examples).logits for _ in range(2))
    assert (first == second).all()
    assert model.training
    ids = torch.randint(0, 50, (3, 7))
    assert not torch.equal(model(ids).logits, model(ids).logits)


def test_the_encoder_learns_in_fit():
    examples = tiny.examples(rows=96)
    model = encoder(dropout=0.1, width=32)
    before = predict(model, examples).accuracy
    state = fit(model, Batches(examples, 16), losses.classification(), epochs=25, lr=5e-3)
    assert state.losses[-1] < state.losses[0]
    assert predict(model, examples).accuracy > max(before, 0.8)


def test_the_decoder_learns_in_fit():
    examples = tiny.examples(rows=64, per_token=True)
    state = fit(
        decoder(vocab=50),
        Batches(examples, 16),
        losses.classification(),
        epochs=10,
        lr=1e-2,
    )
    assert state.losses[-1] < 0.6 * state.losses[0]


def test_parts_are_known():
    model = encoder("classes")
    assert [name for name, _, _ in parameter_counts(model)] == [
        "embeddings",
        "block 0",
        "block 1",
        "head",
    ]
    set_trainable(model, "top-1")
    trained = {n.split(".")[1] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"blocks", "weight", "bias"}
    set_trainable(model, "no-embeddings")
    assert not model.body.embeddings.word.weight.requires_grad
    assert parameter_counts(decoder())[0] == ("embeddings", 50 * 16, 50 * 16)


def test_with_head_keeps_the_body():
    mlm = encoder("mlm")
    new = with_head(mlm, "classes", classes=4, seed=3)
    ids = torch.randint(0, 50, (2, 5))
    assert new(ids).logits.shape == (2, 4)
    assert torch.equal(new(ids).hidden, mlm(ids).hidden)
    with torch.no_grad():
        new.body.embeddings.word.weight.add_(1)
    assert not torch.equal(new(ids).hidden, mlm(ids).hidden)
    again = with_head(mlm, "classes", classes=4, seed=3)
    assert torch.equal(new.head.weight, again.head.weight)
    assert with_head(mlm, None)(ids).logits is None
    with pytest.raises(ModelError, match="number of classes"):
        with_head(mlm, "classes")


def test_the_mlm_head_is_tied():
    model = encoder("mlm")
    ids = torch.randint(0, 50, (2, 5))
    logits = model(ids).logits
    assert logits.shape == (2, 5, 50)
    functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    grad = model.body.embeddings.word.weight.grad
    assert (grad.abs().sum(dim=1) > 0).all()  # also of ids that are not in the batch
    assert not any(p.shape == (50, 16) for p in model.head.parameters())


# --------------------------------------------------------------------- save and load


@pytest.mark.parametrize("head", ["mlm", "classes", None])
def test_encoder_survives_save_and_load(head, tmp_path):
    model = encoder(head)
    again = Encoder.load(model.save(tmp_path / "model"))
    ids, mask = ids_and_mask(50)
    assert again.config == model.config
    assert torch.equal(model(ids, mask).hidden, again(ids, mask).hidden)
    if head:
        assert torch.equal(model(ids, mask).logits, again(ids, mask).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_decoder_survives_save_and_load(tied, tmp_path):
    model = decoder(tied=tied)
    again = Decoder.load(model.save(tmp_path / "model"))
    ids, _ = ids_and_mask(50)
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert all(p.requires_grad for p in again.parameters())


def test_save_replaces_a_model_and_nothing_else(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="does not hold a model of ours"):
        decoder().save(tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").is_file()
    folder = decoder().save(tmp_path / "model")
    decoder(layers=1).save(folder)
    assert Decoder.load(folder).config.layers == 1
    with pytest.raises(ModelError, match="kind 'decoder'"):
        Encoder.load(folder)


def test_damaged_folders_are_named(tmp_path):
    with pytest.raises(ModelError, match="has no sftkit.json"):
        Encoder.load(tmp_path)
    folder = encoder().save(tmp_path / "model")
    weights = folder / "sftkit.safetensors"
    tensors = load_file(weights)
    save_file({n: t for n, t in tensors.items() if n != "head.bias"}, weights)
    with pytest.raises(ModelError, match="head.bias is absent there"):
        Encoder.load(folder)
    weights.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        Encoder.load(folder)


def test_other_architectures_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config.json"):
        Encoder.from_bert(tmp_path)
    BertConfig(hidden_act="relu").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="hidden_act is 'relu'"):
        Encoder.from_bert(tmp_path)
    with pytest.raises(ModelError, match="model_type is 'bert'"):
        Decoder.from_llama(tmp_path)
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    LlamaConfig(rope_parameters=rope).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="scales its rotary positions"):
        Decoder.from_llama(tmp_path)


@pytest.mark.parametrize(
    ("make", "change", "words"),
    [
        (encoder, {"heads": 3}, "cannot be split"),
        (encoder, {"layers": 0}, "layers=0"),
        (encoder, {"dropout": 1.0}, "dropout=1.0"),
        (encoder, {"head": "tags"}, "head='tags'"),
        (decoder, {"heads": 16}, "even width"),
        (decoder, {"kv_heads": 3}, "divides the heads"),
    ],
)
def test_bad_sizes(make, change, words):
    with pytest.raises(ModelError, match=words):
        make(**change)


# ------------------------------------------------------------------------- generation


def test_the_cache_changes_nothing():
    model = decoder()
    ids = torch.randint(0, 50, (3, 9))
    with torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, :4], keep=True)
        rest = model(ids[:, 4:], cache=first.cache, keep=True)
    assert (torch.cat([first.logits, rest.logits], dim=1) - whole).abs().max() < 1e-5


def test_generate_is_repeatable_and_greedy_takes_the_best():
    model = decoder(vocab=50)
    ids = torch.randint(0, 50, (2, 5))
    draws = [
        generate(model, ids, 8, top_k=5, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    assert torch.equal(*draws) and draws[0].shape == (2, 13)
    greedy = generate(model, ids, 6, temperature=0)
    with torch.no_grad():
        best = model(greedy[:, :-1]).logits.argmax(dim=-1)[:, 4:]
    assert torch.equal(best, greedy[:, 5:])
    assert torch.equal(generate(model, ids, 6, top_k=1), greedy)


def test_generate_goes_on_beyond_its_positions_and_stops():
    model = decoder(max_length=8)
    ids = torch.randint(0, 50, (1, 3))
    assert generate(model, ids, 30).shape == (1, 33)
    greedy = generate(model, ids, 4, temperature=0)
    stop = int(greedy[0, 3])
    assert generate(model, ids, 4, temperature=0, stop=stop).shape == (1, 4)


def test_generate_restores_the_mode_and_names_bad_arguments():
    model = decoder().train()
    ids = torch.zeros(1, 2, dtype=torch.long)
    generate(model, ids, 1)
    assert model.training
    with pytest.raises(ParameterError, match="temperature"):
        generate(model, ids, 1, temperature=-1)
    with pytest.raises(ModelError, match="at least one token"):
        generate(model, ids[:, :0], 1)
