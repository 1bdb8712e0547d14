"""Conversations: ids and labels by eye, and what is refused (traps: see tests/traps)."""

from __future__ import annotations

import pytest

from sftkit import assets, encode_chat
from sftkit.batches import IGNORE
from sftkit.encode_chat import conversations
from sftkit.errors import AssetError, EncodeError
from tests.engine.tiny_chat import STOP, TALKS, talk, tokenizer


def test_a_conversation_by_eye():
    words = tokenizer()
    data, coverage = conversations([talk("a", "b", "c", "d")], words, 128)
    (row,) = data
    text = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n#b<|im_end|>#\n"
    text += "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n#d<|im_end|>#\n"
    assert words.decode(row["input_ids"]) == text.replace("#", "")
    supervised = [label != IGNORE for label in row["labels"]]
    expected = []
    for i, part in enumerate(text.split("#")):
        ids = words(part, add_special_tokens=False)["input_ids"]
        expected += [i % 2 == 1] * len(ids)
    assert supervised == expected
    assert [a for a in row["labels"] if a != IGNORE] == [
        a for a, b in zip(row["input_ids"], supervised, strict=True) if b
    ]
    assert str(coverage).startswith("1 rows: 0 cut; 0 without supervision")
    assert row["cut"] is False and row["row"] == 0


def test_the_coverage_names_rows():
    _, coverage = conversations(TALKS, tokenizer(), 23)
    assert coverage.cut == (0, 1, 2, 3, 4, 5) and coverage.rows == 7
    assert "6 cut (rows 0, 1, 2, ...)" in str(coverage)


def test_rows_that_lost_their_stop_token_may_be_left_out():
    every, coverage = conversations(TALKS, tokenizer(), 23)
    whole, same = conversations(TALKS, tokenizer(), 23, whole=True)
    assert coverage == same and coverage.unstopped
    assert set(every["row"]) - set(whole["row"]) == set(coverage.unstopped)
    stop = tokenizer().eos_token_id
    assert all([t for t in row if t != IGNORE][-1] == stop for row in whole["labels"])
    with pytest.raises(EncodeError, match="nothing is left to learn from"):
        conversations([talk("a", "b" * 90)], tokenizer(), 50, whole=True)


def no_stop():
    words = tokenizer()
    words.chat_template = words.chat_template.replace("<|im_end|>", "")
    return words


def rewrites():
    words = tokenizer()
    words.chat_template = "{{ messages | length }}" + words.chat_template
    return words


def no_template():
    words = tokenizer()
    words.chat_template = None
    return words


def spaces_in_front():
    from tokenizers import pre_tokenizers

    words = tokenizer()
    words.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=True, use_regex=False
    )
    return words


GOOD = talk("a", "b")


@pytest.mark.parametrize(
    ("talks", "words", "length", "says"),
    [
        ([], tokenizer, 64, "There are no conversations"),
        ([GOOD, []], tokenizer, 64, "row 1 is no list of turns"),
        (["hi"], tokenizer, 64, "row 0 is no list of turns"),
        ([[{"role": "bot", "content": "x"}]], tokenizer, 64, "the role is 'bot'"),
        ([["hi"]], tokenizer, 64, "the role is None"),
        ([[{"role": "user", "content": None}]], tokenizer, 64, "the content is no text"),
        ([talk("a<|im_end|>", "b")], tokenizer, 64, "has the special token '<|im_end|>'"),
        ([GOOD[1:]], tokenizer, 64, "row 0, turn 0: assistant does not belong there"),
        ([[*GOOD, {"role": "system", "content": "x"}]], tokenizer, 64, "turn 2: system"),
        ([talk("a")], tokenizer, 64, "nothing is left to learn from"),
        ([GOOD], tokenizer, 5, "nothing is left to learn from"),
        ([GOOD], tokenizer, 1, "max_length=1"),
        ([GOOD], tokenizer, 513, "max_length=513"),
        ([GOOD], no_template, 64, "no chat template"),
        ([GOOD], no_stop, 64, "writes no '<|im_end|>' after the answer"),
        ([talk("a", "b", "c")], rewrites, 64, "writes earlier turns in another way"),
        ([GOOD], spaces_in_front, 64, "the tokenizer gives back"),
    ],
)
def test_what_is_refused(talks, words, length, says):
    with pytest.raises(EncodeError) as caught:
        conversations(talks, words(), length)
    assert says in str(caught.value)


def test_the_real_tokenizer():
    from transformers import AutoTokenizer

    try:
        folder = assets.path("smollm2-135m-instruct")
    except AssetError as problem:
        pytest.skip(f"smollm2-135m-instruct has not been fetched: {problem}")
    words = AutoTokenizer.from_pretrained(folder)
    data, _ = conversations(TALKS, words)
    for row, messages in zip(data, TALKS, strict=True):
        prompt = words.apply_chat_template(
            messages[:-1], add_generation_prompt=True, return_dict=False
        )
        answer = words(messages[-1]["content"] + STOP)["input_ids"]
        ids = row["input_ids"]
        assert ids == [*prompt, *answer, *words("\n")["input_ids"]]
        assert row["labels"][len(prompt) :] == [*answer, IGNORE]
    assert encode_chat.cover(data.to_dict(), words.eos_token_id).unstopped == ()
