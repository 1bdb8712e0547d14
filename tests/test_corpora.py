"""The loader: known facts of the embedded data, the user's own, splits, limits, the cache."""

import csv
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sftkit import corpora
from sftkit.corpora import duplicates
from sftkit.corpora.labels import Labels
from sftkit.errors import CorpusError
from tests.hub_stand_in import hub

EXAMPLES = Path(__file__).parent.parent / "data" / "examples"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of this test's own, so that nothing is read from an earlier run."""
    monkeypatch.setenv("SFTKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sizes(dataset):
    return {split: len(part) for split, part in dataset.items()}


def label_counts(dataset):
    names = dataset["train"].features["label"].names
    return Counter(names[code] for part in dataset.values() for code in part["label"])


def write_csv(path, rows, header=("text", "label")):
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


# What sources.md and the literature say about the embedded data.


@pytest.mark.parametrize(
    ("name", "train", "test", "classes"),
    [
        ("reuters-r8", 5485, 2189, 8),
        ("reuters-r52", 6532, 2568, 52),
        ("newsgroups", 11293, 7528, 20),
        ("drug-reviews", 600, 379, 3),
    ],
)
def test_published_splits_are_kept(name, train, test, classes):
    dataset = corpora.load(name)
    assert len(dataset["train"]) + len(dataset["validation"]) == train
    assert abs(len(dataset["validation"]) - train / 10) < classes
    assert len(dataset["test"]) == test
    assert dataset["train"].features["label"].num_classes == classes
    notes = "\n".join(corpora.notes(dataset))
    assert "The test split is the published one" in notes
    if name != "drug-reviews":
        assert notes.count("1 stray row") == 2
    if name == "reuters-r8":
        assert duplicates.across(dataset) == {
            "validation/train": 0, "test/train": 13, "test/validation": 2
        }  # fmt: skip


def test_tweets():
    dataset = corpora.load("tweets")
    assert sum(sizes(dataset).values()) == 38158
    assert label_counts(dataset) == {"negative": 16186, "neutral": 15018, "positive": 6954}
    assert dataset["train"].column_names == ["text", "label"]
    assert dataset["train"].features["label"].names == ["negative", "neutral", "positive"]
    shares = [Counter(part["label"])[0] / len(part) for part in dataset.values()]
    assert max(shares) - min(shares) < 0.02  # stratified, as far as groups allow
    assert "‰Û¢" not in "".join(dataset["test"]["text"])


def test_drug_reviews():
    dataset = corpora.load("drug-reviews")
    train = label_counts({key: dataset[key] for key in ("train", "validation")})
    assert train == {"positive": 385, "negative": 161, "neutral": 54}
    assert not re.search(r"&#?\w+;", "".join(dataset["test"]["text"]))
    raw = corpora.load("drug-reviews", clean=())
    assert "&#039;" in "".join(raw["test"]["text"])


def test_news_topics_is_the_same_test_for_all_seeds():
    zero, one = corpora.load("news-topics"), corpora.load("news-topics", seed=1)
    assert sizes(zero) == sizes(one) == {"train": 5000, "validation": 1000, "test": 1000}
    names = zero["train"].features["label"].names
    assert names == ["computers", "politics", "science", "sport"]
    assert zero["test"]["text"][:] == one["test"]["text"][:]
    assert set(zero["train"]["text"]) != set(one["train"]["text"])
    whole = [set(d["train"]["text"]) | set(d["validation"]["text"]) for d in (zero, one)]
    assert whole[0] == whole[1]


def test_election_tweets_and_chinese_reviews():
    authors = corpora.load("election-tweets")
    assert label_counts(authors) == {"HillaryClinton": 3226, "realDonaldTrump": 3218}
    chinese = corpora.load("zh-reviews")
    total = sum(sizes(chinese).values())
    assert 17_300 < total < 17_500  # 35,124 lines, of which half are copies
    told = re.search(r"([\d,]+) rows that repeat", "\n".join(corpora.notes(chinese)))
    left_out = int(told[1].replace(",", ""))
    assert total + left_out == 18575 + 16548


# Near-duplicates: an independent detector, and the broken variant that it must see.


def bigrams(text):
    text = re.sub(r"https?://\S*|@\w+|\brt\b|&\w+;|\d+", " ", text.lower())
    words = re.findall(r"[^\W\d_]+", text)
    return frozenset(zip(words, words[1:], strict=False)) if len(words) >= 5 else frozenset()


def straddling(dataset, train_rows=12_000):
    """Test rows that share 80 % of their word pairs with a training row (by datasketch)."""
    from datasketch import MinHash, MinHashLSH

    sets = {
        split: [s for s in map(bigrams, dataset[split]["text"]) if s]
        for split in ("test", "train")
    }
    train = sets["train"][:train_rows]
    encode = [[" ".join(p).encode() for p in s] for s in sets["test"] + train]
    hashes = list(MinHash.generator(encode, num_perm=64, seed=3))
    index = MinHashLSH(threshold=0.7, num_perm=64)
    for at, signature in enumerate(hashes[: len(sets["test"])]):
        index.insert(at, signature)
    found = set()
    for words, signature in zip(train, hashes[len(sets["test"]) :], strict=True):
        for at in index.query(signature):
            other = sets["test"][at]
            if len(words & other) >= 0.8 * len(words | other):
                found.add(at)
    return len(found)


def test_near_duplicates_never_straddle_splits():
    kept, broken = corpora.load("tweets"), corpora.load("tweets", group=None)
    assert duplicates.across(kept) == {
        "validation/train": 0, "test/train": 0, "test/validation": 0
    }  # fmt: skip
    assert straddling(kept) == 0
    assert straddling(broken) > 100
    assert duplicates.across(broken)["test/train"] > 300


def test_groups_by_hand():
    texts = [
        "RT @ann: The new bridge opens on Monday morning at nine http://t.co/1",
        "the new bridge opens on monday morning at nine!",
        "The new bridge opens on Monday morning at ten",
        "Nothing else in this list is about bridges or mornings",
        "Flight 123", "flight 124", "FLIGHT 123!",
        "桥梁周一早上开放", "桥梁周一早上开放。", "天气很好",
    ]  # fmt: skip
    assert duplicates.near_groups(texts).tolist() == [0, 0, 0, 1, 2, 3, 2, 4, 4, 5]
    assert duplicates.near_groups([]).tolist() == []


def test_groups_do_not_depend_on_the_order_of_rows():
    texts = [row["text"] for row in corpora.load("tweets", limit=6000)["train"]]
    order = list(range(len(texts)))
    random.Random(0).shuffle(order)
    first = duplicates.near_groups(texts)
    second = duplicates.near_groups([texts[at] for at in order])
    again = duplicates.first_appearance([second[order.index(at)] for at in range(len(texts))])
    assert again.tolist() == first.tolist()


# Your own files.


@pytest.mark.parametrize("name", ["reviews.csv", "reviews.tsv", "reviews.jsonl"])
def test_the_same_rows_in_every_format(name, cache):
    dataset = corpora.load(EXAMPLES / name)
    assert sizes(dataset) == {"train": 100, "validation": 13, "test": 13}
    assert dataset["train"].features["label"].names == ["complaint", "praise", "question"]
    with open(EXAMPLES / "reviews.csv", encoding="utf-8", newline="") as stream:
        wanted = {(row["text"], row["label"]) for row in csv.DictReader(stream)}
    names = dataset["train"].features["label"].names
    found = {(r["text"], names[r["label"]]) for part in dataset.values() for r in part}
    assert found == wanted
    reference = corpora.load(EXAMPLES / "reviews.csv")
    assert {k: v["text"][:] for k, v in dataset.items()} == {
        k: v["text"][:] for k, v in reference.items()
    }


def test_parquet_saved_dataset_and_hub_give_the_same(cache, tmp_path):
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    table = pc.read_csv(EXAMPLES / "reviews.csv")
    pq.write_table(table, tmp_path / "reviews.parquet")
    reference = corpora.load(EXAMPLES / "reviews.csv")
    parquet = corpora.load(tmp_path / "reviews.parquet")
    assert parquet["test"]["text"][:] == reference["test"]["text"][:]
    reference.save_to_disk(str(tmp_path / "saved"))
    saved = corpora.load(tmp_path / "saved")
    for split in reference:  # the given splits stay
        assert sorted(saved[split]["text"]) == sorted(reference[split]["text"])
    assert saved["train"].features == reference["train"].features


def test_a_pair_of_texts(cache):
    options = {"text": "question", "text_pair": "answer"}
    pairs = corpora.load(EXAMPLES / "pairs.csv", group="question", **options)
    assert pairs["train"].column_names == ["text", "text_pair", "label"]
    assert pairs["train"].features["label"].names == ["answers", "does not answer"]
    questions = [set(part["text"]) for part in pairs.values()]
    assert not questions[0] & questions[1] and not questions[0] & questions[2]
    assert not questions[1] & questions[2]
    loose = corpora.load(EXAMPLES / "pairs.csv", **options)  # the broken variant
    assert set(loose["test"]["text"]) & set(loose["train"]["text"])
    assert any("share only one of their two texts" in note for note in corpora.notes(loose))


def test_a_folder_of_splits(cache, tmp_path):
    rows = [(f"text about {word} and more", f"{word[0]}") for word in WORDS]
    write_csv(tmp_path / "train.csv", rows[:40])
    write_csv(tmp_path / "dev.csv", rows[40:50])
    write_csv(tmp_path / "test.csv", rows[50:])
    dataset = corpora.load(tmp_path)
    assert sizes(dataset) == {"train": 40, "validation": 10, "test": len(rows) - 50}
    (tmp_path / "dev.csv").unlink()
    carved = corpora.load(tmp_path, validation=6)
    assert sizes(carved) == {"train": 34, "validation": 6, "test": len(rows) - 50}


ENDS = "acadafagahajakalamanapaqarasatavawaxazecedefegehejekelemeneqeresetevewexez"
WORDS = [start + end for start in "ab" for end in re.findall("..", ENDS)]


def test_numbers_as_labels(cache, tmp_path):
    rows = [(f"text about {word} number", str(float(at % 11))) for at, word in enumerate(WORDS)]
    rows = [*rows, *[(f"more of {text}", label) for text, label in rows]]
    dataset = corpora.load(write_csv(tmp_path / "numbers.csv", rows))
    names = dataset["train"].features["label"].names
    assert names == [str(at) for at in range(11)]  # "10" after "9", not after "1"
    jsonl = tmp_path / "numbers.jsonl"
    lines = [{"text": text, "label": float(label)} for text, label in rows]
    jsonl.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert corpora.load(jsonl)["train"].features["label"].names == names


def test_quotes_line_breaks_mark_and_semicolons(cache, tmp_path):
    path = tmp_path / "odd.csv"
    body = "".join(f'"{word}; said ""yes""\nand left";{word[0]}\n' for word in WORDS)
    path.write_bytes(("\ufefftext;label\n" + body).encode("utf-8"))
    dataset = corpora.load(path)
    assert sum(sizes(dataset).values()) == len(WORDS)
    assert re.fullmatch(r'\w+; said "yes" and left', dataset["test"]["text"][0])
    assert "odd.csv: columns are separated by ';'." in corpora.notes(dataset)


def test_rows_left_out_are_reported(cache, tmp_path):
    rows = [(f"text about {word}", word[0]) for word in WORDS]
    rows[3:3] = [("  ", "a"), ("no label", ""), ("no label", "NaN")]
    path = write_csv(tmp_path / "gaps.csv", [*rows, rows[0]])
    notes = corpora.notes(corpora.load(path, drop_unlabelled=True, drop_duplicates=True))
    assert "gaps.csv: 1 rows with an empty text left out (the first: row 5)." in notes
    assert "gaps.csv: 2 rows without a label left out (the first: row 6)." in notes
    assert any("1 rows that repeat another row" in note for note in notes)


HUB = """
import sys
from sftkit import corpora
from sftkit.errors import CorpusError
for name in sys.argv[1:]:
    try:
        dataset = corpora.load(name)
        print(name, [len(part) for part in dataset.values()])
    except CorpusError as error:
        print(name, error.what, error.fix)
"""


def load_from_hub(tmp_path, names, **environment):
    done = subprocess.run(
        [sys.executable, "-c", HUB, *names],
        env={
            **os.environ, "SFTKIT_CACHE": str(tmp_path / "cache"),
            "PYTHONPATH": str(EXAMPLES.parent.parent), **environment,
        },
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_hub(tmp_path):
    repo = tmp_path / "hub" / "somebody" / "reviews"
    repo.mkdir(parents=True)
    (repo / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: one.csv\n"
        "- config_name: two\n  data_files: two.csv\n---\n",
        encoding="utf-8",
    )
    for name in ("one.csv", "two.csv"):
        (repo / name).write_bytes((EXAMPLES / "reviews.csv").read_bytes())
    names = ["hub:somebody/reviews:two", "hub:somebody/reviews", "hub:nobody/nothing"]
    with hub(tmp_path / "hub") as address:
        home = str(tmp_path / "home")
        told = load_from_hub(tmp_path, names, HF_ENDPOINT=address, HF_HOME=home)
    found, unnamed, missing = told
    assert found == "hub:somebody/reviews:two [100, 13, 13]"
    assert "Config name is missing" in unnamed and "hub:ID:CONFIGURATION" in unnamed
    assert "cannot be loaded" in missing and "OWNER/NAME" in missing


def test_the_hub_without_a_net(tmp_path):
    (gone,) = load_from_hub(
        tmp_path, ["hub:somebody/reviews"], HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path)
    )
    assert "cannot be reached" in gone and "save_to_disk" in gone


@pytest.mark.slow
def test_the_hub_when_nobody_answers(tmp_path):
    with hub(tmp_path) as address:
        pass  # the server has stopped: connections are refused
    (gone,) = load_from_hub(
        tmp_path, ["hub:somebody/reviews"], HF_ENDPOINT=address, HF_HOME=str(tmp_path)
    )
    assert "cannot be reached" in gone and "save_to_disk" in gone


# Labels, splits and limits do not depend on the order of rows.


def shuffled(tmp_path):
    rows = [(f"all about {word} today", word[0]) for word in WORDS]
    paths = [write_csv(tmp_path / "a" / "x.csv", rows) for _ in [(tmp_path / "a").mkdir()]]
    (tmp_path / "b").mkdir()
    return paths[0], write_csv(tmp_path / "b" / "x.csv", rows[::-1])


def test_the_order_of_rows_changes_neither_labels_nor_splits(cache, tmp_path):
    one, two = map(corpora.load, shuffled(tmp_path))
    assert one["train"].features == two["train"].features
    for split in one:
        assert one[split]["text"][:] == two[split]["text"][:]
        assert one[split]["label"][:] == two[split]["label"][:]


def test_labels_by_first_appearance_would_be_permuted(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Labels, "finish", lambda self: (list(self.codes), list(self.codes.values()))
    )
    one, two = map(corpora.load, shuffled(tmp_path))
    assert one["train"].features["label"].names == ["a", "b"]
    assert two["train"].features["label"].names == ["b", "a"]


def test_smaller_limits_are_parts_of_larger_ones():
    texts = {}
    for limit in (8, 400, 2000):
        part = corpora.load("reuters-r8", limit=limit)["train"]
        assert len(part) == limit and len(set(part["label"])) == 8
        texts[limit] = part["text"][:]
    assert texts[2000][:400] == texts[400] and texts[400][:8] == texts[8]
    full = Counter(corpora.load("reuters-r8")["train"]["label"])
    some = Counter(corpora.load("reuters-r8", limit=2000)["train"]["label"])
    for label, count in full.items():
        assert abs(some[label] - count * 2000 / full.total()) <= 6
    several = corpora.load("reuters-r8", limit={"train": 50, "test": 20})
    assert sizes(several)["test"] == 20
    assert "limit: the first 20 of 2,189 rows of the test split." in corpora.notes(several)


def test_seeds(cache):
    path = EXAMPLES / "reviews.csv"
    again, other = corpora.load(path), corpora.load(path, seed=1)
    assert corpora.load(path)["test"]["text"][:] == again["test"]["text"][:]
    assert set(other["test"]["text"]) != set(again["test"]["text"])


def test_two_processes_prepare_once(tmp_path):
    path = str(EXAMPLES / "reviews.csv")
    code = f"from sftkit import corpora; print(len(corpora.load({path!r})))"
    environment = {
        **os.environ, "SFTKIT_CACHE": str(tmp_path),
        "PYTHONPATH": str(EXAMPLES.parent.parent),
    }  # fmt: skip
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in both] == [b"3", b"3"]
    kept = [p for p in (tmp_path / "corpora").iterdir() if not p.name.endswith(".lock")]
    assert len(kept) == 1  # nothing half-done is left


