"""Three ways to write a conversation as one text, and what marks a turn in each.

A template is a small program in Jinja. transformers runs it in a sandbox: it can put texts
together, and nothing else. In ChatML and Llama-3 the marks are special tokens, which no
tokenizer makes from a user's text once such texts are refused (`encode_chat`). In the plain
template the marks are ordinary words, which anybody can type: it is here to show that. What
the marks of a foreign template are is found by writing a conversation with it (`marks`).
"""

from __future__ import annotations

import copy
import re
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
    """

    jinja: str
    special: tuple[str, ...] = ()


# To be found again in what a template writes; the roles that begin turns.
_PROBE = [
    {"role": role, "content": f"sftkit{word}probe"}
    for role, word in zip(
        ("system", "user", "assistant", "user"), ("one", "two", "three", "four"), strict=True
    )
]
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
    before = len(other)
    if template.special:
        special = _special(other)
        # Those that are there as ordinary tokens become special, and are not counted as added.
        missing = [token for token in template.special if token not in special]
        if missing:
            other.add_special_tokens({"additional_special_tokens": missing})
        other.eos_token = template.special[-1]
    elif other.eos_token is None:
        raise EncodeError("the tokenizer has no eos_token.", "Set the one that ends a turn.")
    return other, len(other) - before


def _special(tokenizer: Any) -> set[str]:
    added = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    return {*tokenizer.all_special_tokens, *added}


def marks(tokenizer: Any) -> list[str]:
    """What must not stand in a message: it would begin or end a turn. The longest first.

    These are the special tokens, and what the tokenizer's template writes before turns: other
    tokens of their own (some models have such), or ordinary words. A template that cannot
    write a short conversation has no marks but its special tokens.
    """
    special = _special(tokenizer)
    own = {t.content for t in tokenizer.added_tokens_decoder.values()} - special
    found = set(special)
    for between in _between_turns(tokenizer):
        found |= {token for token in own if token in between and _begins_a_turn(token)}
        tokens = sorted(special | own, key=len, reverse=True)
        for piece in re.split("|".join(map(re.escape, tokens)) if tokens else "$^", between):
            if _begins_a_turn(piece):
                found.add(piece.strip())
    return sorted(found, key=lambda mark: (-len(mark), mark))


def _begins_a_turn(piece: str) -> bool:
    """Not white space, which is a token of its own in some vocabularies, nor a role's bare
    name, as after the special token of ChatML: users write both."""
    return len(piece.strip()) > 1 and not piece.strip().isalpha()


def _between_turns(tokenizer: Any) -> list[str]:
    """What the template writes before each turn of a short conversation."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    for talk in (_PROBE, _PROBE[1:]):  # some know no system turn
        try:
            text = rendered(talk, tokenizer)
        except EncodeError:
            continue
        places = [text.find(turn["content"]) for turn in talk]
        if places == sorted(places) and places[0] >= 0:
            ends = [0, *(p + len(t["content"]) for p, t in zip(places, talk, strict=True))]
            return [text[end:place] for end, place in zip(ends, places, strict=False)]
    return []


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
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as problem:
        # The template's own mistakes: a sum of text and number, a range that is too long.
        raise EncodeError(
            f"the chat template fails: {type(problem).__name__}: {problem}",
            "Mend the template.",
        ) from problem
