"""A save replaces what a save wrote, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sftkit import models
from sftkit.errors import ModelError
from sftkit.models import lora, lora_files
from sftkit.models.export_chat import Card, export_chat
from tests.engine import tiny, tiny_chat

WORDS = tiny_chat.tokenizer()
CARD = Card(base="a tiny model", licence="MIT", data=["Nothing."])


def chat(place):
    export_chat(tiny_chat.llama(vocab=len(WORDS)), WORDS, place, CARD)


def adapters(place):
    model = tiny_chat.llama()
    lora.add(model, ["q_proj"])
    lora_files.save(model, place, WORDS)


SAVES = {
    "chat model": chat,
    "classifier": lambda place: models.save(tiny.model("mean"), WORDS, place),
    "stock classifier": lambda place: models.save(tiny.model("first"), WORDS, place),
    "decoder": lambda place: tiny_chat.decoder().save(place, WORDS),
    "adapters": adapters,
}


def content(place: Path) -> dict[str, bytes]:
    return {str(f.relative_to(place)): f.read_bytes() for f in place.rglob("*") if f.is_file()}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_a_save_replaces_its_own_folder(save, tmp_path):
    WORDS.chat_template = {"default": tiny_chat.CHATML, "tools": tiny_chat.CHATML}
    try:
        save(tmp_path / "m")  # with a folder of templates
    finally:
        WORDS.chat_template = tiny_chat.CHATML
    assert (tmp_path / "m" / "additional_chat_templates").is_dir()
    (tmp_path / "m" / ".DS_Store").write_bytes(b"of a file manager")
    save(tmp_path / "m")
    assert not {".DS_Store", "additional_chat_templates"} & set(content(tmp_path / "m"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_what_somebody_put_beside_a_model_is_not_lost(save, tmp_path):
    save(tmp_path / "m")
    (tmp_path / "m" / "thesis.txt").write_text("years of work")
    (tmp_path / "m" / "data").mkdir()
    (tmp_path / "m" / "data" / "a.csv").write_text("1")
    before = content(tmp_path)
    with pytest.raises(ModelError, match=r"m also holds data, thesis\.txt, .*\n.*elsewhere"):
        save(tmp_path / "m")
    assert content(tmp_path) == before
    for name in "bcd":
        (tmp_path / "m" / name).mkdir()
    with pytest.raises(ModelError, match="also holds b, c, d and 2 more"):
        save(tmp_path / "m")


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_a_file_is_no_folder(save, tmp_path):
    (tmp_path / "notes").write_text("mine")
    for place in ("notes", "notes/below/it"):
        with pytest.raises(ModelError, match="notes is no folder"):
            save(tmp_path / place)
    assert content(tmp_path) == {"notes": b"mine"}


@pytest.mark.parametrize(
    ("first", "second"), [("adapters", "chat model"), ("decoder", "adapters")]
)
def test_another_kind_of_save_is_not_replaced(first, second, tmp_path):
    SAVES[first](tmp_path / "m")
    before = content(tmp_path)
    with pytest.raises(ModelError, match="exists and holds no"):
        SAVES[second](tmp_path / "m")
    assert content(tmp_path) == before


def test_any_config_is_no_licence_to_remove_a_project(tmp_path):
    for name in ("config.json", "train.py"):
        (tmp_path / name).write_text("{}")
    for name in ("chat model", "classifier"):
        with pytest.raises(ModelError, match=r"also holds train\.py"):
            SAVES[name](tmp_path)
