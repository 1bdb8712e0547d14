"""Traps of adapters, new tokens and answers' spans: 17, 22 and 23."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, BertForQuestionAnswering

from sftkit import losses_lm, losses_spans
from sftkit.batches import Batches
from sftkit.errors import ModelError
from sftkit.fit import fit
from sftkit.models import added_tokens, lora, lora_files
from sftkit.models.decoder import Decoder
from tests.engine import tiny, tiny_chat
from tests.traps.test_training import sees

# -- trap 17: LoRA with tied or resized embeddings ---------------------------------------------

KNOWN = 263  # tokens of the tiny tokenizer
TARGETS = {"Llama": ["q_proj", "down_proj", "lm_head"], "decoder": ["query", "down"]}
MAKE = {"Llama": tiny_chat.llama, "decoder": tiny_chat.decoder}


def adapted(name, resized):
    """A model with tied embeddings, with a new token or not, and adapters that learned."""
    model = MAKE[name](vocab=KNOWN)
    if resized:
        added_tokens.add_tokens(model, tiny_chat.tokenizer(), ["<a>"])
    lora.add(model, TARGETS[name], rank=2)
    batches = Batches(tiny_chat.examples(8), 8)
    fit(model, batches, losses_lm.causal_lm(), max_steps=3, lr=0.1, precision="fp32")
    return model


def the_logits_survive(name, resized, folder):
    """Merged, taken off, saved whole or as adapters, and loaded: one model."""
    ids = torch.tensor([[7, 8, 9, KNOWN if resized else 10, 11]])

    def agrees(what, model):
        with torch.no_grad():
            found = model.eval()(input_ids=ids).logits
        error = (found - expected).abs().max()
        assert error < 1e-9, f"{what}: {error:.2g}"

    model = adapted(name, resized)
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        plain = MAKE[name](vocab=KNOWN).eval()(input_ids=ids[:, :3]).logits
        assert (expected[:, :3, :KNOWN] - plain).abs().max() > 1e-2, "nothing was learned"
    lora_files.save(model, folder / "adapter")
    agrees("adapters loaded", lora_files.load(MAKE[name](vocab=KNOWN), folder / "adapter"))
    lora.merge(model)
    agrees("merged", model)
    lora_files.save(model, folder / "while merged")
    loaded = lora_files.load(MAKE[name](vocab=KNOWN), folder / "while merged")
    agrees("adapters saved while merged", loaded)
    lora.unmerge(model)
    agrees("unmerged", model)
    assert name == "decoder" or model.config.tie_word_embeddings
    lora.merge(model)
    lora.remove(model)
    agrees("taken off", model)
    if name == "decoder":
        model.save(folder / "whole")
        # Ours keeps float32 in files; what is lost by that is not what is tested.
        expected = expected.float()
        again = Decoder.load(folder / "whole")
        with torch.no_grad():
            assert torch.allclose(again(input_ids=ids).logits, expected, atol=1e-4)
        return
    # Readers of the folder believe the config: the output is not the table any more.
    assert not model.config.tie_word_embeddings
    model.save_pretrained(folder / "whole")
    again = AutoModelForCausalLM.from_pretrained(folder / "whole", dtype=torch.float64)
    agrees("saved whole and loaded", again)


@pytest.mark.parametrize("resized", [False, True])
@pytest.mark.parametrize("name", MAKE)
def test_trap_17(name, resized, tmp_path, monkeypatch):
    the_logits_survive(name, resized, tmp_path / "ours")
    if name == "Llama":

        @torch.no_grad()
        def in_place(model):
            for layer in lora.layers(model).values():
                layer.weight += layer.update()  # of the tied table as well
                layer.kept.append(layer.weight)

        with monkeypatch.context() as patch:
            patch.setattr(lora, "merge", in_place)
            sees(lambda: the_logits_survive(name, resized, tmp_path / "in place"))
    if resized:
        # Adapters alone in the file: the new row is whatever the reader draws for it.
        with monkeypatch.context() as patch:
            patch.setattr(lora_files, "added_rows", lambda model: [])
            patch.setattr(lora_files, "_refuse_other", lambda *known: None)
            sees(lambda: the_logits_survive(name, resized, tmp_path / "row lost"))


def test_adapters_are_not_put_on_another_base(tmp_path):
    lora_files.save(adapted("Llama", False), tmp_path / "adapter")
    with pytest.raises(ModelError, match="belongs to another model"):
        lora_files.load(tiny_chat.llama(seed=1, vocab=KNOWN), tmp_path / "adapter")


# -- trap 22: new vocabulary rows at random scale ----------------------------------------------


def a_new_token_is_as_any_old_one(add):
    """Its logit is the mean of the others', and the loss of old texts hardly changes."""
    torch.manual_seed(0)
    for tied, padded in ((True, 0), (False, 0), (True, 9), (False, 9)):
        model = tiny_chat.decoder(vocab=KNOWN + padded, tied=tied)
        with torch.no_grad():
            for tensor in added_tokens.vocabulary_tensors(model).values():
                tensor[KNOWN:] *= 50  # rows that pad the table: nobody has trained them
        ids = torch.randint(0, KNOWN, (4, 12))
        with torch.no_grad():
            before = model(ids).logits[..., :KNOWN]
            (new,) = add(model, tiny_chat.tokenizer(), ["<a>"])
            after = model(ids).logits
        error = (after[..., new] - before.mean(dim=-1)).abs().max()
        assert error < 1e-9, f"tied {tied}, {padded} rows of padding: off by {error:.2g}"
        table = model.embeddings.weight
        assert torch.allclose(table[new], table[:KNOWN].mean(dim=0))