MEASURE = """
import sys, time
from sftkit import corpora, device
start = time.perf_counter()
dataset = corpora.load(sys.argv[1])
seconds = time.perf_counter() - start
peak = device.peak_memory_mb() * 1e6
print(sum(map(len, dataset.values())), peak, seconds)
"""


def measure(tmp_path, rows):
    path, pick = tmp_path / "large.csv", random.Random(0)
    words = [f"{a}{b}" for a in WORDS for b in WORDS[:20]]
    with open(path, "w", encoding="utf-8", newline="") as stream:
        stream.write("text,label\n")
        for _ in range(rows):
            stream.write(f"{' '.join(pick.choices(words, k=14))},{pick.choice('abc')}\n")
    environment = {
        **os.environ, "SFTKIT_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(EXAMPLES.parent.parent),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    count, peak, seconds = done.stdout.split()
    print(f"{rows:,} rows: {float(seconds):.1f} s, {float(peak) / 1e6:,.0f} MB")
    return int(count), float(peak)


def test_a_hundred_thousand_rows(tmp_path):
    count, peak = measure(tmp_path, 100_000)
    assert count == 100_000
    assert peak < 1.5e9


@pytest.mark.slow
def test_a_million_rows_in_bounded_memory(tmp_path):
    count, peak = measure(tmp_path, 1_000_000)
    assert count == 1_000_000
    assert peak < 1.5e9


def test_a_missing_column_in_a_semicolon_file_lists_the_columns_one_by_one(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("id;comment;mood\n1;nice;happy\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="Columns are: 'id', 'comment', 'mood'"):
        corpora.load(path, text="coment", label="mood")
