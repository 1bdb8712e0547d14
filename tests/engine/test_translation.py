"""Vocabularies, denoising, scores of translations, and a model that translates."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import sacrebleu
import torch

from sftkit import encode_pairs, vocabularies
from sftkit.batches import Batches, Examples
from sftkit.batches_denoising import DenoisingBatches, infill
from sftkit.corpora import duplicates, translations
from sftkit.errors import EncodeError, ModelError, ParameterError
from sftkit.evaluate import edits, translating
from sftkit.fit import fit
from sftkit.losses_seq2seq import sequence_to_sequence
from sftkit.models import translate
from sftkit.models.seq2seq_generate import generate

TEXTS = ["Open the file %1", "打开文件 %1", "Close the file", "关闭文件", "Save file {name}"]


@pytest.fixture(scope="module")
def packs():
    return translations.load()


@pytest.fixture(scope="module")
def words(packs):
    train = packs["train"]
    return vocabularies.shared_bpe([*train["source"], *train["target"]], 2_000)


# -- vocabularies ------------------------------------------------------------


def test_every_string_comes_back(packs, words, tmp_path) -> None:
    texts = [t for p in packs.values() for c in ("source", "target") for t in p[c]]
    texts += ["Ω ≠ 𝄞 <0x0A> <s>[MASK]", "a\nb", "%12 {x}%1"]
    words.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(tmp_path)
    for tokenizer in (words, again):
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        back = [translate.text_of(tokenizer, row) for row in ids]
        blanks = [" ".join(t.split(" ")) for t in texts]
        assert [b for b, t in zip(back, blanks, strict=True) if b != t] == []
        assert not any(words.unk_token_id in row for row in ids)
    assert words.tokenize("Close %1?")[-2:] == ["%1", "?"]  # whole, whatever stands beside it


def test_the_vocabulary_does_not_depend_on_the_order_of_rows() -> None:
    texts = TEXTS * 3
    first = vocabularies.shared_bpe(texts, 320).get_vocab()
    random.Random(1).shuffle(texts)
    assert vocabularies.shared_bpe(texts, 320).get_vocab() == first


def test_impossible_vocabularies_are_refused() -> None:
    with pytest.raises(EncodeError, match="size=262"):
        vocabularies.shared_bpe(TEXTS * 2, 262)
    with pytest.raises(EncodeError, match="no texts"):
        vocabularies.shared_bpe([], 500)
    with pytest.raises(EncodeError, match="'Ab' is no symbol"):
        vocabularies.symbols(["Ab"])
    with pytest.raises(EncodeError, match="twice"):
        vocabularies.symbols(["a", "a"])


def test_letters_and_phonemes() -> None:
    every = vocabularies.symbols_in(["cat's", "K AE T"])
    assert every == ["'", "AE", "K", "T", "a", "c", "s", "t"]
    tokenizer = vocabularies.symbols(every)
    assert tokenizer.tokenize("cat's") == ["c", "a", "t", "'", "s"]
    assert translate.text_of(tokenizer, tokenizer("K AE T")["input_ids"]) == "K AE T"


# -- denoising ------------------------------------------------------------


def test_infilling_takes_out_spans_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    for n in (1, 2, 7, 40):
        hidden = []
        for _ in range(200):
            text = list(range(10, 10 + n))
            found = infill(text, 4, generator)
            left = [t for t in found if t != 4]
            assert left == [t for t in text if t in left]  # in order, none twice
            assert 4 in found and (4, 4) not in itertools.pairwise(found)
            hidden.append(n - len(left))
        # A span without tokens uses up its place: P(0) of Poisson(3) is 5 %.
        assert np.mean(hidden) == pytest.approx(max(1, round(0.3 * n)), rel=0.15)
    assert infill([], 4, generator) == []


def batches(seed=0, **options):
    texts = [[10 + i, 11, 12, 13, 14 + i] for i in range(12)]
    ids = {"mask_id": 4, "end_id": 3, "pad_id": 0}
    return DenoisingBatches(texts, 4, seed=seed, **ids, **options)


def test_damage_depends_on_seed_epoch_and_row_alone() -> None:
    rows = np.array([5, 2])
    one, other = batches().damaged(rows, 3), batches().damaged(rows[::-1].copy(), 3)
    width = min(one["input_ids"].shape[1], other["input_ids"].shape[1])
    assert torch.equal(one["input_ids"][0, :width], other["input_ids"][1, :width])
    different = [batches().damaged(rows, e)["input_ids"].tolist() for e in range(6)]
    assert len({str(d) for d in different}) > 3
    assert str(batches(1).damaged(rows, 3)["input_ids"]) != str(one["input_ids"])
    assert one["labels"][0].tolist() == [15, 11, 12, 13, 19, 3]
    assert one["row"].tolist() == [5, 2]
    for row in batches().damaged(np.arange(12), 0)["input_ids"].tolist():
        kept = [t for t in row if t != 0]
        assert kept[-1] == 3 and kept.count(3) == 1


def test_a_run_that_goes_on_sees_the_same_damage() -> None:
    whole = [b["input_ids"].tolist() for step in batches().epoch(2) for b in step]
    rest = [b["input_ids"].tolist() for step in batches().epoch(2, start=1) for b in step]
    assert whole[1:] == rest
    assert batches().settings() != batches(rate=0.5).settings()


@pytest.mark.parametrize(
    ("options", "said"), [({"rate": 1.0}, "rate=1.0"), ({"span": 0.0}, "span")]
)
def test_impossible_damage_is_refused(options, said) -> None:
    with pytest.raises(ParameterError, match=said):
        batches(**options)
    with pytest.raises(ParameterError, match="empty text"):
        DenoisingBatches([[]], 4, mask_id=4, end_id=3, pad_id=0)


def test_no_test_string_enters_denoising(packs, words) -> None:
    """Decoded from what the model is given, not from what went in."""
    texts, left_out = translations.denoising_texts(packs)
    ids = [row[:95] for row in words(texts, add_special_tokens=False)["input_ids"]]
    ends = {"end_id": words.eos_token_id, "pad_id": words.pad_token_id}
    noisy = DenoisingBatches(ids, 64, mask_id=words.mask_token_id, **ends)
    seen = set()
    for step in noisy.epoch(0):
        for batch in step:
            for row in batch["labels"].tolist():
                seen.add(translate.text_of(words, [t for t in row if t >= 0]))
    assert {s for s in texts if len(s) < 80} <= seen
    held = {
        duplicates.normal_form(s)
        for name in ("validation", "test")
        for side in ("source", "target")
        for s in packs[name][side]
    }
    assert not held & {duplicates.normal_form(s) for s in seen}
    # With all targets of the training pairs there would be a leak, and this sees it.
    both = {*packs["train"]["source"], *packs["train"]["target"]}
    assert left_out == len(both) - len(texts) > 50
    assert held & {duplicates.normal_form(s) for s in both}


# -- scores ------------------------------------------------------------


def mixed(texts, seed):
    """Texts of which some lost, doubled or swapped words."""
    dice, found = random.Random(seed), []
    for text in texts:
        cut = list(text) if dice.random() < 0.5 else text.split(" ")
        for _ in range(dice.randrange(4)):
            at = dice.randrange(len(cut))
            cut[at : at + 1] = dice.choice([[], [cut[at]] * 2, [dice.choice(cut)]])
            cut = cut or ["x"]
        found.append(("" if len(cut[0]) == 1 else " ").join(cut))
    return found


@pytest.mark.parametrize("language", ["zh-CN", "fr-FR", "ja-JP", "ru-RU"])
def test_scores_are_those_of_sacrebleu(language) -> None:
    truth = list(translations.load(language=language)["test"]["target"])
    tokenize = translating.tokenizer_of(language)
    assert tokenize == {"zh-CN": "zh", "ja-JP": "char"}.get(language, "13a")
    for seed, part in ((0, truth), (1, truth[:1]), (2, truth[5:12]), (3, truth[40:100])):
        guess = mixed(part, seed)
        sums = translating.bleu_sums(guess, part, tokenize).sum(axis=0)
        theirs = sacrebleu.corpus_bleu(guess, [part], tokenize=tokenize).score
        assert float(translating.bleu(sums)) == pytest.approx(theirs, abs=1e-9)
        sums = translating.chrf_sums(guess, part).sum(axis=0)
        theirs = sacrebleu.corpus_chrf(guess, [part]).score
        assert float(translating.chrf(sums)) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(
    ("guess", "right"),
    [
        ("", "a b c d e"),
        ("a b c d e", "a b c d e"),
        ("a b", "a b"),
        ("x", "y"),
        ("a b c d", "d c b a"),
    ],
)
def test_scores_at_the_edges(guess, right) -> None:
    sums = translating.bleu_sums([guess], [right])[0]
    theirs = sacrebleu.corpus_bleu([guess], [[right]], force=True).score
    assert float(translating.bleu(sums)) == pytest.approx(theirs, abs=1e-9)
    sums = translating.chrf_sums([guess], [right])[0]
    theirs = sacrebleu.corpus_chrf([guess], [[right]]).score
    assert float(translating.chrf(sums)) == pytest.approx(theirs, abs=1e-9)


def test_the_brevity_penalty_is_there() -> None:
    sums = translating.bleu_sums(["a b c d"], ["a b c d e f g h"])[0]
    assert float(translating.bleu(sums)) == pytest.approx(100 * np.exp(1 - 2))


def test_intervals_and_differences(packs) -> None:
    truth, families = list(packs["test"]["target"]), packs["test"]["family"]
    good, bad = mixed(truth, 5), mixed(mixed(mixed(truth, 6), 7), 8)
    a, b = (translating.translation_report(g, truth, "zh", families) for g in (good, bad))
    assert a.bleu[1] < a.bleu[0] < a.bleu[2]
    assert len(a.sums["bleu"]) == len(set(families)) < len(truth)
    better = translating.gain(a, b)
    assert better.points == pytest.approx(a.bleu[0] - b.bleu[0]) and better.clear
    none = translating.gain(a, a, "chrf")
    assert (none.points, none.low, none.high) == (0, 0, 0) and not none.clear
    with pytest.raises(ParameterError, match="other sentences"):
        translating.gain(a, translating.translation_report(good[:5], truth[:5]))
    with pytest.raises(ParameterError, match="0 translations"):
        translating.bleu_sums([], [])


def test_placeholders_are_counted_both_ways() -> None:
    sources = ["Open %1 in %2", "Close", "%1 of %1", "<b>x</b>"]
    found = translating.kept(sources, ["%2: %1", "%1", "%1", "<b>y</b>"])
    assert found == translating.Kept(texts=3, right=2, there=6, lost=1, invented=1)


def test_the_nearest_translation() -> None:
    nearest = translating.Nearest(["Open file", "Close tab"], ["A", "B"])
    assert nearest.translate(["close tabs", "open the file"]) == ["B", "A"]


def test_edit_distance_and_error_rates() -> None:
    cases = {("", ""): 0, ("abc", ""): 3, ("kitten", "sitting"): 3, ("ab", "ba"): 2}
    for (a, b), edits_wanted in cases.items():
        assert edits.edit_distance(a, b) == edits.edit_distance(b, a) == edits_wanted
    variants = [["K AE T"], ["R EH D", "R IY D"], ["AH"]]
    rates = edits.error_rates(["K AE T", "R IY", "B AH D"], variants)
    # 0 of 3, 1 of 3 (the closer variant), 2 of 1.
    assert rates.phonemes[0] == pytest.approx(3 / 7)
    assert rates.words[0] == pytest.approx(2 / 3)
    with pytest.raises(ParameterError, match="1 guesses for 0"):
        edits.error_rates(["K"], [])


# -- a model that translates ------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    """A model that has learned to spell out three words."""
    from datasets import Dataset, DatasetDict

    pairs = {"source": ["ab", "cab", "bad"] * 8, "target": ["A B", "C A B", "B A D"] * 8}
    tokenizer = vocabularies.symbols(
        vocabularies.symbols_in([*pairs["source"], *pairs["target"]])
    )
    model = translate.build(tokenizer, width=32, layers=1, max_length=16, dropout=0.0)
    data = encode_pairs.pairs(DatasetDict(train=Dataset.from_dict(pairs)), tokenizer, 16)
    examples = Examples.of(data["train"], tokenizer.pad_token_id)
    fit(model, Batches(examples, 8), sequence_to_sequence(), epochs=25, lr=5e-3)
    return model, tokenizer


def test_it_learns_and_writes(small) -> None:
    model, tokenizer = small
    for options in ({}, {"beams": 3}):
        found, written = translate.translate(model, tokenizer, ["bad", "ab", "cab"], **options)
        assert found == ["B A D", "A B", "C A B"]
        assert all(w.stopped and w.log_prob < 0 for w in written)


def test_the_saved_model_writes_the_same_tokens(small, tmp_path) -> None:
    model, tokenizer = small
    model.save(tmp_path / "m", tokenizer)
    again, its_tokenizer = translate.load(tmp_path / "m")
    for text in ("bad", "dab", "a"):
        pairs = ((model, tokenizer), (again, its_tokenizer))
        ours, theirs = (generate(m, *translate.source_batch(m, t, [text])) for m, t in pairs)
        assert [w.ids for w in ours] == [w.ids for w in theirs]


def test_empty_and_long_texts(small) -> None:
    model, tokenizer = small
    with pytest.raises(ModelError, match="text 1 is empty"):
        translate.translate(model, tokenizer, ["ab", " "])
    ids, mask = translate.source_batch(model, tokenizer, ["ab" * 50, "a"])
    assert ids.shape == (2, 16) and ids[0, -1] == tokenizer.eos_token_id
    assert mask.sum(dim=1).tolist() == [16, 2]
    assert translate.translate(model, tokenizer, []) == ([], [])


def test_weights_are_drawn_wider_than_by_seq2seq_itself(small) -> None:
    from sftkit.models.seq2seq import Seq2Seq

    model, _ = small
    torch.manual_seed(0)
    narrow = Seq2Seq(model.config)
    wide = translate.build(small[1], width=32, layers=1, max_length=16)
    stds = [m.decoder.blocks[0].cross_query.weight.std().item() for m in (narrow, wide)]
    assert stds[0] == pytest.approx(0.02, rel=0.1) and stds[1] > 0.1
