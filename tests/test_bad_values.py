"""What can be wrong with values, and what each mistake is answered with.

Parameters, models, token ids, shapes, devices, conversations, packing and plans. Data files are
in test_bad_input, and checkpoints in engine/test_faults.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from sftkit import (
    encode,
    encode_chat,
    encode_lm,
    losses,
    losses_chunked,
    losses_lm,
    models,
    optim,
)
from sftkit.batches import Batches, Examples, Ragged
from sftkit.batches_lm import MaskedBatches
from sftkit.cli import main
from sftkit.course.run import plan
from sftkit.errors import (
    EncodeError,
    FitError,
    ModelError,
    ParameterError,
    SftError,
)
from sftkit.evaluate import evaluation, predict
from sftkit.fit import fit
from sftkit.models import encoder as encoders
from sftkit.models.decoder import Decoder, DecoderConfig
from sftkit.models.generate import generate
from sftkit.packing import PackedBatches
from tests.engine import tiny, tiny_chat

CHAT = tiny_chat.tokenizer()
LETTERS = encode_lm.char_tokenizer(list("abc "), max_length=64)
SIZES = dict(vocab=50, width=16, layers=1, heads=2, kv_heads=1, feed_forward=16, max_length=20)

Case = tuple[Callable[[Path], Any], type[SftError], str]
BAD: dict[str, Case] = {}


def case(name: str, wrong: type[SftError], wanted: str, act: Callable[[Path], Any]) -> None:
    assert name not in BAD
    BAD[name] = (act, wrong, wanted)


# -- settings of fit --------------------------------------------------------------------------


def train(place=None, *, model=None, examples=None, batches=None, loss=None, **options):
    batches = batches or Batches(tiny.examples(6) if examples is None else examples, 3)
    settings = {"epochs": 1} | options
    return fit(model or tiny.model(), batches, loss or losses.classification(), **settings)


OPTIONS: dict[str, list[Any]] = {
    "epochs": ["3", None, 0, float("nan"), float("inf"), [1], True],
    "lr": ["fast", 0, -1e-3, float("nan"), float("inf"), {}],
    "max_steps": [2.5, 0, "4"],
    "optimizer": ["lion", None, 3],
    "weight_decay": [-0.1, "none"],
    "head_lr_factor": [0, float("nan")],
    "schedule": ["cosin", 7],
    "warmup": [1, -0.1, "10%"],
    "clip": [0, "1", float("nan")],
    "precision": ["fp16", 32],
    "seed": ["zero", 1.5, 2**64],
    "evaluate_every": [0, 0.5],
    "metric": ["", 3],
    "patience": [0, 1.5],
    "keep_best": ["yes", None],
    "save_every": [0, "1"],
    "keep": [0, None],
}
for option, values in OPTIONS.items():
    for value in values:
        case(
            f"fit {option}={value!r}",
            ParameterError,
            f"^{option}=",
            lambda place, option=option, value=value: train(
                folder=place / "run", **{option: value}
            ),
        )
case(
    "fit unknown option",
    ParameterError,
    "does not know epoch, rate|epochs",
    lambda p: train(epoch=1, rate=2),
)
case(
    "fit resume without folder",
    ParameterError,
    "resume=True|folder",
    lambda p: train(resume=True),
)
case("fit no model", ParameterError, "model is a str|Module", lambda p: train(model="minilm"))
case("fit a list of batches", ParameterError, "batches is a list", lambda p: train(batches=[1]))
case("fit loss by name", ParameterError, "loss is a str|function", lambda p: train(loss="ce"))
case(
    "fit evaluate by name", ParameterError, "evaluate is a str", lambda p: train(evaluate="f1")
)
case(
    "fit one callback, no list",
    ParameterError,
    "callbacks is a .*list of callbacks",
    lambda p: train(callbacks=type("Log", (), {"on_step": 1, "on_evaluate": 2})()),
)
case(
    "fit half a callback",
    ParameterError,
    "callback Log has no on_evaluate",
    lambda p: train(callbacks=[type("Log", (), {"on_step": print})()]),
)
case(
    "fit a callback that cannot come back",
    ParameterError,
    "one of state_dict and load_state_dict",
    lambda p: train(
        callbacks=[
            type("Log", (), dict.fromkeys(("on_step", "on_evaluate", "state_dict"), print))()
        ]
    ),
)
case(
    "fit folder is a file",
    SftError,
    "cannot hold checkpoints",
    lambda p: ((p / "given").write_text("x"), train(folder=p / "given")),
)
case(
    "fit nothing to train",
    ParameterError,
    "no trainable parameter",
    lambda p: train(model=tiny.model().requires_grad_(False)),
)
case(
    "fit no data",
    FitError,
    "no training data",
    lambda p: train(examples=tiny.examples(6).take([])),
)


# -- what evaluate and loss give --------------------------------------------------------------


EVALUATIONS = {
    "nothing": (None, "evaluate gave a NoneType"),
    "a number": (0.7, "evaluate gave a float"),
    "a text": ({"accuracy": "good"}, "evaluate gave accuracy=a str"),
    "not a number": ({"accuracy": float("nan")}, "accuracy=nan, which cannot be compared"),
}
for name, (value, wanted) in EVALUATIONS.items():
    case(
        f"evaluate gives {name}",
        FitError,
        wanted,
        lambda p, v=value: train(evaluate=lambda model: v),
    )
case(
    "evaluate gives another metric",
    ParameterError,
    "metric='accuracy' is not among .* f1",
    lambda p: train(evaluate=lambda model: {"f1": 1.0}),
)

LOSSES = {
    "nothing": (lambda m, b: None, "the loss gave a NoneType"),
    "a mean": (lambda m, b: m(**losses.model_inputs(b)).logits.mean(), "one tensor of shape"),
    "logits": (
        lambda m, b: (m(**losses.model_inputs(b)).logits, 3),
        "the loss gave a tuple of",
    ),
    "no gradient": (
        lambda m, b: (torch.ones(()), torch.ones(())),
        "no trained parameter takes",
    ),
    "infinity": (
        lambda m, b: (m(**losses.model_inputs(b)).logits.sum() * torch.inf, torch.ones(())),
        "step 0: the loss is .*rows",
    ),
    "a column that no forward takes": (
        lambda m, b: torch.nn.Linear(2, 2)(**losses.model_inputs(b)),
        "TypeError: .*unexpected keyword argument",
    ),
    "a missing column": (lambda m, b: b["answers"], "no column 'answers', only input_ids"),
    "a bug": (lambda m, b: m.no_such_part(b), "AttributeError: .*no_such_part"),
}
for name, (function, wanted) in LOSSES.items():
    case(f"loss gives {name}", FitError, wanted, lambda p, f=function: train(loss=f))


# -- token ids, labels, shapes, devices -------------------------------------------------------


def spoilt(column: str, index: int, value: int, **options: Any) -> Examples:
    examples = tiny.examples(6, **options)
    held = examples.columns[column]
    (held.values if isinstance(held, Ragged) else held)[index] = value
    return examples


def long_row() -> Examples:
    ids = np.ones(41, dtype=np.int32)
    return Examples({"input_ids": Ragged(ids, np.array([41])), "labels": np.array([0])})


def of_columns(**columns: Any) -> Examples:
    examples = tiny.examples(6)
    return Examples({k: v for k, v in (examples.columns | columns).items() if v is not None})


CONTENTS = {
    "id too large": (spoilt("input_ids", 4, 50), "token ids run from .* to 50, .* 0 to 49"),
    "id below 0": (spoilt("input_ids", 4, -1), "token ids run from -1"),
    "label too large": (spoilt("labels", 2, 3), "labels run from .* to 3.* has 3 classes"),
    "label below 0": (spoilt("labels", 2, -7), "labels run from -7"),
    "too long": (long_row(), "a row has 41 tokens, and the model has places for 40"),
    "no labels": (of_columns(labels=None), "no column 'labels', only input_ids"),
    "labels per token for a classifier": (tiny.examples(6, per_token=True), "ValueError|size"),
    "fractions as ids": (
        of_columns(input_ids=Ragged(np.ones(12, dtype=np.float32), np.full(6, 2))),
        "token ids are numbers with fractions",
    ),
    "empty rows": (
        of_columns(input_ids=Ragged(np.ones(0, dtype=np.int32), np.zeros(6, dtype=int))),
        "step 0",
    ),
    "nothing supervised": (
        of_columns(labels=np.full(6, -100)),
        "no label is supervised, rows",
    ),
}
for name, (examples, wanted) in CONTENTS.items():
    case(f"examples: {name}", FitError, wanted, lambda p, e=examples: train(examples=e))
case(
    "predict: id too large",
    FitError,
    "token ids run from .* 0 to 49",
    lambda p: predict(tiny.model(), CONTENTS["id too large"][0]),
)
case(
    "predict: too long",
    FitError,
    "has 41 tokens",
    lambda p: predict(tiny.model(), CONTENTS["too long"][0]),
)
case(
    "evaluation: label too large",
    FitError,
    "labels run from .* to 3",
    lambda p: evaluation(CONTENTS["label too large"][0])(tiny.model()),
)
case(
    "batches: columns of different length",
    EncodeError,
    "different numbers of rows",
    lambda p: Examples({"labels": np.zeros(3), "row": np.zeros(4)}),
)
case(
    "batches: lengths that do not add up",
    EncodeError,
    "5 values for rows of 4",
    lambda p: Ragged(np.zeros(5), np.array([2, 2])),
)
case(
    "batches: a length below 0",
    EncodeError,
    "Lengths are at least 0",
    lambda p: Ragged(np.zeros(2), np.array([3, -1])),
)
case(
    "batches: of a list",
    ParameterError,
    "examples is a list|Examples.of",
    lambda p: Batches([1, 2], 2),
)
for value in (0, -1, 2.5, "8", None, True):
    case(
        f"batch_size={value!r}",
        ParameterError,
        "batch_size=",
        lambda p, v=value: Batches(tiny.examples(6), v),
    )
for value in (0, 9, "2"):
    case(
        f"micro_batch_size={value!r}",
        ParameterError,
        "micro_batch_size=",
        lambda p, v=value: Batches(tiny.examples(6), 8, micro_batch_size=v),
    )
case(
    "seed of batches below 0",
    ParameterError,
    "seed=-1",
    lambda p: Batches(tiny.examples(6), 2, seed=-1),
)


def on_device(name: str) -> None:
    """Train where the environment says, as another process would."""
    from accelerate.state import AcceleratorState

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_TORCH_DEVICE", name)
        AcceleratorState._reset_state(True)
        try:
            train()
        finally:
            AcceleratorState._reset_state(True)


for name in ("cuda:99", "nowhere", "meta:"):
    case(f"device: {name}", FitError, "cannot be set up on", lambda p, n=name: on_device(n))
case(
    "device: a model without weights",
    FitError,
    "cannot be set up on cpu: .*meta|weights",
    lambda p: train(model=tiny.model().to("meta")),
)


# -- packing and masking ----------------------------------------------------------------------


def packed(**options: Any) -> PackedBatches:
    return PackedBatches(tiny_chat.examples(6), 4, **options)


def masked(**options: Any) -> MaskedBatches:
    return MaskedBatches(
        tiny_chat.examples(6), 4, **{"mask_id": 1, "tokens": (5, 50)} | options
    )


case(
    "packing: row too short",
    EncodeError,
    "example . has .* a row holds 4|row_tokens=",
    lambda p: packed(row_tokens=4),
)
case("packing: rows=0", ParameterError, "rows=0", lambda p: packed(rows=0))
case(
    "packing: row_tokens by name",
    ParameterError,
    "row_tokens='long'",
    lambda p: packed(row_tokens="long"),
)
case(
    "packing: one label per row",
    EncodeError,
    "no labels per token",
    lambda p: PackedBatches(tiny.examples(6), 4),
)
case(
    "packing: labels of other lengths",
    EncodeError,
    "different lengths|one label per token",
    lambda p: PackedBatches(
        of_columns(labels=Ragged(np.zeros(6, dtype=np.int32), np.ones(6, dtype=int))), 4
    ),
)
case(
    "packing: a model that cannot",
    FitError,
    "rows|TypeError",
    lambda p: train(
        batches=packed(row_tokens=40), model=tiny.model(), loss=losses.classification()
    ),
)
case(
    "packing: flash attention",
    ParameterError,
    "packed rows cannot be given|sdpa",
    lambda p: losses_lm.causal_inputs(
        torch.nn.Linear(1, 1), next(packed(row_tokens=40).epoch(0))[0]
    ),
)
for value in (0, 1.5, float("nan"), "15%"):
    case(f"masking: rate={value!r}", ParameterError, "rate=", lambda p, v=value: masked(rate=v))
case("masking: no ids to draw", ParameterError, "tokens=", lambda p: masked(tokens=(5, 5)))
case("masking: mask_id=-1", ParameterError, "mask_id=-1", lambda p: masked(mask_id=-1))


# -- encode: texts and conversations ----------------------------------------------------------


def dictionary(**columns: list) -> DatasetDict:
    return DatasetDict({"train": Dataset.from_dict(columns)})


def talk(*messages: Any, limit: int = 64, tokenizer: Any = CHAT) -> Any:
    return encode_chat.conversations(list(messages), tokenizer, limit)


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
TALKS = {
    "a text": ("hello", "row 0 is no list of turns"),
    "no turns": ([], "row 0 is no list of turns"),
    "turns as texts": (["hi", "ho"], "row 0, turn 0: the role is None"),
    "unknown role": ([USER, {"role": "bot", "content": "x"}], "turn 1: the role is 'bot'"),
    "no content": ([USER, {"role": "assistant"}], "turn 1: the content is no text"),
    "a number as content": ([{"role": "user", "content": 3}], "turn 0: the content is no text"),
    "a stop token inside": (
        [USER, {"role": "assistant", "content": "b<|im_end|>c"}],
        "turn 1: the content has the special token '<|im_end|>'",
    ),
    "answer first": ([ANSWER, USER], "turn 0: assistant does not belong there"),
    "system later": ([USER, ANSWER, {"role": "system", "content": "x"}], "turn 2: system"),
    "no answer at all": ([USER], "."),
}
for name, (messages, wanted) in TALKS.items():
    case(f"conversation: {name}", EncodeError, wanted, lambda p, m=messages: talk(m))
case("conversations: none", EncodeError, "no conversations", lambda p: talk())
case(
    "conversations: in the second row",
    EncodeError,
    "row 1, turn 0",
    lambda p: talk([USER, ANSWER], [ANSWER]),
)
case(
    "conversations: limit of 1",
    EncodeError,
    "max_length=1",
    lambda p: talk([USER, ANSWER], limit=1),
)
case(
    "conversations: limit above the model's",
    EncodeError,
    "max_length=513|to 512",
    lambda p: talk([USER, ANSWER], limit=513),
)
case(
    "conversations: a limit that leaves no answer",
    EncodeError,
    ".",
    lambda p: talk([USER, ANSWER], limit=3),
)
case(
    "conversations: no template",
    EncodeError,
    "no chat template",
    lambda p: talk([USER, ANSWER], tokenizer=LETTERS),
)
for value in (2, 65, 0, -5):
    case(
        f"classification: max_length={value}",
        EncodeError,
        f"max_length={value}",
        lambda p, v=value: encode.classification(
            dictionary(text=["ab"], label=[0]), LETTERS, v
        ),
    )
case(
    "language model: no texts",
    EncodeError,
    "no texts",
    lambda p: encode_lm.causal([], LETTERS, 9),
)
case(
    "language model: max_length=1",
    EncodeError,
    "max_length=1",
    lambda p: encode_lm.causal(["ab"], LETTERS, 1),
)
case(
    "letters: two of one", EncodeError, "occurs twice", lambda p: encode_lm.char_tokenizer("aa")
)
case(
    "letters: a word",
    EncodeError,
    "'ab' is not one character",
    lambda p: encode_lm.char_tokenizer(["ab"]),
)


# -- losses and schedules ---------------------------------------------------------------------

ONES = torch.ones(3)
case(
    "losses: smoothing of 1",
    ParameterError,
    "label_smoothing=1",
    lambda p: losses.classification(label_smoothing=1.0),
)
case(
    "losses: focal and smoothing",
    ParameterError,
    "one of the two",
    lambda p: losses.classification(label_smoothing=0.1, focal_gamma=2.0),
)
case(
    "losses: gamma below 0",
    ParameterError,
    "gamma=-1",
    lambda p: losses.focal(torch.ones(2, 2), torch.zeros(2).long(), gamma=-1),
)
case(
    "losses: unknown regression",
    ParameterError,
    "kind='cubic'",
    lambda p: losses.regression(ONES, ONES, kind="cubic"),
)
case(
    "losses: delta of 0",
    ParameterError,
    "delta=0",
    lambda p: losses.regression(ONES, ONES, kind="huber", delta=0),
)
case(
    "losses: shapes that would be stretched",
    ParameterError,
    r"shape \(3, 1\).*squeeze",
    lambda p: losses.regression(torch.ones(3, 1), ONES),
)
case(
    "losses: a class without examples",
    ParameterError,
    r"no training example has class \[1\]",
    lambda p: losses.balanced_weights([0, 0, 2], 3),
)
case(
    "losses: weights of two classes for three",
    FitError,
    "weight",
    lambda p: train(loss=losses.classification(class_weights=[1.0, 2.0])),
)
case("losses: chunk of 0", ParameterError, "chunk=0", lambda p: losses_chunked.causal_lm(0))
case("schedule: unknown", ParameterError, "schedule='cos'", lambda p: optim.Schedule("cos", 9))
case(
    "schedule: warm-up of all",
    ParameterError,
    "warmup=1",
    lambda p: optim.Schedule("linear", 9, 1),
)
case(
    "range test: low above high",
    ParameterError,
    "low=1, high=0.1",
    lambda p: optim.range_test(lambda lr: 1.0, 1, 0.1),
)
case(
    "range test: no finite loss",
    ParameterError,
    "not finite at the first",
    lambda p: optim.range_test(lambda lr: float("nan")),
)


# -- models -----------------------------------------------------------------------------------


def folder_of(place: Path, **files: bytes | str) -> Path:
    folder = place / "model"
    folder.mkdir()
    for name, content in files.items():
        content = content.encode() if isinstance(content, str) else content
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def saved_decoder(place: Path) -> Path:
    return Decoder(DecoderConfig(**SIZES)).save(place / "saved")


def damaged_decoder(place: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    folder = saved_decoder(place)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    return folder


CONFIG = json.dumps({"model_type": "bert", "hidden_size": 8})
FOLDERS: dict[str, tuple[dict[str, bytes | str], str]] = {
    "empty": ({}, "has no config.json"),
    "config that is no JSON": ({"config__json": "{oops"}, "could not be loaded"),
    "config of nothing": ({"config__json": "{}"}, "could not be loaded"),
    "config of an unknown kind": ({"config__json": '{"model_type": "zzz"}'}, "zzz"),
    "config alone": ({"config__json": CONFIG}, "could not be loaded"),
    "a list as config": ({"config__json": "[1]"}, "could not be loaded"),
    "format of the future": ({"sftkit__json": '{"format": 9}'}, "kind|could not"),
    "format that is no JSON": ({"sftkit__json": "{"}, "could not be loaded"),
}
for name, (files, wanted) in FOLDERS.items():
    labels = None if "format" in name else ["a", "b"]
    case(
        f"model folder: {name}",
        ModelError,
        wanted,
        lambda p, f=files, n=labels: models.load(str(folder_of(p, **f)), n),
    )
case(
    "model: no such name",
    ModelError,
    "'minilmm' is not in the catalogue.*minilm",
    lambda p: models.load("minilmm", ["a", "b"]),
)
case(
    "model: a file",
    ModelError,
    "is not a folder",
    lambda p: models.load(str(p / "model.bin"), ["a", "b"]),
)
case(
    "model: not on this machine",
    ModelError,
    "could not be loaded|network",
    lambda p: models.load("hub:nobody/nothing", ["a", "b"]),
)
case(
    "model: unknown head",
    ModelError,
    "head='max'",
    lambda p: models.load("minilm", ["a", "b"], head="max"),
)
case("model: one label", ModelError, r"labels=\['a'\]", lambda p: models.load("minilm", ["a"]))
case(
    "model: the same label twice",
    ModelError,
    "two different names",
    lambda p: models.load("minilm", ["a", "a"]),
)
case(
    "model: train=upper",
    ModelError,
    "upper",
    lambda p: models.set_trainable(tiny.model(), "upper"),
)
case(
    "model: more blocks than there are",
    ModelError,
    "top-9|9",
    lambda p: models.set_trainable(tiny.model(), "top-9"),
)
case("decoder: absent", ModelError, "has no sftkit.json", lambda p: Decoder.load(p / "none"))
WEIGHTS = "sftkit.safetensors"
DAMAGES = {
    "weights cut": (WEIGHTS, lambda c: c[:-9], "cannot be read"),
    "weights empty": (WEIGHTS, lambda c: b"", "cannot be read"),
    "weights of noise": (WEIGHTS, lambda c: b"x" * 99, "cannot be read"),
    "description cut": ("sftkit.json", lambda c: c[:9], "sftkit.json"),
    "description a list": ("sftkit.json", lambda c: b"[]", "sftkit.json"),
    "another kind": ("sftkit.json", lambda c: c.replace(b"decoder", b"encoder"), "'encoder'"),
    "another width": ("sftkit.json", lambda c: c.replace(b"16", b"8"), "does not fit"),
    "unknown size": ("sftkit.json", lambda c: c.replace(b"layers", b"floors"), "other sizes"),
    "a text as size": ("sftkit.json", lambda c: c.replace(b"20", b'"x"'), "max_length='x'"),
    "no config inside": (
        "sftkit.json",
        lambda c: c.replace(b'"config"', b'"conf"'),
        "sftkit.json",
    ),
}
for name, (file, change, wanted) in DAMAGES.items():
    case(
        f"decoder: {name}",
        ModelError,
        wanted,
        lambda p, f=file, c=change: Decoder.load(damaged_decoder(p, f, c)),
    )
case(
    "decoder: no weights",
    ModelError,
    "is missing",
    lambda p: ((saved_decoder(p) / WEIGHTS).unlink(), Decoder.load(p / "saved")),
)
case(
    "decoder: a folder of another model",
    ModelError,
    "model_type is 'bert'",
    lambda p: Decoder.from_llama(folder_of(p, config__json=CONFIG)),
)
case(
    "decoder: config that is no JSON",
    ModelError,
    "config.json",
    lambda p: Decoder.from_llama(folder_of(p, config__json="{")),
)
case(
    "encoder: of a decoder's folder",
    ModelError,
    "'decoder', not 'encoder'",
    lambda p: encoders.Encoder.load(saved_decoder(p)),
)
case(
    "decoder: saved over something else",
    ModelError,
    "does not hold a model of ours",
    lambda p: Decoder(DecoderConfig(**SIZES)).save(folder_of(p, notes__txt="mine")),
)
for name, value in {
    "vocab": 0,
    "width": 15,
    "heads": 3,
    "kv_heads": 5,
    "layers": -1,
    "feed_forward": 2.5,
    "max_length": "20",
}.items():
    case(
        f"decoder: {name}={value!r}",
        ModelError,
        f"{name}=",
        lambda p, n=name, v=value: DecoderConfig(**SIZES | {n: v}),
    )

PROMPT = torch.ones(1, 3, dtype=torch.long)
DECODER = Decoder(DecoderConfig(**SIZES))
GENERATE = {
    "no batch": ((PROMPT[0], 2), {}, ModelError, r"shape \(3,\)"),
    "no tokens": ((PROMPT[:, :0], 2), {}, ModelError, r"shape \(1, 0\)"),
    "cold": ((PROMPT, 2), {"temperature": -1}, ParameterError, "temperature=-1"),
    "not a number": ((PROMPT, 2), {"temperature": float("nan")}, ParameterError, "temperature"),
    "top_k=0": ((PROMPT, 2), {"top_k": 0}, ParameterError, "top_k=0"),
    "steps=-1": ((PROMPT, -1), {}, ParameterError, "steps=-1"),
    "id too large": ((PROMPT * 50, 2), {}, ModelError, "ids run from 50 to 50"),
    "fractions": ((PROMPT.float(), 2), {}, ModelError, "float32"),
}
for name, (arguments, options, wrong, wanted) in GENERATE.items():
    case(
        f"generate: {name}",
        wrong,
        wanted,
        lambda p, a=arguments, o=options: generate(DECODER, *a, **o),
    )


# -- plans of `sftkit run` --------------------------------------------------------------------

PLANS = {
    "epochs=many": "epochs must be of type",
    "epochs=": "epochs must be of type",
    "limit=2.5": "limit must be of type int",
    "lr=nan": "lr must be of type float",
    "lr=inf": "lr must be of type float",
    "fit_head_first=perhaps": "must be of type bool",
    "epoch=3": "has no parameter 'epoch'|Did you mean epochs",
    "EPOCHS=3": "has no parameter 'EPOCHS'",
    "out=/somewhere": "'out' is set by the runner",
    "resume=true": "'resume' is set by the runner",
}
for text, wanted in PLANS.items():
    name, _, value = text.partition("=")
    case(
        f"plan: -p {text}",
        ParameterError,
        wanted,
        lambda p, n=name, v=value: plan("07", {n: v}),
    )
for value in (None, [1], {"a": 1}, True):
    case(
        f"plan: epochs={value!r}",
        ParameterError,
        "epochs must be",
        lambda p, v=value: plan("07", {"epochs": v}),
    )
for name in ("77", "text_clasification", "nowhere.py", ""):
    case(
        f"plan: notebook {name!r}", ParameterError, "There is no", lambda p, n=name: plan(n, {})
    )


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_answered_in_plain_words(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    act, wrong, wanted = BAD[name]
    before = torch.get_rng_state()
    with pytest.raises(wrong) as caught:
        act(tmp_path)
    torch.set_rng_state(before)
    said = str(caught.value)
    assert re.search(wanted, said, re.S), said
    assert caught.value.what and caught.value.fix, f"an error says what to do: {said}"
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    given = {"given", "config.json", "sftkit.json", WEIGHTS, "notes.txt"}
    assert left <= given | {".held.lock"}, "nothing half-made stays"


def test_there_are_enough_of_them():
    assert len(BAD) >= 100


def test_what_is_right_passes(tmp_path):
    """The table fails for the reasons that it names: its examples, mended, are accepted."""
    train(folder=tmp_path / "run", max_steps=1, warmup=0.5, keep=1, evaluate_every=1)
    assert len(talk([USER, ANSWER])[0]) == 1
    next(iter(packed(row_tokens=40).epoch(0)))
    next(iter(masked(rate=np.float32(0.5)).epoch(0)))
    assert generate(Decoder.load(saved_decoder(tmp_path)), PROMPT, 2).shape == (1, 5)
    Batches(tiny.examples(6), np.int64(3), micro_batch_size=np.int32(2))
    assert plan("07", {"epochs": "3", "lr": "1e-3"}).parameters["epochs"] == 3


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["run", "07", "-p", "epochs"], "'-p epochs' is not of the form NAME=VALUE"),
        (["run", "07", "-p", "=3"], "not of the form NAME=VALUE"),
        (["run", "07", "-p", "epochs=three"], "epochs must be of type"),
        (["run", "07", "--force", "--resume"], "not allowed with argument --force"),
        (["run", "99"], "There is no notebook 99"),
    ],
)
def test_the_command_line_says_it_without_a_traceback(words, wanted, tmp_path, capsys):
    try:
        code = main([*words, "--store", str(tmp_path / "store")])
    except SystemExit as ended:  # argparse ends by itself
        code = ended.code
    said = capsys.readouterr().err
    assert code != 0 and wanted in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())
