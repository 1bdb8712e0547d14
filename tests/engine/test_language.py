"""Language models: encoding, masks, the one shift, perplexity, n-grams."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sftkit import encode_lm, losses_lm
from sftkit.batches import IGNORE, Batches, Examples, Ragged
from sftkit.batches_lm import MaskedBatches, uniform
from sftkit.encode_lm import SPECIAL, char_tokenizer
from sftkit.errors import EncodeError, ParameterError
from sftkit.evaluate.language import language_evaluation, perplexity, token_loss
from sftkit.fit import fit
from sftkit.losses import cross_entropy
from sftkit.models.decoder import Decoder, DecoderConfig
from sftkit.models.encoder import Encoder, EncoderConfig
from sftkit.models.ngrams import KneserNey
from sftkit.models.starting import set_dropout, sine_positions

TEXTS = ["abcabcab", "b", "cabbage a", "", "faced a bad cab", "ＡＢ１ z"]
NO_LETTER = ["xyz", "?"]  # unknown to the tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return char_tokenizer(list("abcdefg 1"), max_length=64)


# -- the tokenizer and the encoders -----------------------------------------------------------


def test_characters_become_ids_and_come_back(tokenizer) -> None:
    ids = tokenizer("ＡＢ１ z\n")["input_ids"]
    known = ["[CLS]", "a", "b", "1", " ", "[UNK]", "[UNK]", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(ids) == known
    assert tokenizer.pad_token_id == 0 and len(tokenizer) == 9 + len(SPECIAL)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab1 "
    assert tokenizer("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]


def test_a_tokenizer_needs_single_different_characters() -> None:
    for wrong in (["a", "a"], ["ab"], [""]):
        with pytest.raises(EncodeError):
            char_tokenizer(wrong)


@pytest.mark.parametrize("length", [2, 3, 5, 64])
def test_causal_predicts_every_token_once(tokenizer, length) -> None:
    pieces = encode_lm.causal(TEXTS, tokenizer, length)
    predicted = defaultdict(list)
    for piece in pieces:
        assert len(piece["input_ids"]) == len(piece["labels"]) <= length
        assert piece["labels"][0] == IGNORE
        # What is supervised is the token at its own place: nothing is shifted here.
        assert piece["labels"][1:] == piece["input_ids"][1:]
        predicted[piece["row"]] += piece["labels"][1:]
    for row, text in enumerate(TEXTS):
        assert predicted[row] == tokenizer(text)["input_ids"][1:]  # all but [CLS], end included


@pytest.mark.parametrize("length", [3, 5, 64])
def test_masked_pieces_hold_every_character_once(tokenizer, length) -> None:
    pieces = encode_lm.masked(TEXTS, tokenizer, length)
    seen, unknown = defaultdict(list), tokenizer.unk_token_id
    for piece in pieces:
        ids, labels = piece["input_ids"], piece["labels"]
        assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert labels[0] == labels[-1] == IGNORE
        assert labels[1:-1] == [IGNORE if i == unknown else i for i in ids[1:-1]]
        seen[piece["row"]] += ids[1:-1]
    for row, text in enumerate(TEXTS):
        whole = tokenizer(text, add_special_tokens=False)["input_ids"]
        # A piece of unknown characters alone is left out; all else is there, in order.
        known, kept = ([i for i in ids if i != unknown] for ids in (whole, seen[row]))
        assert known == kept


def test_pieces_of_unknown_characters_are_left_out(tokenizer) -> None:
    assert [p["row"] for p in encode_lm.masked([*NO_LETTER, "a"], tokenizer, 8)] == [2]


def test_lengths_are_checked(tokenizer) -> None:
    for wrong in (lambda: encode_lm.causal(["a"], tokenizer, 1),
                  lambda: encode_lm.masked(["a"], tokenizer, 2),
                  lambda: encode_lm.masked(["a"], tokenizer, 65),
                  lambda: encode_lm.causal([], tokenizer)):  # fmt: skip
        with pytest.raises(EncodeError):
            wrong()


# -- the shift (trap 11), and what is counted (trap 2) ----------------------------------------


class Fixed(torch.nn.Module):
    """Gives the logits that it was made with, whatever it reads."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=self.logits)


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
    """Token by token: the logits at t - 1 predict the token at t."""
    total, n = 0.0, 0
    for b in range(labels.shape[0]):
        for t in range(1, labels.shape[1]):
            if labels[b, t] != IGNORE:
                scores = logits[b, t - 1].tolist()
                z = math.log(sum(math.exp(s) for s in scores))
                total += z - scores[int(labels[b, t])]
                n += 1
    return total, n


