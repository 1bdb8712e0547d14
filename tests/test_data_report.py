"""The data report counts right, warns of what is wrong, and shows itself."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from sftkit import assets, corpora
from sftkit.checks import data_report
from sftkit.errors import CorpusError

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
GOOD = "calm kind warm bright pleasant quick tidy fresh clever honest".split()  # noqa: SIM905
BAD = "cold rude slow broken dirty loud stale dull late wrong".split()  # noqa: SIM905
THINGS = "room meal bus book shop film song road park game".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(assets.path("minilm"))


def rows(start, count):
    made = []
    for at in range(start, start + count):
        for label, words in enumerate((BAD, GOOD)):
            picked = [words[at % 10], words[at // 10 % 10]]
            made.append((f"{THINGS[at % 7]} {at} was {picked[0]} and {picked[1]}", label))
    return made


def dataset(**splits):
    return DatasetDict(
        {
            name: Dataset.from_dict(
                {"text": [text for text, _ in pairs], "label": [label for _, label in pairs]},
                features=FEATURES,
            )
            for name, pairs in splits.items()
        }
    )


def test_a_clean_data_set_has_no_warning_but_its_size(tokenizer):
    report = data_report(dataset(train=rows(0, 60), test=rows(70, 20)), tokenizer)
    assert report.rows == {"train": 120, "test": 40}
    assert report.counts == {"train": [60, 60], "test": [20, 20]}
    assert report.cut == 0 and report.unknown == 0 and report.across == {"test/train": 0}
    assert report.warnings == [
        "The test split has 40 rows: an accuracy measured on it is uncertain by up to 15 "
        "points either way."
    ]
    assert report.lengths["train"][0] == len(tokenizer("room 0 was cold and cold")["input_ids"])


def test_what_is_wrong_is_found(tokenizer):
    train = rows(0, 60)
    train[7] = ("room 3 was calm and warm and tidy and fresh", 0)  # a wrong label
    text = "the film about the old harbour was far too long for me"
    train += [(text, 0), (text, 1), (" ", 0), ("long " * 200, 1)]
    held_out = [
        *rows(70, 4),
        ("RT @a: The film about the old harbour was far too long for me!", 0),
    ]
    report = data_report(dataset(train=train, test=held_out), tokenizer, max_length=64)
    assert report.across == {"test/train": 1}
    assert report.empty == {"train": 1, "test": 0}
    assert report.copies == {"train": 1, "test": 0}
    assert report.conflicts == [(text, ["bad", "good"])]
    assert report.cut == pytest.approx(1 / (len(train) + len(held_out)))
    doubt = next(d for d in report.doubts if d.row == 7)
    assert (doubt.label, doubt.guess) == ("bad", "good") and doubt.margin > 0
    told = "\n".join(report.warnings)
    for wanted in (
        "1 of 9 rows of test are near-duplicates of training rows",
        "1 rows have no text",
        "1 texts occur with different labels",
    ):
        assert wanted in told


def test_warnings_of_imbalance_length_and_language(tokenizer):
    train = [*rows(0, 40), *[row for row in rows(100, 90) if row[1]]]
    train = [(text + " and so on" * 40, label) for text, label in train]
    told = "\n".join(data_report(dataset(train=train, test=train[:3]), tokenizer, 32).warnings)
    assert "'good' has 3.2 times as many training rows as 'bad'" in told
    assert "100.0% of the texts are longer than 32 tokens" in told
    missing = dataset(train=rows(0, 20), test=[row for row in rows(50, 5) if row[1]])
    assert "The test split has no row of 'bad'." in data_report(missing, tokenizer).warnings
    chinese = [(f"今天房间{at}很漂亮，服务也很好", at % 2) for at in range(40)]
    told = data_report(dataset(train=chinese, test=chinese[:5]), tokenizer).warnings
    assert any("unknown to the tokenizer" in line for line in told)


def test_a_pair_is_read_as_one_input(tokenizer):
    pairs = DatasetDict(
        train=Dataset.from_dict(
            {"text": ["a question"] * 4, "text_pair": ["one", "two", "three", "two"],
             "label": [0, 1, 0, 1]},
            features=Features({**FEATURES, "text_pair": Value("string")}),
        )
    )  # fmt: skip
    report = data_report(pairs, tokenizer)
    assert report.lengths["train"] == [6] * 4  # [CLS] a question [SEP] one [SEP]
    assert report.copies == {"train": 1}
    assert "Too few training rows to look for doubtful labels." in report.notes


def test_it_shows_itself_escaped_and_with_alt_text(tokenizer, capsys):
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.pylabtools import select_figure_formats
    from IPython.utils.capture import capture_output

    select_figure_formats(InteractiveShell.instance(), {"png"})
    train = [*rows(0, 60), ("<script>alert(1)</script> the same", 0)]
    train.append(("<script>alert(1)</script> the same", 1))
    report = data_report(dataset(train=train, test=rows(70, 4)), tokenizer)
    with capture_output() as captured:
        report.show()
    html = "".join(output.data.get("text/html", "") for output in captured.outputs)
    assert "&lt;script&gt;" in html and "<script>" not in html
    (picture,) = [output for output in captured.outputs if "image/png" in output.data]
    alt = picture.metadata["image/png"]["alt"]
    assert (
        "the largest class is bad: 50% of all rows" in alt and "0.0% exceed 128 tokens" in alt
    )
    text = repr(report)
    assert "split  rows  empty  copies" in text and "Warning: " in text


def test_tweets(tokenizer):
    limit = {"train": 4000, "validation": 1000, "test": 1000}
    report = data_report(corpora.load("tweets", limit=limit), tokenizer)
    assert report.rows["train"] == 4000 and report.across["test/train"] == 0
    assert report.warnings[0].startswith("The class 'negative' has 2.3 times as many")
    assert 0.2 < report.disagreement < 0.45
    assert "limit: the first 4,000 of 30,526 rows of the train split." in report.notes


def test_a_data_set_of_another_shape_is_refused(tokenizer):
    plain = DatasetDict(train=Dataset.from_dict({"text": ["a"], "label": [0]}))
    with pytest.raises(CorpusError, match="no class names"):
        data_report(plain, tokenizer)
    with pytest.raises(CorpusError, match="no column 'label'"):
        data_report(DatasetDict(train=Dataset.from_dict({"text": ["a"]})), tokenizer)
