"""Answers of a language model: which of several it finds most probable, and what it writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sftkit.batches import Batches, Examples
from sftkit.chat_templates import marks, rendered
from sftkit.encode_chat import check_messages, conversations, padding_id, segments
from sftkit.errors import EncodeError
from sftkit.losses_preference import answer_log_probs
from sftkit.models.sampling import GREEDY, Continuation, Sampling, continue_all, stream
from sftkit.modes import evaluated

if TYPE_CHECKING:
    import torch

    from sftkit.encode_chat import Conversation


@dataclass(frozen=True)
class Choices:
    """What a model thinks of the answers to some questions.

    Attributes:
        log_probs: Per question, the log-probability of each answer with its stop token.
        tokens: Per question, how many tokens each answer has, the stop token among them.
        characters: Per question, the length of each answer's text.
    """

    log_probs: list[list[float]]
    tokens: list[list[int]]
    characters: list[list[int]]

    def best(self, by: str = "tokens") -> list[int]:
        """The chosen answer of each question.

        Args:
            by: ``tokens`` or ``characters``: the log-probability is divided by the length, as
                in common harnesses, since long answers are improbable. ``none``: it is not.
        """
        lengths = {"tokens": self.tokens, "characters": self.characters}.get(by)
        if lengths is None and by != "none":
            raise EncodeError(f"by={by!r}.", "There are tokens, characters and none.")
        chosen = []
        for row, found in enumerate(self.log_probs):
            sizes = lengths[row] if lengths else [1] * len(found)
            chosen.append(int(np.argmax(np.asarray(found) / np.maximum(sizes, 1))))
        return chosen


def multiple_choice(
    model: torch.nn.Module,
    tokenizer: Any,
    questions: Sequence[Conversation],
    answers: Sequence[Sequence[str]],
    *,
    max_length: int = 512,
    batch_size: int = 16,
) -> Choices:
    """How probable the model finds each of several answers; nothing is generated.

    Args:
        questions: Conversations that end in a question.
        answers: Of each question, at least one.

    Raises:
        EncodeError: Something does not fit in ``max_length`` in whole.
    """
    import torch

    talks = [
        [*question, {"role": "assistant", "content": answer}]
        for question, several in zip(questions, answers, strict=True)
        for answer in several
    ]
    data, coverage = conversations(talks, tokenizer, max_length, learn="last")
    if coverage.cut:
        raise EncodeError(f"{coverage}", f"Give a max_length above {max_length}.")
    examples = Examples.of(data, padding_id(tokenizer))
    scores, counts = np.zeros(len(talks)), np.zeros(len(talks), dtype=int)
    device = next(model.parameters()).device
    with evaluated(model):
        for step in Batches(examples, batch_size, shuffle=False).epoch(0):
            batch = {name: value.to(device) for name, value in step[0].items()}
            with torch.inference_mode():
                output: Any = model(input_ids=batch["input_ids"])
                found = answer_log_probs(output.logits, batch["labels"])
            rows = batch["row"].cpu().numpy()
            scores[rows] = found.double().cpu().numpy()
            counts[rows] = (batch["labels"] >= 0).sum(dim=1).cpu().numpy()
    at, result = 0, Choices([], [], [])
    for several in answers:
        here = slice(at, at + len(several))
        result.log_probs.append(scores[here].tolist())
        result.tokens.append(counts[here].tolist())
        result.characters.append([len(answer) for answer in several])
        at = here.stop
    return result


def ask(
    model: Any,
    tokenizer: Any,
    talks: Sequence[Conversation],
    most: int = 64,
    sampling: Sampling = GREEDY,
    **options: Any,
) -> list[tuple[str, Continuation]]:
    """What a chat model answers: text, and the tokens with whether it stopped.

    Args:
        talks: Conversations that end in a question.
        most: Tokens per answer, at most.
        options: Further ones of `continue_all`.

    Raises:
        EncodeError: A turn holds a mark that would begin or end one.
    """
    special = marks(tokenizer)
    prompts = [prompt_ids(talk, tokenizer, row, special) for row, talk in enumerate(talks)]
    known: dict[str, Any] = {
        "stop": [tokenizer.eos_token_id],
        "pad_id": padding_id(tokenizer),
    }
    found = continue_all(model, prompts, most, sampling, **(known | options))
    return [(tokenizer.decode(answer.ids), answer) for answer in found]


def said(
    model: Any,
    tokenizer: Any,
    talk: Conversation,
    most: int = 64,
    sampling: Sampling = GREEDY,
    **options: Any,
) -> Iterator[str]:
    """The answer to one conversation, piece by piece while it is written.

    Args:
        talk: A conversation that ends in a question.
        most: Tokens, at most.
        options: Further ones of `sampling.stream`.

    Raises:
        EncodeError: A turn holds a mark that would begin or end one.
    """
    ids: list[int] = []
    shown = ""
    for token in stream(model, [prompt_ids(talk, tokenizer)], most, sampling, **options):
        if int(token[0]) == tokenizer.eos_token_id:
            break
        ids.append(int(token[0]))
        text = tokenizer.decode(ids)
        if not text.endswith("\ufffd"):  # a letter of several tokens is not complete yet
            yield text[len(shown) :]
            shown = text


def prompt_ids(
    talk: Conversation, tokenizer: Any, row: int = 0, special: Sequence[str] | None = None
) -> list[int]:
    """The ids after which a model answers: those that `encode_chat` would train on.

    So earlier answers are tokenized by themselves, as in training.

    Args:
        special: `chat_templates.marks` of the tokenizer, where they are known already.

    Raises:
        EncodeError: A turn holds a mark that would begin or end one.
    """
    check_messages(talk, row, marks(tokenizer) if special is None else special)
    text = rendered(talk, tokenizer, add_generation_prompt=True)
    try:
        earlier = [part for part, _ in segments(talk, tokenizer, row)[:-1]]
    except EncodeError:  # a template that writes earlier turns anew: nobody trains on its parts
        earlier = []
    if not text.startswith("".join(earlier)):
        earlier = []
    parts = [*earlier, text[len("".join(earlier)) :]]
    return sum(tokenizer(parts, add_special_tokens=False)["input_ids"], [])