def shifted_twice(logits, labels):
    return logits[:, :-2], labels[:, 2:]


def not_shifted(logits, labels):
    return logits, labels


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 5, 4), (4, 9, 11)])
def test_the_causal_loss_is_the_one_by_hand(shape, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(shape, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, shape[2], shape[:2], generator=generator)
    labels[-1, -1] = IGNORE
    # The first label stands for a caller who labels every token: it must not be counted.
    batch = {"input_ids": labels, "labels": labels}
    expected, n = by_hand(logits, labels)
    loss = losses_lm.causal_lm()
    found, count = loss(Fixed(logits), batch)
    assert float(found) == pytest.approx(expected, abs=1e-9) and int(count) == n
    for broken in (shifted_twice, not_shifted):
        monkeypatch.setattr(losses_lm, "next_token", broken)
        wrong, _ = loss(Fixed(logits), batch)
        assert abs(float(wrong) - expected) > 1e-3, broken.__name__


def test_the_mean_does_not_depend_on_the_grouping(tokenizer) -> None:
    examples = Examples.of(encode_lm.causal(TEXTS, tokenizer, 6))
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(14, 8, 1, 2, 2, 16, 16)).eval()
    means, wrong = set(), set()
    for size in (1, 2, 3, len(examples)):
        batches = Batches(examples, size, by_length=False, shuffle=False)
        loss_sum, n = token_loss(model, batches, losses_lm.causal_lm())
        means.add(round(loss_sum / n, 5))
        # Trap 2: a denominator from the places of the batch, before the shift.
        places = sum(b["attention_mask"].numel() for s in batches.epoch(0) for b in s)
        wrong.add(round(loss_sum / places, 5))
    assert len(means) == 1
    assert len(wrong) > 1


def test_a_copying_model_is_seen_through(tokenizer) -> None:
    """Logits that name the present token are right without the shift, and wrong with it."""
    ids = torch.tensor([tokenizer("abcd")["input_ids"]])
    copying = Fixed(20.0 * torch.nn.functional.one_hot(ids, 14).double())
    batch = {"input_ids": ids, "labels": ids}
    loss_sum, n = losses_lm.causal_lm()(copying, batch)
    assert float(loss_sum / n) > 10
    unshifted, _ = cross_entropy(copying.logits, ids)
    assert float(unshifted) < 1e-3  # the broken loss would be content with a copy


# -- masks ------------------------------------------------------------------------------------


def masked_batches(tokenizer, texts=TEXTS, **options) -> MaskedBatches:
    examples = Examples.of(encode_lm.masked(texts, tokenizer, 64), tokenizer.pad_token_id)
    known = {"mask_id": tokenizer.mask_token_id, "tokens": (len(SPECIAL), len(tokenizer))}
    return MaskedBatches(examples, options.pop("batch_size", 3), **known, **options)


def test_masks_follow_their_shares(tokenizer) -> None:
    batches = masked_batches(tokenizer, ["abcdefg 1" * 6] * 400, batch_size=400)
    (batch,) = next(batches.epoch(0))
    ids = torch.from_numpy(batches.examples.columns["input_ids"].values.astype(np.int64))
    ids = ids.view(400, -1)
    batch["row"].sort()
    chosen = batch["labels"] != IGNORE
    assert not chosen[:, 0].any() and not chosen[:, -1].any()  # special tokens never
    characters = chosen[:, 1:-1].numel()
    assert chosen.sum() / characters == pytest.approx(0.15, abs=0.01)
    assert (batch["labels"][chosen] == ids[chosen]).all()
    now = batch["input_ids"]
    assert (now[~chosen] == ids[~chosen]).all()
    masked = (now[chosen] == tokenizer.mask_token_id).float().mean()
    kept = (now[chosen] == ids[chosen]).float().mean()
    assert masked == pytest.approx(0.8, abs=0.03)
    assert kept == pytest.approx(0.1 + 0.1 / 9, abs=0.03)  # some are replaced by themselves
    assert now[chosen].min() >= tokenizer.mask_token_id
    assert len(set(now[chosen].tolist())) == 10  # the mask, and each of nine characters


def test_a_mask_belongs_to_its_piece_and_epoch(tokenizer) -> None:
    def masks(batches, epoch):
        out = {}
        for step in batches.epoch(epoch):
            for batch in step:
                for row, ids, mask in zip(
                    batch["row"], batch["input_ids"], batch["attention_mask"], strict=True
                ):
                    out[int(row)] = ids[mask.bool()].tolist()
        return out

    small = masks(masked_batches(tokenizer, batch_size=1), 3)
    assert small == masks(masked_batches(tokenizer, batch_size=5, by_length=False), 3)
    assert small == masks(masked_batches(tokenizer, batch_size=4, micro_batch_size=2), 3)
    assert small != masks(masked_batches(tokenizer), 4)
    assert small != masks(masked_batches(tokenizer, seed=1), 3)
    fixed = masked_batches(tokenizer, fixed=7)
    assert masks(fixed, 0) == masks(fixed, 1) != small


