"""Steps after unpacking, by the name that the catalogue gives. Heavy imports stay inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sftkit.errors import AssetError


def gguf(folder: Path) -> dict[str, Any]:
    """Turn the quantized ``*.gguf`` in ``folder`` into an ordinary transformers folder.

    The weights become float32 safetensors, the tokenizer (with its chat template) is saved
    beside them, and the gguf is removed. The values stay those of the quantized file.

    Returns:
        What was converted, with which versions, for the manifest.

    Raises:
        AssetError: The package ``gguf`` is missing.
    """
    from importlib.metadata import PackageNotFoundError, version

    import torch
    import transformers

    try:
        reader = version("gguf")  # transformers needs it to read the file
    except PackageNotFoundError as error:
        raise AssetError(
            "The package 'gguf' is not installed, so the 4-bit weights cannot be read.",
            "Install it with 'pip install gguf'.",
        ) from error

    (file,) = folder.glob("*.gguf")
    loaded = _quietly(
        lambda: transformers.AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file.name, dtype=torch.float32
        )
    )
    # The loaded object refuses save_pretrained because it counts as quantized: a plain
    # model of the same configuration takes its weights.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.random.fork_rng(devices=[]):  # its random start must not move the caller's seed
        plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    tokenizer = _quietly(
        lambda: transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    )
    plain.generation_config.eos_token_id = tokenizer.eos_token_id
    plain.generation_config.pad_token_id = tokenizer.pad_token_id
    _quietly(lambda: plain.save_pretrained(folder))
    tokenizer.save_pretrained(folder)
    name, size = file.name, file.stat().st_size
    file.unlink()
    return {
        "from": name,
        "from_bytes": size,
        "parameters": sum(p.numel() for p in plain.parameters()),
        "dtype": "float32",
        "transformers": transformers.__version__,
        "gguf": reader,
    }


def _quietly(load: Callable[[], Any]) -> Any:
    """Run ``load`` without transformers' own bars and reports."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load()
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {"gguf": gguf}
