"""Folders of models and adapters: which of them a save may replace, and reading their facts."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sftkit.errors import ModelError
from sftkit.files import read_json

CARD_FILE = "card.json"  # facts for a model card, beside adapters
README_FILE = "README.md"

# Names and patterns of what is written by tokenizers of transformers, and by its models.
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "vocab.json", "vocab.txt", "merges.txt"),
    *("tokenizer.model", "spiece.model", "spm.model", "spm_char.model"),
    *("sentencepiece.model", "sentencepiece.bpe.model", "bpe.codes", "source.spm"),
    "target.spm",
)
TRANSFORMERS = (
    *("config.json", "generation_config.json", "model.safetensors.index.json"),
    *("model.safetensors", "model-[0-9]*-of-[0-9]*.safetensors"),
    *("pytorch_model.bin", "pytorch_model-[0-9]*-of-[0-9]*.bin"),
    "pytorch_model.bin.index.json",
)
TEMPLATES = "additional_chat_templates"  # a folder that tokenizers write
OF_SYSTEMS = (".DS_Store", "Thumbs.db", "desktop.ini")  # what only looking at a folder leaves
SHOWN = 3  # foreign names in an error


def refuse_foreign(
    folder: Path, markers: Sequence[str], names: Sequence[str], lack: str = "holds no model"
) -> None:
    """Refuse to replace a folder that holds anything but what a save writes.

    Args:
        folder: Where something is to be saved; it need not exist.
        markers: File names, one of which says that the folder is such a save's.
        names: Names and patterns (``model-*.safetensors``) of all that such saves write.
        lack: How the error goes on when no marker is there: the folder exists and ...

    Raises:
        ModelError: The path or one above it is a file, there is no marker, or there is
            something else; the error names it.
    """
    for place in (folder, *folder.parents):
        if place.is_dir():
            break
        if place.exists() or place.is_symlink():
            raise ModelError(f"{place} is no folder.", "Give a new folder's name.")
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    if not entries:
        return
    if not any((folder / marker).is_file() for marker in markers):
        raise ModelError(f"{folder} exists and {lack}.", "Give a new folder's name.")
    known = (*markers, *names, *OF_SYSTEMS)
    if foreign := [entry.name for entry in entries if not _written(entry, known)]:
        more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        raise ModelError(
            f"{folder} also holds {', '.join(foreign[:SHOWN])}{more}, which would be lost.",
            "Move that elsewhere, or give a new folder's name.",
        )


def _written(entry: Path, known: Sequence[str]) -> bool:
    if entry.name == TEMPLATES and entry.is_dir():
        return all(inner.is_file() and inner.suffix == ".jinja" for inner in entry.iterdir())
    return entry.is_file() and any(fnmatchcase(entry.name, pattern) for pattern in known)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ModelError: The file holds something else or is damaged.
    """
    try:
        content = read_json(path)
    except (ValueError, OSError, RecursionError) as problem:
        raise ModelError(f"{path} cannot be read: {problem}.", "Save or fetch it again.") from (
            problem
        )
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}.", "Save or fetch it again.")
    return content
