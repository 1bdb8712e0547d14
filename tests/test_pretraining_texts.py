"""No text that a model is pretrained on resembles a test or validation text of a notebook."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from sftkit import corpora
from sftkit.corpora import pretraining
from sftkit.corpora.duplicates import normal_form, normal_words
from sftkit.errors import CorpusError
from sftkit.files import project_folder, read_json, sha256_text

LANGUAGE = {"peoples-daily": "zh", "reuters": "en", "zh-reviews": "zh"}
SHARE, LEAST = 7, 4  # tenths of a held-out text's word pairs; texts with fewer pairs: equality


def leaks(texts: list[str], held_out: list[str]) -> list[tuple[str, str]]:
    """Pairs ``(text, held-out text)`` that resemble each other, found without the package.

    Prefix filter: whoever has at least 70 % of a text's word pairs has at least one of any
    30 % of them (and one more), so it is enough to look at texts that share one of its rarest.
    """
    words = [normal_words(text) for text in texts]
    sets = [set(zip(w, w[1:], strict=False)) for w in words]
    having = defaultdict(list)
    for i, pairs in enumerate(sets):
        for pair in pairs:
            having[pair].append(i)
    frequency = Counter({pair: len(rows) for pair, rows in having.items()})
    forms = defaultdict(list)
    for i, text in enumerate(texts):
        forms[normal_form(text)].append(i)
    found = []
    for other in dict.fromkeys(held_out):
        w = normal_words(other)
        pairs = set(zip(w, w[1:], strict=False))
        near = set(forms.get(normal_form(other), ()))
        if len(pairs) >= LEAST:
            rarest = sorted(pairs, key=lambda p: (frequency[p], p))
            prefix = rarest[: len(pairs) * (10 - SHARE) // 10 + 1]
            candidates = {i for pair in prefix for i in having.get(pair, ())}
            near |= {i for i in candidates if 10 * len(pairs & sets[i]) >= SHARE * len(pairs)}
        found += [(texts[i], other) for i in sorted(near)]
    return found


def test_what_counts_as_resembling() -> None:
    held = ["the quick brown fox jumps over the lazy dog", "好酒店", "今天天气很好我们去公园"]
    same = ["The quick, brown fox jumps over the lazy dog!", "好酒店。"]
    quoted = ["he said that the quick brown fox jumps over the lazy dog and left at once"]
    partly = ["今天天气很好我们去公司"]
    other = ["the slow brown bear sleeps under the old tree", "坏酒店", "好"]
    found = pretraining.resembles(same + quoted + partly + other, held)
    assert found.tolist() == [True] * 4 + [False] * 3
    assert pretraining.without(same + other, held) == (other, 2)
    with pytest.raises(CorpusError):
        pretraining.without(same, held)
    assert [text for text, _ in leaks(same + quoted + partly + other, held)] == (
        same[:1] + quoted + same[1:] + partly
    )


@pytest.mark.parametrize("name", pretraining.names())
def test_no_held_out_text_is_pretrained_on(name: str) -> None:
    texts = pretraining.load(name)
    held = pretraining.held_out(LANGUAGE[name])
    assert leaks(texts.train, held + texts.validation + texts.test) == []
    # The detector sees what it claims to see: one planted row, and the unfiltered texts.
    assert leaks([*texts.train[:50], held[7] + " !"], held) != []
    assert min(len(texts.train), len(texts.validation), len(texts.test)) > 300


def test_the_unfiltered_texts_do_leak() -> None:
    lines = pretraining._lines(0.0, pretraining.VALIDATION_FROM)
    assert len(leaks(lines, pretraining.held_out("zh"))) > 100


def test_held_out_are_all_test_and_validation_rows() -> None:
    chinese, english = (set(pretraining.held_out(x)) for x in ("zh", "en"))
    for name in corpora.names():
        known = chinese if name == "zh-reviews" else english
        if name in ("tweets", "election-tweets", "drug-reviews"):
            continue  # nothing is pretrained on text of that kind
        data = corpora.load(name)
        for split in ("validation", "test"):
            assert set(data[split]["text"]) <= known, f"{name} {split}"
    from sftkit.corpora.peoples_daily import text_lines

    lines = text_lines()
    assert {line for line in lines[int(0.8 * len(lines)) :] if line} <= chinese
    with pytest.raises(CorpusError):
        pretraining.held_out("de")
    with pytest.raises(CorpusError, match="peoples-daily"):
        pretraining.load("times")


def test_the_vocabulary_is_counted_and_ordered() -> None:
    assert pretraining.characters(["ＡＡb", "aＢ\u3000"], at_least=2) == ["a", "b"]
    assert pretraining.characters(["ba", "ab", "c"], at_least=1) == ["a", "b", "c"]


def weights() -> list:
    root = project_folder()
    return sorted((root / "data" / "weights").glob("*/record.json")) if root else []


@pytest.mark.parametrize("file", weights(), ids=lambda f: f.parent.name)
def test_committed_weights_are_of_these_texts(file) -> None:
    """The record of the weights names the hash of the texts that the tests above look at."""
    record = read_json(file)
    texts = pretraining.load(record["settings"]["texts"])
    assert record["texts"]["sha256"] == sha256_text("\n".join(texts.train))
