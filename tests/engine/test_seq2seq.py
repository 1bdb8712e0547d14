"""Our encoder-decoder computes what transformers' BART computes; its loss, cache and files."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset, DatasetDict
from torch import nn
from torch.nn import functional
from transformers import BartConfig, BartForConditionalGeneration

from sftkit import encode_pairs, losses_seq2seq
from sftkit.batches import IGNORE, Batches, Examples
from sftkit.encode_lm import char_tokenizer
from sftkit.errors import EncodeError, ModelError, ParameterError
from sftkit.evaluate.language import language_evaluation
from sftkit.fit import fit
from sftkit.models import added_tokens, lora
from sftkit.models.seq2seq import Seq2Seq
from sftkit.models.seq2seq_blocks import CrossBlock
from tests.engine import tiny_chat, tiny_pairs

SIZES = [(50, 16, 2, 2, 4, 32), (31, 24, 1, 3, 3, 40), (97, 20, 3, 1, 5, 28)]


def bart(vocab, width, encoder_layers, decoder_layers, heads, feed_forward, **more):
    torch.manual_seed(vocab)
    config = BartConfig(
        vocab_size=vocab, d_model=width, max_position_embeddings=40, init_std=0.3,
        encoder_layers=encoder_layers, decoder_layers=decoder_layers,
        encoder_attention_heads=heads, decoder_attention_heads=heads,
        encoder_ffn_dim=feed_forward, decoder_ffn_dim=feed_forward,
        pad_token_id=0, bos_token_id=1, decoder_start_token_id=1, eos_token_id=2,
        forced_eos_token_id=None, **more,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).eval()
    with torch.no_grad():  # norms and biases that are not 1 and 0 matter too
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def batch_of(vocab, rows=4, source=9, target=7, seed=3):
    torch.manual_seed(seed)
    ids = torch.randint(3, vocab, (rows, source))
    labels = torch.randint(3, vocab, (rows, target))
    lengths = torch.tensor([[source], [1], [5], [8]])[:rows]
    ends = torch.tensor([[target], [6], [1], [4]])[:rows]
    labels[torch.arange(target) >= ends] = IGNORE
    mask = (torch.arange(source) < lengths).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def both(sizes, tmp_path):
    theirs = bart(*sizes)
    theirs.save_pretrained(tmp_path)
    return Seq2Seq.from_bart(tmp_path), theirs


@pytest.mark.parametrize("sizes", SIZES)
def test_equal_to_bart(sizes, tmp_path):
    """Logits, the loss, and gradients of every tensor that both have."""
    ours, theirs = (model.double() for model in both(sizes, tmp_path))
    batch = batch_of(sizes[0])
    inputs = losses_seq2seq.seq2seq_inputs(ours, batch)
    expected = theirs(**inputs, output_attentions=False).logits
    real = batch["labels"] != IGNORE
    assert (ours(**inputs).logits - expected)[real].abs().max() < 1e-12
    loss = losses_seq2seq.sequence_to_sequence()
    mine, n = loss(ours, batch)
    same, count = loss(theirs, batch)
    # Theirs shifts labels by itself, and divides.
    whole = theirs(batch["input_ids"], batch["attention_mask"], labels=batch["labels"]).loss
    assert n == count == real.sum()
    assert mine.item() == pytest.approx(same.item(), rel=1e-12)
    assert (mine / n).item() == pytest.approx(whole.item(), rel=1e-12)
    mine.backward()
    same.backward()
    names = {"model.shared.weight": ours.embeddings.weight}
    names["model.decoder.layers.0.encoder_attn.k_proj.weight"] = ours.decoder.blocks[
        0
    ].cross_key.weight
    names["model.encoder.layers.0.self_attn.v_proj.bias"] = ours.encoder.blocks[0].value.bias
    for name, parameter in names.items():
        other = theirs.get_parameter(name).grad
        assert (parameter.grad - other).abs().max() < 1e-10 * other.abs().max(), name


@pytest.mark.parametrize("sizes", SIZES)
def test_attention_is_barts_on_request(sizes, tmp_path):
    ours, theirs = both(sizes, tmp_path)
    theirs.set_attn_implementation("eager")
    inputs = losses_seq2seq.seq2seq_inputs(ours, batch_of(sizes[0]))
    with torch.no_grad():
        found = ours(**inputs, weights=True)
        expected = theirs(**inputs, output_attentions=True).cross_attentions
    assert len(found.attention) == len(expected) == sizes[3]
    for mine, other in zip(found.attention, expected, strict=True):
        assert (mine - other).abs().max() < 1e-5
        assert torch.allclose(mine.sum(-1), torch.ones(()))
        assert (mine.amax(dim=(1, 2)) * (1 - inputs["attention_mask"])).max() == 0
    assert ours(**inputs).attention is None


def test_the_cross_block_is_torchs_decoder_layer():
    """Our weights in torch.nn, and the same mathematics."""
    torch.manual_seed(0)
    block = CrossBlock(24, 3, 40, 0.0, 1e-5).double().eval()
    theirs = nn.TransformerDecoderLayer(24, 3, 40, 0.0, functional.gelu, batch_first=True)
    theirs.double().eval()

    def copy_attention(attention, query, key, value, output):
        attention.in_proj_weight.copy_(torch.cat([query.weight, key.weight, value.weight]))
        attention.in_proj_bias.copy_(torch.cat([query.bias, key.bias, value.bias]))
        attention.out_proj.load_state_dict(output.state_dict())

    with torch.no_grad():
        copy_attention(
            theirs.self_attn, block.query, block.key, block.value, block.attention_output
        )
        copy_attention(
            theirs.multihead_attn,
            block.cross_query,
            block.cross_key,
            block.cross_value,
            block.cross_output,
        )
        pairs = [("norm1", "attention_norm"), ("norm2", "cross_norm"), ("linear1", "up")]
        pairs += [("norm3", "feed_forward_norm"), ("linear2", "down")]
        for name, own in pairs:
            getattr(theirs, name).load_state_dict(getattr(block, own).state_dict())
        x, memory = torch.randn(2, 5, 24).double(), torch.randn(2, 7, 24).double()
        padding = torch.arange(7) >= torch.tensor([[7], [4]])
        ahead = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
        expected = theirs(x, memory, ahead, memory_key_padding_mask=padding, tgt_is_causal=True)
        found = block(x, block.source(memory), ~padding[:, None, None, :], None)[0]
    assert (found - expected).abs().max() < 1e-13


# ------------------------------------------------------------------------------- the loss


def test_teacher_forcing_by_eye():
    labels = torch.tensor([[7, 8, 2], [9, 2, IGNORE], [2, IGNORE, IGNORE]])
    assert losses_seq2seq.teacher_forced(labels, 1).tolist() == [
        [1, 7, 8],
        [1, 9, 2],
        [1, 2, 1],
    ]
    with pytest.raises(ParameterError, match="row 1 of the batch: -100 stands before"):
        losses_seq2seq.teacher_forced(torch.tensor([[7, 8, 2], [9, IGNORE, 2]]), 1)
    with pytest.raises(ParameterError, match="says nothing of a decoder's first token"):
        losses_seq2seq.sequence_to_sequence()(tiny_chat.decoder(), {"labels": labels})
    with pytest.raises(ModelError, match="needs decoder_input_ids"):
        tiny_pairs.model()(labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_by_hand(smoothing):
    model, batch = tiny_pairs.model(), batch_of(50)
    found, n = losses_seq2seq.sequence_to_sequence(smoothing)(model, batch)
    hand = 0.0
    for ids, mask, labels in zip(*batch.values(), strict=True):
        target = labels[labels != IGNORE]
        for t, right in enumerate(target):
            given = torch.cat([torch.tensor([1]), target[:t]])
            source = ids[mask.bool()]
            logits = model(source[None], None, given[None]).logits[0, -1]
            log_p = logits.log_softmax(dim=0)
            hand -= ((1 - smoothing) * log_p[right] + smoothing * log_p.mean()).item()
    assert found.item() == pytest.approx(hand, rel=1e-10)
    assert n == (batch["labels"] != IGNORE).sum()
    with pytest.raises(ParameterError, match="label_smoothing=1"):
        losses_seq2seq.sequence_to_sequence(1)


def test_the_detector_of_a_wrong_shift(monkeypatch):
    """Broken variants: no shift (the answer is given away), and a shift of two."""
    for broken in (
        lambda labels, begin: labels.clamp(min=0),
        lambda labels, begin: functional.pad(labels, (2, 0), value=begin)[:, :-2].clamp(min=0),
    ):
        monkeypatch.setattr(losses_seq2seq, "teacher_forced", broken)
        with pytest.raises(AssertionError):
            test_the_loss_by_hand(0.0)


def test_the_decoder_never_looks_ahead_nor_into_padding():
    model, batch = tiny_pairs.model().eval(), batch_of(50)
    inputs = losses_seq2seq.seq2seq_inputs(model, batch)
    before = model(**inputs).logits
    changed = copy.deepcopy(inputs)
    changed["decoder_input_ids"][:, 4:] = 9
    assert torch.equal(model(**changed).logits[:, :4], before[:, :4])
    changed = copy.deepcopy(inputs)
    changed["input_ids"][inputs["attention_mask"] == 0] = 9
    assert (model(**changed).logits - before).abs().max() < 1e-12
    changed["input_ids"][0, 0] = 9
    assert (model(**changed).logits[0] - before[0]).abs().max() > 1e-3


# ------------------------------------------------------------------- cache, files, training


def test_step_by_step_with_a_cache_is_all_at_once():
    model, batch = tiny_pairs.model().eval(), batch_of(50)
    inputs = losses_seq2seq.seq2seq_inputs(model, batch)
    given = inputs.pop("decoder_input_ids")
    whole = model(**inputs, decoder_input_ids=given, weights=True)
    for cuts in ([1] * 7, [3, 1, 3], [7]):
        kept, logits, attention = model.read(**inputs), [], []
        for part in given.split(cuts, dim=1):
            output, kept = model.write(part, kept, weights=True)
            logits.append(output.logits)
            attention.append(output.attention[1])
        assert kept.length == 7
        assert (torch.cat(logits, dim=1) - whole.logits).abs().max() < 1e-12
        assert (torch.cat(attention, dim=2) - whole.attention[1]).abs().max() < 1e-12


def test_saved_and_loaded(tmp_path):
    model = tiny_pairs.model(dropout=0.1).float().eval()
    again = Seq2Seq.load(model.save(tmp_path / "model"))
    inputs = losses_seq2seq.seq2seq_inputs(model, batch_of(50))
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert again.config == model.config and not again.training
    with pytest.raises(ModelError, match="holds a model of kind 'seq2seq'"):
        type(tiny_chat.decoder()).load(tmp_path / "model")


def test_sizes_that_cannot_be_are_refused(tmp_path):
    for sizes in ({"heads": 5}, {"dropout": 1.0}, {"begin": 50}, {"decoder_layers": 0}):
        with pytest.raises(ModelError, match=next(iter(sizes))):
            tiny_pairs.model(**{"dropout": 0.0} | sizes)
    with pytest.raises(ModelError, match="41 tokens, but the model has positions for 40"):
        tiny_pairs.model()(torch.ones(1, 41, dtype=torch.long), None, torch.ones(1, 3).long())
    left = torch.tensor([[0, 1, 1]])
    with pytest.raises(ModelError, match="padding before tokens, which moves"):
        tiny_pairs.model().read(torch.ones(1, 3, dtype=torch.long), left)
    bart(*SIZES[0], scale_embedding=True).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="scale_embedding is True; ours has False only"):
        Seq2Seq.from_bart(tmp_path)


def test_a_new_token_is_as_likely_as_the_average():
    model, batch = tiny_pairs.model(vocab=263 + 5).eval(), batch_of(50)
    inputs = losses_seq2seq.seq2seq_inputs(model, batch)
    before = model(**inputs).logits[..., :263].mean(dim=-1)
    added = added_tokens.add_tokens(model, tiny_chat.tokenizer(), ["<a>"], multiple_of=8)
    assert added.ids == [263] and added.rows == (268, 268)
    assert (model(**inputs).logits[..., 263] - before).abs().max() < 1e-12
    added = added_tokens.add_tokens(model, tiny_chat.tokenizer(), [f"<{i}>" for i in range(9)])
    assert added.rows == (268, 272) and model.config.vocab == 272


def test_adapters_are_on_both_halves():
    names = lora.add(tiny_pairs.model())
    assert len(names) == 2 * 6 + 2 * 10
    assert "encoder.blocks.0.query" in names and "decoder.blocks.1.cross_value" in names


def learnable():
    return tiny_pairs.examples(40, low=5, high=12)


def test_it_learns_and_resumes_exactly(tmp_path):
    def run(folder, resume=False, steps=8):
        model = tiny_pairs.model(dropout=0.2)
        batches = Batches(learnable(), 16, micro_batch_size=8)
        loss = losses_seq2seq.sequence_to_sequence(0.1)
        evaluate = language_evaluation(
            Batches(learnable(), 20, shuffle=False), losses_seq2seq.sequence_to_sequence()
        )
        state = fit(
            model, batches, loss, folder=folder, resume=resume, max_steps=8, lr=1e-2,
            epochs=20, save_every=1, precision="fp32", evaluate=evaluate, metric="-loss",
            evaluate_every=4, callbacks=[Stop(steps)],
        )  # fmt: skip
        return model, state

    class Stop:
        def __init__(self, steps):
            self.steps = steps

        def on_step(self, model, state):
            if state.step > self.steps:
                raise KeyboardInterrupt

        def on_evaluate(self, model, state): ...

    whole, expected = run(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", steps=3)
    again, found = run(tmp_path / "b", resume=True)
    assert found.losses == expected.losses and found.curve == expected.curve
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True)
    )
    assert found.evaluations[-1]["loss"] < 0.9 * found.losses[0]


# ------------------------------------------------------------------------------- encoding

WORDS = char_tokenizer(list("abcdefgh "), 20)


def encoded(*pairs, **options):
    data = Dataset.from_dict({"source": [p[0] for p in pairs], "target": [p[1] for p in pairs]})
    return encode_pairs.pairs(DatasetDict(train=data), WORDS, **options)["train"]


def test_pairs_by_eye():
    end, a = WORDS.eos_token_id, WORDS.convert_tokens_to_ids("a")
    found = encoded(("abc", "b"), ("a", "abcdefgh"), max_length=8, max_target=5)
    assert found["input_ids"] == [[a, a + 1, a + 2, end], [a, end]]
    # The second target is cut, and nothing says that it ends.
    assert found["labels"] == [[a + 1, end], [a, a + 1, a + 2, a + 3, a + 4]]
    assert found["cut"] == [False, True] and found["row"] == [0, 1]
    cut = encoded(("abcdefgh", "a"), max_length=8)
    assert cut["input_ids"][0][-2:] == [a + 6, end] and cut["cut"] == [True]
    just = encoded(("abcdefg", "abcdefg"), max_length=8)
    assert just["cut"] == [False] and just["labels"][0][-1] == end
    batch = Examples.of(found, WORDS.pad_token_id).batch([0, 1])
    assert batch["labels"].shape == (2, 5) and batch["input_ids"].shape == (2, 4)
    assert batch["labels"][0].tolist() == [a + 1, end, IGNORE, IGNORE, IGNORE]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_bad_pairs_are_named():
    for side in (("", "b"), ("a", "  "), ("a", None)):
        with pytest.raises(EncodeError, match="train, row 1: the (source|target) is"):
            encoded(("a", "b"), side, max_length=8)
    with pytest.raises(EncodeError, match="train has no column 'target'; there are source"):
        encode_pairs.pairs(DatasetDict(train=Dataset.from_dict({"source": ["a"]})), WORDS, 8)
    for limit in (1, 21):
        with pytest.raises(EncodeError, match=f"{limit} tokens for a source"):
            encoded(("a", "b"), max_length=limit)
    silent = char_tokenizer(list("ab"))
    silent.eos_token = None
    with pytest.raises(EncodeError, match="tokenizer of the targets has no end token"):
        data = DatasetDict(train=Dataset.from_dict({"source": ["a"], "target": ["a"]}))
        encode_pairs.pairs(data, WORDS, 8, target_tokenizer=silent)
