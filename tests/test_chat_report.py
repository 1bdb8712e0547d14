"""The report on conversations: counts by hand, and a warning for each planted fault."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
from datasets import Dataset, DatasetDict

from sftkit import data_report
from sftkit.checks import ChatReport, chat_report
from sftkit.errors import EncodeError
from tests.engine.tiny_chat import talk, tokenizer

WORDS = tokenizer()


def data(train, test):
    parts = {"train": train, "test": test}
    return DatasetDict({k: Dataset.from_dict({"messages": v}) for k, v in parts.items()})


GOOD = [talk(f"what is {word}?", f"{word} is a word") for word in ("oak", "elm", "fig", "yew")]


def test_counts_are_those_of_a_hand():
    longer = [*GOOD, talk("a", "b", "c", "d", system="be brief")]
    report = data_report(data(longer, [talk("and ash?", "ash is a tree")]), WORDS, 500)
    assert isinstance(report, ChatReport) and not report.warnings
    part = report.splits["train"]
    assert part.turns == {2: 4, 5: 1} and part.copies == part.seen == 0
    answers = [t["content"] for talk in longer for t in talk if t["role"] == "assistant"]
    learnt = sum(len(WORDS(a + WORDS.eos_token)["input_ids"]) for a in answers)
    assert part.supervised == learnt
    assert part.tokens == sum(part.lengths)
    only_last = chat_report(data(longer, GOOD[:1]), WORDS, 500, learn="last")
    assert only_last.splits["train"].supervised == learnt - 2  # "b" and its stop token
    assert "Conversations, with a limit of 500 tokens." in repr(report)
    fig, alt = report.picture()
    assert "0.0% of the conversations exceed 500 tokens" in alt
    plt.close(fig)


def test_lengths_are_those_of_all_rows_uncut():
    long = [talk("x" * 900, "yes"), *GOOD, talk("c", "d " * 600)]  # both above 512, the model's
    part = data_report(data(long, GOOD[:1]), WORDS, 100).splits["train"]
    whole = [len(WORDS.apply_chat_template(turns, return_dict=False)) for turns in long]
    assert part.lengths == whole and min(whole[0], whole[-1]) > WORDS.model_max_length
    assert part.coverage.rows == len(long) and len(part.coverage.cut) == 2


FAULTS = {
    "lose their stop token at 40": (GOOD + [talk("hi", "word " * 30)], GOOD[:1], 40),
    "have nothing to learn from": (GOOD + [talk("word " * 30, "hi")], [talk("x", "y")], 60),
    "first questions are asked in an earlier split": (GOOD, [talk("What is OAK", "?")], 500),
    "conversations are copies of others": (GOOD * 2, [talk("x", "y")], 500),
    "the model will learn to say just that": (
        [talk(f"q {c}", "no idea") for c in "abcdefg"], [talk("x", "y")], 500,
    ),
    "most of the time goes into prompts": ([talk("word " * 60, "y")], [talk("x", "y")], 500),
}  # fmt: skip


@pytest.mark.parametrize("says", FAULTS)
def test_each_fault_has_its_warning(says):
    train, test, limit = FAULTS[says]
    report = chat_report(data(train, test), WORDS, limit)
    assert any(says in line for line in report.warnings), report.warnings
    assert f"Warning: {report.warnings[0]}" in repr(report)


def test_a_bad_row_is_named_with_its_split():
    with pytest.raises(EncodeError, match="test: row 1, turn 0: the content has the special"):
        chat_report(data(GOOD, [*GOOD[:1], talk("a<|im_end|>", "b")]), WORDS, 100)