def test_trap_22():
    a_new_token_is_as_any_old_one(lambda *known: added_tokens.add_tokens(*known).ids)

    def at_random(model, tokenizer, tokens):
        tokenizer.add_tokens(tokens)
        added_tokens.grow(model, max(model.config.vocab, len(tokenizer)))
        rows = added_tokens.vocabulary_tensors(model).values()
        for tensor in rows:
            torch.nn.init.normal_(tensor[KNOWN:])
        return [KNOWN]

    def rows_of_padding_left(model, tokenizer, tokens):
        if model.config.vocab > KNOWN:  # there is room: nothing seems to be missing
            return [KNOWN]
        return added_tokens.add_tokens(model, tokenizer, tokens).ids

    def mean_with_padding(model, tokenizer, tokens):
        for tensor in added_tokens.vocabulary_tensors(model).values():
            tensor[KNOWN:] = tensor.mean(dim=0)
        return rows_of_padding_left(model, tokenizer, tokens)

    def input_only(model, tokenizer, tokens):
        model.vocabulary = lambda: {"input": (model.embeddings, "weight")}
        ids = added_tokens.add_tokens(model, tokenizer, tokens).ids
        if model.output is not None and len(model.output.weight) < model.config.vocab:
            grown = torch.zeros_like(model.embeddings.weight)
            grown[:KNOWN] = model.output.weight[:KNOWN]
            model.output.weight = torch.nn.Parameter(grown)
        return ids

    for broken in (at_random, rows_of_padding_left, mean_with_padding, input_only):
        sees(lambda add=broken: a_new_token_is_as_any_old_one(add))


# -- trap 23: -1 clamped to position 0 in span losses ------------------------------------------


def an_answer_outside_the_window_teaches_nothing(loss):
    """Neither its gradient nor its count; and the first token when that is stated."""
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 6, dtype=torch.float64, requires_grad=True)
    start, end = torch.tensor([2, -1]), torch.tensor([3, -1])
    loss_sum, n = loss(logits[0], logits[1], start, end)
    (gradient,) = torch.autograd.grad(loss_sum / n, logits)
    alone = logits.detach()[:, :1].requires_grad_()
    loss_sum, n = loss(alone[0], alone[1], start[:1], end[:1])
    (expected,) = torch.autograd.grad(loss_sum / n, alone)
    moved = gradient[:, 1].abs().max()
    assert moved == 0, f"the first token's gradient is {gradient[0, 1, 0]:.2g}"
    assert torch.allclose(gradient[:, :1], expected)


def test_trap_23():
    length = torch.tensor([6, 6])

    def ours(start_logits, end_logits, start, end):
        labels = losses_spans.place_labels(start, end, length[: len(start)])
        return losses_spans.span_cross_entropy(start_logits, end_logits, labels)

    an_answer_outside_the_window_teaches_nothing(ours)
    stated = losses_spans.place_labels(
        torch.tensor([2, -1]), torch.tensor([3, -1]), length, "no answer"
    )
    assert stated.tolist() == [[2, 3], [0, 0]]

    def clamped(start_logits, end_logits, start, end):
        labels = torch.stack([start, end], dim=1).clamp(min=0)
        return losses_spans.span_cross_entropy(start_logits, end_logits, labels)

    sees(lambda: an_answer_outside_the_window_teaches_nothing(clamped))

    def transformers(start_logits, end_logits, start, end):
        """As it ships: the loss inside BertForQuestionAnswering."""
        config = tiny.config()
        config.num_labels = 2
        model = BertForQuestionAnswering(config).double()
        joined = torch.stack([start_logits, end_logits], dim=-1)
        model.qa_outputs.forward = lambda hidden: joined
        ids = torch.ones(start_logits.shape, dtype=torch.long)
        output = model(ids, start_positions=start, end_positions=end)
        return output.loss, torch.ones(())

    sees(lambda: an_answer_outside_the_window_teaches_nothing(transformers))