def test_hashed_numbers_are_even() -> None:
    values = uniform(0, 5, np.arange(300), 200, 1)
    assert values.shape == (300, 200) and values.min() >= 0 and values.max() < 1
    counts = np.histogram(values, 20, (0, 1))[0]
    assert abs(counts - 3000).max() < 5 * 3000**0.5
    for draws in (uniform(0, 6, np.arange(300), 200, 1), uniform(0, 5, np.arange(300), 200, 2)):
        assert abs(np.corrcoef(values.ravel(), draws.ravel())[0, 1]) < 0.02
    assert (uniform(0, 5, np.array([7, 3]), 90, 1) == values[[7, 3], :90]).all()


def test_every_piece_hides_something(tokenizer) -> None:
    """Batches of very short texts would otherwise have nothing to predict (trap 10)."""
    batches = masked_batches(tokenizer, list("abcdefg") * 9 + ["ab", "?a"], batch_size=1)
    for epoch in range(2):
        for ((batch),) in batches.epoch(epoch):
            assert (batch["labels"] != IGNORE).sum() >= 1
            assert (batch["labels"][:, [0, -1]] == IGNORE).all()
    rare = [uniform(0, 0, np.array([i]), 3, 0)[0, 1] < 0.15 for i in range(63)]
    assert 0 < sum(rare) < 40  # without the rule, most of them would hide nothing


def test_a_rate_is_checked(tokenizer) -> None:
    for rate in (0, -0.1, 1.5):
        with pytest.raises(ParameterError):
            masked_batches(tokenizer, rate=rate)


def encoder(vocab: int, dropout: float = 0.1) -> Encoder:
    torch.manual_seed(3)
    return Encoder(EncoderConfig(vocab, 16, 2, 2, 32, 64, dropout), "mlm")


def test_logits_for_some_places_are_those_of_all(tokenizer) -> None:
    model = encoder(len(tokenizer)).eval()
    (batch,) = next(masked_batches(tokenizer, batch_size=5).epoch(0))
    found, n = losses_lm.masked_lm()(model, batch)
    model.takes_places = False
    expected, count = losses_lm.masked_lm()(model, batch)
    assert int(n) == int(count) > 0
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_masked_training_goes_on_exactly(tokenizer, tmp_path, stop) -> None:
    options = {"epochs": 3, "lr": 1e-2, "schedule": "constant", "save_every": 1, "keep": 9}
    options["precision"] = "fp32"

    def train(folder, resume=False, steps=None, batches=None):
        model = encoder(len(tokenizer))
        state = fit(model, batches or masked_batches(tokenizer), losses_lm.masked_lm(),
                    folder=folder, resume=resume, max_steps=steps, **options)  # fmt: skip
        return model, state

    whole, state = train(tmp_path / "whole")
    folder = tmp_path / "whole"
    import shutil

    part = tmp_path / "part"
    part.mkdir()
    shutil.copytree(folder / f"step-{stop:08d}", part / f"step-{stop:08d}")
    again, resumed = train(part, resume=True)
    assert resumed.losses == state.losses
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)

    class Forgetful(MaskedBatches):
        """The broken variant: masks from a generator that nobody saves."""

        drawn = 0

        def masked(self, rows, epoch):
            Forgetful.drawn += 1
            return super().masked(rows, epoch + Forgetful.drawn)

    def forgetful():
        plain = masked_batches(tokenizer)
        return Forgetful(plain.examples, 3, mask_id=plain.mask_id, tokens=plain.tokens)

    _, state = train(tmp_path / "whole2", batches=forgetful())
    part2 = tmp_path / "part2"
    part2.mkdir()
    name = f"step-{stop:08d}"
    shutil.copytree(tmp_path / "whole2" / name, part2 / name)
    _, resumed = train(part2, resume=True, batches=forgetful())
    assert resumed.losses[stop:] != state.losses[stop:]


