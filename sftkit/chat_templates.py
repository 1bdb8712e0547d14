"""Three ways to write a conversation as one text, and what marks a turn in each.

A template is a small program in Jinja. transformers runs it in a sandbox: it can put texts
together, and nothing else. In ChatML and Llama-3 the marks are special tokens, which no
tokenizer makes from a user's text once such texts are refused (`encode_chat`). In the plain
template the marks are ordinary words, which anybody can type: it is here to show that.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sftkit.errors import EncodeError


@dataclass(frozen=True)
class Template:
    """A chat template.

    Attributes:
        jinja: The program; ``stop`` in it is the tokenizer's ``eos_token``.
        special: Tokens that it writes and that must be special; the last one ends a turn.
            Empty: the tokenizer's own ``eos_token`` ends a turn.
        marks: What begins a turn, where that is no special token.
    """

    jinja: str
    special: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


_ASK, _END = "{% if add_generation_prompt %}{{ '", "' }}{% endif %}"
TEMPLATES = {
    "chatml": Template(
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}" + _ASK + "<|im_start|>assistant\n" + _END,
        ("<|im_start|>", "<|im_end|>"),
    ),
    "llama3": Template(
        "{{ '<|begin_of_text|>' }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
        " + message['content'] + '<|eot_id|>' }}"
        "{% endfor %}" + _ASK + "<|start_header_id|>assistant<|end_header_id|>\n\n" + _END,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "plain": Template(
        "{% for message in messages %}"
        "{{ '### ' + message['role'] | capitalize + '\n' + message['content'] }}"
        "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n\n' }}"
        "{% endfor %}" + _ASK + "### Assistant\n" + _END,
        marks=("### System", "### User", "### Assistant"),
    ),
}


def use_template(tokenizer: Any, name: str) -> tuple[Any, int]:
    """A copy of a tokenizer that writes conversations in another way.

    Args:
        tokenizer: A transformers tokenizer; it is left as it is.
        name: ``chatml``, ``llama3`` or ``plain``.

    Returns:
        The copy, and how many special tokens were added to it. Where that is not 0, the model
        needs as many new rows (`models.vocabulary`).

    Raises:
        EncodeError: There is no such template, or the tokenizer has no ``eos_token``.
    """
    if name not in TEMPLATES:
        raise EncodeError(f"template {name!r}.", f"There are {', '.join(TEMPLATES)}.")
    template, other = TEMPLATES[name], copy.deepcopy(tokenizer)
    other.chat_template = template.jinja
    added = 0
    if template.special:
        known = other.get_vocab()
        missing = [token for token in template.special if token not in known]
        if missing:
            added = other.add_special_tokens({"additional_special_tokens": missing})
        other.eos_token = template.special[-1]
    elif other.eos_token is None:
        raise EncodeError("the tokenizer has no eos_token.", "Set the one that ends a turn.")
    return other, added


def marks(tokenizer: Any) -> Sequence[str]:
    """What must not stand in a message: it would begin or end a turn."""
    added = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    every = {*tokenizer.all_special_tokens, *added}
    special = sorted(every, key=lambda token: (-len(token), token))  # the longest first
    written = [t for t in TEMPLATES.values() if t.jinja == tokenizer.chat_template]
    return [*special, *(mark for template in written for mark in template.marks)]


def rendered(messages: Sequence[Any], tokenizer: Any, **options: Any) -> str:
    """The conversation as one text, by the tokenizer's template, in the sandbox.

    Raises:
        EncodeError: The template asks for something that the sandbox forbids, or is wrong.
    """
    import jinja2

    plain = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
    try:
        return tokenizer.apply_chat_template(plain, tokenize=False, **options)
    except jinja2.exceptions.SecurityError as problem:
        raise EncodeError(
            f"the chat template does what no template may do: {problem}",
            "Do not trust where it comes from. Give a template that only puts texts together.",
        ) from problem
    except jinja2.exceptions.TemplateError as problem:
        raise EncodeError(
            f"the chat template cannot write this conversation: {problem}",
            "Mend the template, or the roles that it does not know.",
        ) from problem
