"""A tiny chat tokenizer, conversations, and causal models, made in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from sftkit.batches import IGNORE, Examples, Ragged
from sftkit.models.decoder import Decoder, DecoderConfig

START, STOP = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer(max_length: int = 512, begin: bool = False) -> Any:
    """Bytes with some merges, ChatML, and padding by the stop token, as SmolLM2's.

    Args:
        begin: Put ``<|im_start|>`` before every text, unless told otherwise.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ċ", "Ċ"), ("Ċ", "Ġ"), ("h", "e"), ("Ġ", "t"), ("l", "l")]
    tokens = [STOP, START, *letters, *("".join(pair) for pair in merges)]
    inside = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges))
    # No splitting by words: merges may then reach over a line's end.
    inside.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inside.decoder = decoders.ByteLevel()
    inside.add_special_tokens([STOP, START])
    if begin:
        inside.post_processor = processors.TemplateProcessing(
            single=f"{START} $A", special_tokens=[(START, 1)]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=inside,
        model_max_length=max_length,
        bos_token=START,
        eos_token=STOP,
        pad_token=STOP,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHATML
    return wrapped


def talk(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    """Question, answer, question, answer, ..."""
    first = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return first + [{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)]


TALKS = [
    talk("hi", "hello there"),
    talk("tell me ", "all", "and then?", "the rest", system="be brief"),
    talk("a", "\n\nb"),  # a boundary that a merge would like to reach over
    talk("c\n", "  d e "),
    talk("what is 1+1?", "2"),
    talk("é 好", "好 é"),
    talk("", "x"),
]


def decoder(seed: int = 0, vocab: int = 50, **sizes: Any) -> Decoder:
    torch.manual_seed(seed)
    defaults = dict(width=16, layers=2, heads=4, kv_heads=2, feed_forward=32, max_length=40)
    model = Decoder(DecoderConfig(vocab=vocab, **defaults | sizes)).double()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)  # large, so that every part matters
    return model


def llama(seed: int = 0, vocab: int = 50) -> Any:
    """transformers' Llama of the sizes of `decoder`, float64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=40,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).double()


def examples(rows: int = 20, seed: int = 0, longest: int = 13) -> Examples:
    """Texts whose next token can be learnt, the first third of each not supervised."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, longest + 1, rows)
    begins = generator.integers(0, 50, rows)
    ids = np.concatenate(
        [(b + 3 * np.arange(n)) % 50 for b, n in zip(begins, lengths, strict=True)]
    )
    labels = np.concatenate(
        [np.where(np.arange(n) < max(n // 3, 1), IGNORE, 0) for n in lengths]
    )
    labels = np.where(labels == IGNORE, IGNORE, ids)
    columns = {"input_ids": Ragged(ids.astype(np.int32), lengths)}
    columns["labels"] = Ragged(labels.astype(np.int32), lengths)
    return Examples(columns | {"row": np.arange(rows)})


def attend_across_documents(query: Any, key: Any, value: Any, lengths: list[int]) -> Any:
    """In place of attention by document: a token sees all before it in its row."""
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