def test_evaluation_is_the_same_for_any_batch_size(tokenizer) -> None:
    model = encoder(len(tokenizer)).train()
    found = []
    for size in (1, 2, 5):
        batches = masked_batches(tokenizer, batch_size=size, shuffle=False, fixed=0)
        found.append(language_evaluation(batches, losses_lm.masked_lm())(model))
        assert model.training
    for other in found[1:]:
        assert other["loss"] == pytest.approx(found[0]["loss"], abs=1e-5)
    assert found[0]["perplexity"] == pytest.approx(math.exp(found[0]["loss"]))
    assert perplexity(2 * math.log(7), 2) == pytest.approx(7)


# -- n-grams ----------------------------------------------------------------------------------


def slow_kneser_ney(texts, order, vocab, begin, discount):
    """The definition, recursion and dictionaries, written without the package."""
    padded = [[begin] * (order - 1) + list(text) for text in texts]
    grams = [Counter() for _ in range(order + 1)]
    for text in padded:
        for end in range(order - 1, len(text)):
            grams[order][tuple(text[end - order + 1 : end + 1])] += 1
    for k in range(order - 1, 0, -1):
        for longer in grams[k + 1]:
            grams[k][longer[1:]] += 1

    def prob(context, token):
        k = len(context) + 1
        lower = prob(context[1:], token) if context else 1 / vocab
        after = {g: c for g, c in grams[k].items() if g[:-1] == context}
        if not after:
            return lower
        total = sum(after.values())
        count = after.get((*context, token), 0)
        return max(count - discount, 0) / total + discount * len(after) / total * lower

    return lambda context, token: prob(
        tuple(([begin] * (order - 1) + list(context))[-(order - 1) :]) if order > 1 else (),
        token,
    )


@pytest.mark.parametrize("order,vocab,seed", [(1, 5, 0), (2, 6, 1), (3, 4, 2), (5, 3, 3)])
def test_kneser_ney_is_its_definition(order, vocab, seed) -> None:
    generator = np.random.default_rng(seed)
    texts = [generator.integers(1, vocab, n).tolist() for n in (7, 1, 12, 0, 5)]
    model = KneserNey(texts, order, vocab, 0, discount=0.6)
    slow = slow_kneser_ney(texts, order, vocab, 0, 0.6)
    new = [generator.integers(1, vocab, n).tolist() for n in (6, 3)]
    expected = [math.log(slow(text[:i], text[i])) for text in new for i in range(len(text))]
    np.testing.assert_allclose(model.log_probs(new), expected, atol=1e-12)
    for context in ([], [1], new[0]):
        probs = model.next_probs(context)
        assert probs.sum() == pytest.approx(1, abs=1e-12) and (probs > 0).all()
        assert probs[1] == pytest.approx(slow(context, 1), abs=1e-12)


def test_kneser_ney_beats_the_unigram_and_samples() -> None:
    texts = [[1, 2, 3] * 20, [2, 3, 1] * 10]
    held = [[3, 1, 2] * 8]
    one, three = (KneserNey(texts, order, 4, 0) for order in (1, 3))
    assert three.log_probs(held).mean() > one.log_probs(held).mean() + 0.5
    sample = three.sample(30, np.random.default_rng(0), [1])
    assert len(sample) == 31 and set(sample) <= {0, 1, 2, 3}


def test_kneser_ney_refuses_what_does_not_fit() -> None:
    with pytest.raises(ParameterError, match="63 bits"):
        KneserNey([[1]], 8, 4000, 0)
    with pytest.raises(ParameterError):
        KneserNey([[1]], 2, 4, 0, discount=1.0)


def test_ragged_rows_of_every_length(tokenizer) -> None:
    """No row is lost on the way into batches: what fit sees is what was encoded."""
    pieces = encode_lm.masked(TEXTS, tokenizer, 5)
    examples = Examples.of(pieces)
    assert isinstance(examples.columns["labels"], Ragged)
    assert sum(examples.lengths) == sum(len(p["input_ids"]) for p in pieces)


def test_positions_start_as_one_rotation() -> None:
    """The product of two places' vectors depends on their distance alone."""
    table = sine_positions(encoder(14)).body.embeddings.position.weight.detach()
    for distance in (0, 1, 5):
        products = (table[: 64 - distance] * table[distance:]).sum(dim=1)
        torch.testing.assert_close(products, products[:1].expand_as(products))
    assert table.abs().max() == pytest.approx(0.02, rel=1e-3)


def test_dropout_is_set_everywhere() -> None:
    model = encoder(14).train()
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    assert not torch.equal(model(ids).logits, model(ids).logits)
    set_dropout(model, 0.0)
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert model.config.dropout == 0.1


def test_a_perplexity_beyond_all_numbers_is_infinite():
    assert perplexity(800.0, 1) == math.inf
    with pytest.raises(ParameterError, match="no token is supervised"):
        perplexity(0.0, 0)
