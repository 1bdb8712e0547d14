"""Small weights of our own that come with the repository, and how they came about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sftkit.errors import ModelError
from sftkit.files import project_folder, read_json
from sftkit.models.decoder import Decoder
from sftkit.models.encoder import Encoder

KINDS: dict[str, Any] = {"encoder": Encoder, "decoder": Decoder}


def committed_names() -> list[str]:
    """The folders of ``data/weights``; an empty list without the repository."""
    folder = _folder()
    return sorted(file.parent.name for file in folder.glob("*/record.json")) if folder else []


def load_committed(name_or_folder: str | Path) -> tuple[Any, Any, dict[str, Any]]:
    """A model of ours with its tokenizer and its record.

    Weights are stored in half precision and come back as float32; they are then exactly what
    was measured for the record, since rounding a rounded number changes nothing.

    Args:
        name_or_folder: One of `committed_names`, or a folder that a model's save wrote with
            a tokenizer.

    Returns:
        ``(model, tokenizer, record)``; the model in evaluation mode; the record (steps, losses,
        texts, command) is empty when the folder has none.

    Raises:
        ModelError: There is no such model.
    """
    from transformers import AutoTokenizer

    from sftkit.models.export import FORMAT_FILE

    folder = Path(name_or_folder).expanduser()
    if str(name_or_folder) in committed_names():
        folder = _folder() / str(name_or_folder)  # type: ignore[operator]
    if not (folder / FORMAT_FILE).is_file():
        raise ModelError(
            f"There are no weights {str(name_or_folder)!r}.",
            f"Give a folder, or one of {', '.join(committed_names()) or 'none here'} "
            "(they come with the repository).",
        )
    kind = read_json(folder / FORMAT_FILE).get("kind")
    if kind not in KINDS:
        raise ModelError(f"{folder} holds a {kind!r}.", "Give an encoder or a decoder of ours.")
    record = folder / "record.json"
    return (
        KINDS[kind].load(folder),
        AutoTokenizer.from_pretrained(folder),
        read_json(record) if record.is_file() else {},
    )


def _folder() -> Path | None:
    root = project_folder()
    return root / "data" / "weights" if root else None
