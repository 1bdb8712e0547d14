"""A fine-tuned chat model as an ordinary transformers folder, with a model card.

``pipeline("text-generation", model=folder)`` loads it: weights as safetensors with adapters
merged in, tokenizer, chat template, and a generation config that knows the stop token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sftkit.errors import ModelError
from sftkit.files import folder_in_one_piece, write_json, write_text
from sftkit.models import lora
from sftkit.models.folders import (
    CARD_FILE,
    README_FILE,
    TOKENIZER,
    TRANSFORMERS,
    read_object,
    refuse_foreign,
)


@dataclass(frozen=True)
class Card:
    """What a reader of the model card must know.

    Attributes:
        base: The model that training began from.
        licence: An SPDX name; that of the base model unless it allows another.
        data: What it was trained on, one sentence each.
        parameters: Name to value: learning rate, epochs, rank, ...
        results: ``(what, before, after)``, as text.
        limits: What it cannot do, one sentence each.
        language: Two letters.
    """

    base: str
    licence: str
    data: Sequence[str]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    results: Sequence[tuple[str, str, str]] = ()
    limits: Sequence[str] = ()
    language: str = "en"

    def save(self, folder: str | Path) -> None:
        """Keep the facts beside adapters, for `export_adapter`."""
        write_json(Path(folder) / CARD_FILE, asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> Card:
        """What `save` wrote.

        Raises:
            ModelError: There is none, it is damaged, or it is another version's.
        """
        path = Path(folder) / CARD_FILE
        if not path.is_file():
            raise ModelError(
                f"{folder} has no {CARD_FILE}.", "Give the folder adapter/ of a run."
            )
        facts = read_object(path)
        texts = [facts.get(key, "") for key in ("base", "licence", "language")]
        lists = [facts.get(key, []) for key in ("data", "limits", "results")]
        right = (
            all(isinstance(value, str) for value in texts)
            and all(isinstance(value, list) for value in lists)
            and all(isinstance(row, list) and len(row) == 3 for row in lists[-1])
            and isinstance(facts.get("parameters", {}), dict)
        )
        try:
            card = cls(**facts)
        except TypeError as problem:
            raise ModelError(f"{path} holds other facts: {problem}.") from problem
        if not right:
            raise ModelError(f"{path} holds other facts than save writes.", "Save it again.")
        return card

    def text(self, name: str) -> str:
        """Markdown with the header that model hubs read."""
        header = {
            "license": self.licence.lower(),
            "base_model": self.base,
            "language": self.language,
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
        }
        rows = [f"| {what} | {before} | {after} |" for what, before, after in self.results]
        parts = [
            f"---\n{_yaml(header)}tags: [sft, chat]\n---\n",
            f"# {name}\n\n{self.base}, fine-tuned on conversations with sftkit.\n",
            "## Data\n\n" + "\n".join(f"- {line}" for line in self.data) + "\n",
        ]
        if self.parameters:
            listed = "\n".join(f"- {key}: {value}" for key, value in self.parameters.items())
            parts.append(f"## Training\n\n{listed}\n")
        if rows:
            table = "\n".join(["| | before | after |", "|---|---|---|", *rows])
            parts.append(f"## Results\n\n{table}\n")
        if self.limits:
            parts.append(
                "## Limits\n\n" + "\n".join(f"- {line}" for line in self.limits) + "\n"
            )
        parts.append(
            "## Use\n\n```python\nfrom transformers import pipeline\n\n"
            'chat = pipeline("text-generation", model="path/to/this/folder")\n'
            'chat([{"role": "user", "content": "..."}])\n```\n'
        )
        parts.append(f"## Licence\n\n{self.licence}\n")
        return "\n".join(parts)


def _yaml(facts: Mapping[str, str]) -> str:
    """A line per fact, quoted where YAML would read something else."""
    import yaml

    return yaml.safe_dump(dict(facts), sort_keys=False, allow_unicode=True, width=math.inf)


def export_chat(
    model: Any, tokenizer: Any, folder: str | Path, card: Card, max_new_tokens: int = 256
) -> Path:
    """Write the folder in one piece: it is whole, or it is as it was before.

    The model itself stays as it is: adapters are merged for the writing, and taken apart again.
    An older export in the folder is replaced. The generation config is a new one, which takes
    the likeliest token; what the base model's said about sampling is left out.

    Args:
        model: A causal model of transformers, with or without adapters of `lora`.
        tokenizer: With the chat template that the model was trained with.
        max_new_tokens: What the generation config allows unless asked otherwise.

    Raises:
        ModelError: Another kind of model, no template, or a folder with something else in it.
    """
    from transformers import GenerationConfig

    folder = Path(folder)
    before = getattr(model, "generation_config", None)
    if not hasattr(model, "save_pretrained") or before is None:
        raise ModelError(
            f"{type(model).__name__} is no causal model of transformers.",
            "Save a model of ours with its own save.",
        )
    if not getattr(tokenizer, "chat_template", None) or tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no chat template or no eos_token.")
    _refuse_target(folder)
    apart = [layer for layer in lora.layers(model).values() if layer.unmerged is None]
    if apart:
        lora.merge(model)
    try:
        model.generation_config = GenerationConfig(
            bos_token_id=before.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, do_sample=False, max_new_tokens=max_new_tokens,
        )  # fmt: skip
        whole = {k: v for k, v in model.state_dict().items() if ".lora_" not in k}
        with folder_in_one_piece(folder) as part:
            model.save_pretrained(part, state_dict=whole)
            tokenizer.save_pretrained(part)
            write_text(part / README_FILE, card.text(folder.name))
    finally:
        model.generation_config = before
        if apart:
            lora.unmerge(model)
    return folder


def _refuse_target(folder: Path) -> None:
    refuse_foreign(folder, ["config.json"], (*TRANSFORMERS, *TOKENIZER, README_FILE))


def export_adapter(adapter: str | Path, folder: str | Path, base: str | None = None) -> Path:
    """Merge saved adapters into their base model, and write the folder of `export_chat`.

    Args:
        adapter: The folder ``adapter`` of a run of notebook 13: adapters, tokenizer, facts.
        folder: Where to.
        base: Name in the catalogue or folder of the base model; that of the facts unless given.

    Raises:
        ModelError: Something is missing, damaged, or belongs to another model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sftkit.models import lora_files
    from sftkit.models.load import _locate, _readable_errors

    card = Card.load(adapter)
    if not (Path(adapter) / "tokenizer_config.json").is_file():
        raise ModelError(
            f"{adapter} has no tokenizer.", "Give it to lora_files.save, beside the adapters."
        )
    _refuse_target(Path(folder))  # now: loading the base model may take minutes
    name = base or card.base
    with _readable_errors(name):
        model = AutoModelForCausalLM.from_pretrained(_locate(name), dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(adapter)
    lora_files.load(model, adapter)
    return export_chat(model, tokenizer, folder, card)
