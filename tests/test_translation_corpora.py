"""Pairs and pronunciations: splits without leaks, placeholders, own files, what is refused."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, DatasetDict

from sftkit import corpora
from sftkit.corpora import duplicates, placeholders, pronunciations, translations
from sftkit.corpora.translations_own import Pair
from sftkit.errors import CorpusError
from sftkit.files import PACKAGE

EXAMPLE = PACKAGE.parent / "data" / "examples" / "translations.tsv"


@pytest.fixture(scope="module")
def packs():
    return {code: translations.load(language=code) for code in translations.PACKS}


# -- JupyterLab's strings ------------------------------------------------------------


def test_no_family_is_on_two_sides_in_any_language(packs) -> None:
    side: dict[int, str] = {}
    form: dict[str, str] = {}
    for data in packs.values():
        for name, part in data.items():
            for source, family in zip(part["source"], part["family"], strict=True):
                assert side.setdefault(family, name) == name
                words = duplicates.normal_form(placeholders.without(source))
                assert form.setdefault(words, name) == name
    assert set(side.values()) == {"train", "validation", "test"}


def test_a_split_by_string_alone_would_leak(packs) -> None:
    """The detector of the test above sees a leak where there is one."""
    rows = [r for part in packs["zh-CN"].values() for r in part]
    sides: dict[int, set[int]] = {}
    for row in rows:
        sides.setdefault(row["family"], set()).add(duplicates.key(row["source"]) % 5)
    assert sum(len(found) > 1 for found in sides.values()) > 20


def test_strings_are_read_as_they_are_shown(packs) -> None:
    for data in packs.values():
        for part in data.values():
            for source, target in zip(part["source"], part["target"], strict=True):
                assert source == source.strip() != "" and target == target.strip() != ""
                assert "\x04" not in source and "\u200b" not in target and source != target
                assert max(len(source), len(target)) <= translations.LONGEST
    assert "翻译" not in packs["fr-FR"]["train"]["target"]
    notes = " ".join(corpora.notes(packs["zh-CN"]))
    assert "stay as they are" in notes and "English to Chinese" in notes


def test_the_splits_do_not_depend_on_limit_or_seed(packs) -> None:
    few, more = (translations.load(limit=n, seed=4) for n in (50, 200))
    assert set(few["train"]["source"]) < set(more["train"]["source"])
    assert list(few["test"]["source"]) == list(packs["zh-CN"]["test"]["source"])
    other = translations.load(limit=50, seed=5)
    assert set(other["train"]["source"]) != set(few["train"]["source"])


def test_a_message_has_its_most_frequent_translation(tmp_path, monkeypatch) -> None:
    from sftkit import assets

    (tmp_path / "manifest.json").write_text('{"a": ["no message"]}')
    first = {"": {"language": "xx"}, "Run": ["b"], "menu\x04Run": ["a "], "Gone": [""]}
    (tmp_path / "one.json").write_text(json.dumps(first))
    second = {"ctx\x04Run": ["a"], "%1 cell": ["", "x%1"]}
    (tmp_path / "two.json").write_text(json.dumps(second))
    monkeypatch.setattr(assets, "path", lambda name: tmp_path)
    assert translations.messages("zh-CN") == {"Run": ("a", "one"), "%1 cell": ("x%1", "two")}


# -- placeholders ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("%1 of %1 in {0}", {"%1": 2, "{0}": 1}),
        ("%(count)d files, %s, ${name}", {"%(count)d": 1, "%s": 1, "${name}": 1}),
        ("100 % done, 5 %", {}),
        ("<b>Run</b> `code`", {"<b>": 1, "</b>": 1}),
        ("a < b > c", {}),
        ("&File and &amp; this & that", {"&": 1}),
        ("see https://example.org/a?b=%20.", {"https://example.org/a?b=%20.": 1}),
        ('<a href="%1">x</a>', {'<a href="%1">': 1, "</a>": 1}),
        ("", {}),
    ],
)
def test_what_must_be_kept(text, kept) -> None:
    assert dict(placeholders.must_keep(text)) == kept


def test_families_are_of_words_alone() -> None:
    assert placeholders.without("Heading 2 of %1") == placeholders.without("Heading 1 of {0}")
    assert placeholders.without("&Save") == "Save"
    assert placeholders.without("%1") == "%1"


# -- pronunciations ------------------------------------------------------------


def test_words_stay_on_one_side_with_their_variants() -> None:
    data = pronunciations.load()
    side: dict[str, str] = {}
    for name, part in data.items():
        for word in part.select_columns("source")[:]["source"]:
            assert side.setdefault(word.removesuffix("'s"), name) == name
    several = 0
    for row in data["test"].select(range(500)):
        several += len(row["variants"]) > 1
        assert row["target"] == row["variants"][0] and len(set(row["variants"])) == len(
            row["variants"]
        )
        assert not any(c.isdigit() for c in row["target"])
    assert len(side) > 115_000 and several > 5


# -- own data ------------------------------------------------------------


def rows(n=30):
    words = [*"abcdefghijklmnopqrstuvwxyz", *(f"{a}{b}" for a in "xyz" for b in "qrst")]
    return [(f"the word {w} is here today", f"le mot {w} est ici") for w in words[:n]]


def test_the_example_goes_through() -> None:
    data = translations.load(EXAMPLE, language="fr")
    assert {k: len(v) for k, v in data.items()} == {"train": 32, "validation": 4, "test": 4}
    found = {r["source"]: r["target"] for part in data.values() for r in part}
    assert found['No results for "%1"'] == "Aucun résultat pour « %1 »"  # quotes are text


def written(folder, kind, pairs, header=("source", "target")):
    path = folder / f"pairs.{kind}"
    if kind in ("tsv", "txt"):
        lines = ["\t".join(r) for r in ([header] if header else []) + pairs]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif kind == "csv":
        lines = [",".join(f'"{c}"' for c in r) for r in ([header] if header else []) + pairs]
        path.write_text("\n".join(lines), encoding="utf-8")
    elif kind == "parquet":
        columns = dict(zip(header, map(list, zip(*pairs, strict=True)), strict=True))
        Dataset.from_dict(columns).to_parquet(str(path))
    else:
        objects = [dict(zip(header, r, strict=True)) for r in pairs]
        path.write_text("\n".join(map(json.dumps, objects)), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["tsv", "txt", "csv", "jsonl", "parquet"])
def test_kinds_of_files(tmp_path, kind) -> None:
    wanted = rows()
    for header in (("source", "target"), ("en", "fr")):
        data = translations.load(written(tmp_path, kind, wanted, header), language="fr-FR")
        assert sorted((r["source"], r["target"]) for p in data.values() for r in p) == sorted(
            wanted
        )
    turned = translations.load(written(tmp_path, kind, wanted, ("en", "fr")), language="en")
    assert turned["train"][0]["source"].startswith("le mot")


def test_a_tsv_without_header_loses_no_row(tmp_path) -> None:
    data = translations.load(written(tmp_path, "tsv", rows(), header=None))
    assert sum(map(len, data.values())) == 30


def test_folders_tables_and_copies(tmp_path) -> None:
    pairs = rows()
    for name, part in (("train", pairs[:20]), ("dev", pairs[18:24]), ("test", pairs[24:])):
        written(tmp_path, "tsv", part).rename(tmp_path / f"{name}.tsv")
    data = translations.load(tmp_path)
    assert {k: len(v) for k, v in data.items()} == {"train": 18, "validation": 6, "test": 6}
    table = Dataset.from_dict({"translation": [{"en": a, "fr": b} for a, b in pairs]})
    DatasetDict(train=table).save_to_disk(str(tmp_path / "disk"))
    there = translations.load(tmp_path / "disk", language="fr")
    assert there["train"][0]["target"].startswith("le mot")
    twice = translations.load(written(tmp_path, "csv", [*pairs, pairs[3]]))
    assert any("more than once" in note for note in corpora.notes(twice))


LONG = "x " * 600
BAD = {
    "empty source": ("tsv", "source\ttarget\nOne\tUn\n\tDeux\n", "row 3: the source is empty"),
    "empty target": ("tsv", "One\tUn\nTwo\t \n", "row 2: the target is empty"),
    "one column": ("tsv", "One\nTwo\n", "one column only"),
    "one header": ("csv", "source,text\nOne,Un\n", "no column 'target'"),
    "three columns": ("tsv", "One\tUn\tCC-BY\n", "3 columns without a header"),
    "a tab too many": ("tsv", "One\tUn\nTwo\tDeux\tTrois\n", "row 2: 3 columns"),
    "a missing tab": ("tsv", "One\tUn\nTwo Deux\n", "row 2: 1 columns"),
    "too long": ("tsv", f"One\tUn\n{LONG}\tDeux\n", "row 2: the source has 1,199 characters"),
    "empty file": ("tsv", "\n", "is empty"),
    "open quote": ("csv", 'source,target\n"One,Un\n', "row 2"),
    "no object": ("jsonl", "[1, 2]\n", "list instead of an object|int instead of an object"),
    "a number": ("jsonl", '{"source": "One", "target": 1}\n', "line 1: the target is int"),
    "no target": ("jsonl", '{"source": "One"}\n', "line 1: there is no column 'target'"),
    "not JSON": ("jsonl", '{"source": \n', "line 1 is not JSON"),
    "no Parquet": ("parquet", "PAR", "cannot be read as Parquet"),
    "other kind": ("docx", "One", "files that end in .docx are not read"),
    "too few": ("tsv", "One\tUn\nTwo\tDeux\n", "too few"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_told_with_their_row(tmp_path, name) -> None:
    kind, text, said = BAD[name]
    path = tmp_path / f"bad.{kind}"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=said) as error:
        translations.load(path)
    assert "bad." in str(error.value) or name == "too few"
    assert len(str(error.value).splitlines()) == 2  # what is wrong, and what to do


def test_wrong_encodings_are_told_with_their_line(tmp_path) -> None:
    path = tmp_path / "bad.tsv"
    path.write_bytes("One\tUn\nSummer\tÉté\n".encode("cp1252"))
    with pytest.raises(CorpusError, match=r"bad\.tsv, line 2: byte 0xC9") as error:
        translations.load(path)
    assert "encoding='cp1252'" in str(error.value)
    path.write_bytes("One\tUn\n".encode("utf-16"))
    with pytest.raises(CorpusError, match="UTF-16"):
        translations.load(path)


def test_bad_options_are_refused() -> None:
    with pytest.raises(CorpusError, match="language='xx-XX'"):
        translations.load(language="xx-XX")
    with pytest.raises(CorpusError, match="limit=0"):
        translations.load(limit=0)
    with pytest.raises(CorpusError, match="no data set and no file"):
        translations.load("nothing-here.tsv")


def test_pairs_become_columns() -> None:
    part = translations.from_pairs([Pair("a", "b", 3, "c")])
    assert part[0] == {"source": "a", "target": "b", "family": 3, "place": "c"}
