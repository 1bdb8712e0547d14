"""Traps of conversations: 4, 5, 7, 8 and 9."""

from __future__ import annotations

import pytest

from sftkit import encode_chat
from sftkit.batches import IGNORE, Examples
from sftkit.encode_chat import Coverage
from sftkit.errors import EncodeError
from tests.engine.tiny_chat import START, STOP, TALKS, tokenizer
from tests.traps.test_training import sees

WORDS = tokenizer()
STOP_ID = WORDS.convert_tokens_to_ids(STOP)
SINGLE = [talk for talk in TALKS if len(talk) == 2]


def encoded(talks=TALKS, words=WORDS, max_length=512):
    return list(encode_chat.conversations(talks, words, max_length)[0])


def answers(talk):
    return [turn["content"] for turn in talk if turn["role"] == "assistant"]


def whole(talk, words=WORDS):
    return words.apply_chat_template(talk, return_dict=False)


# -- trap 4: pad is eos, labels masked by token id ---------------------------------------------


def the_last_label_of_every_row_is_the_stop_token():
    data, _ = encode_chat.conversations(TALKS, WORDS, 512)
    assert WORDS.pad_token_id == STOP_ID
    batch = Examples.of(data, WORDS.pad_token_id).batch(range(len(data)))
    for labels in batch["labels"].tolist():
        assert [label for label in labels if label != IGNORE][-1] == STOP_ID


def test_trap_4(monkeypatch):
    the_last_label_of_every_row_is_the_stop_token()
    padded = Examples.batch

    def masked_by_id(self, rows):
        batch = padded(self, rows)
        batch["labels"][batch["input_ids"] == self.pad_id] = IGNORE
        return batch

    monkeypatch.setattr(Examples, "batch", masked_by_id)
    sees(the_last_label_of_every_row_is_the_stop_token)


# -- trap 5: stop token outside the assistant mask ---------------------------------------------


def every_answer_supervises_its_stop_token():
    for row in encoded():
        assert row["labels"].count(STOP_ID) == len(answers(TALKS[row["row"]]))


def test_trap_5(monkeypatch):
    every_answer_supervises_its_stop_token()
    monkeypatch.setattr(encode_chat, "answer_end", lambda answer, stop, *_: answer.rfind(stop))
    sees(every_answer_supervises_its_stop_token)


# -- trap 7: two beginning-of-sequence tokens --------------------------------------------------


class AddsSpecialTokens:
    """A tokenizer that is not told that the template has written all special tokens."""

    def __init__(self, words):
        self.words = words

    def __getattr__(self, name):
        return getattr(self.words, name)

    def __call__(self, texts, add_special_tokens, **options):
        return self.words(texts, **options)


def ids_are_those_of_the_template(words):
    plain = [TALKS[i] for i in (0, 1, 4, 5, 6)]  # no merge wants to reach into these answers
    for row, talk in zip(encoded(plain, words), plain, strict=True):
        assert (
            row["input_ids"]
            == words(words.apply_chat_template(talk, tokenize=False), add_special_tokens=False)[
                "input_ids"
            ]
        )
        assert words.convert_ids_to_tokens(row["input_ids"]).count(START) == len(talk)


def test_trap_7(monkeypatch):
    words = tokenizer(begin=True)
    assert words("a")["input_ids"][0] == words.bos_token_id
    ids_are_those_of_the_template(words)
    with pytest.raises(EncodeError, match="the tokenizer gives back"):
        encoded(words=AddsSpecialTokens(words))
    monkeypatch.setattr(encode_chat, "_check_joints", lambda *_: None)
    sees(lambda: ids_are_those_of_the_template(AddsSpecialTokens(words)))


# -- trap 8: boundary inside a token -----------------------------------------------------------


def what_is_supervised_is_the_answer():
    for row in encoded(SINGLE):
        talk = SINGLE[row["row"]]
        supervised = [label for label in row["labels"] if label != IGNORE]
        assert WORDS.decode(supervised) == answers(talk)[0] + STOP
        prompt = WORDS.apply_chat_template(
            talk[:1], add_generation_prompt=True, return_dict=False
        )
        assert row["input_ids"][: len(prompt)] == prompt, "not what generation begins with"


def by_prompt_length(parts, words):
    """Tokenize prompt and whole, and mask as many tokens as the prompt has."""
    rows = []
    for (prompt, _), *rest in parts:
        text = prompt + "".join(part for part, _ in rest)
        ids = words(text, add_special_tokens=False)["input_ids"]
        masked = len(words(prompt, add_special_tokens=False)["input_ids"])
        rows.append((ids, [IGNORE] * masked + ids[masked:-1] + [IGNORE]))
    return rows


def test_trap_8(monkeypatch):
    what_is_supervised_is_the_answer()
    monkeypatch.setattr(encode_chat, "labelled", by_prompt_length)
    assert encoded(SINGLE[:1]), "the variant works where no merge crosses the boundary"
    sees(what_is_supervised_is_the_answer)


# -- trap 9: truncation eats the answer or its stop token --------------------------------------


def what_is_missing_is_counted():
    everything = [(row["input_ids"], row["labels"]) for row in encoded()]
    seen = set()
    for limit in (21, 23, 25, 30, 78, 90):
        data, coverage = encode_chat.conversations(TALKS, WORDS, limit)
        kept = [[x for x in labels[:limit] if x != IGNORE] for _, labels in everything]
        cut = [i for i, (ids, _) in enumerate(everything) if len(ids) > limit]
        empty = [i for i, labels in enumerate(kept) if not labels]
        endless = [i for i, labels in enumerate(kept) if labels and labels[-1] != STOP_ID]
        assert coverage == Coverage(7, tuple(cut), tuple(empty), tuple(endless)), str(coverage)
        assert data["row"] == [i for i in range(7) if i not in empty]
        seen |= {name for name, rows in vars(coverage).items() if rows}
    assert seen == {"rows", "cut", "unsupervised", "unstopped"}  # the limits show all of it


def never_counted(columns, stop_id):
    return Coverage(len(columns["row"]), (), (), ())


def any_stop_will_do(columns, stop_id):
    counted = cover(columns, stop_id)
    ended = [r for r in counted.unstopped if stop_id not in columns["labels"][r]]
    return Coverage(counted.rows, counted.cut, counted.unsupervised, tuple(ended))


cover = encode_chat.cover


@pytest.mark.parametrize("broken", [never_counted, any_stop_will_do])
def test_trap_9(monkeypatch, broken):
    what_is_missing_is_counted()
    monkeypatch.setattr(encode_chat, "cover", broken)
    sees(what_is_missing_is_counted)
