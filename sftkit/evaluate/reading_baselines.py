"""Answers without a trained reader: similar text, rules for docstrings, a chat model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sftkit.corpora import docstring_questions, docstrings
from sftkit.evaluate.reading import Answer, best_threshold, scores
from sftkit.evaluate.retrieval import embed

UNITS = ("sentence", "block")
_SENTENCE = re.compile(r"\S(?:.*?)(?:[.!?](?=\s)|(?=\n[ \t]*\n)|\Z)", re.S)
_DEFAULT = re.compile(
    r"default|leave it out|do not pass|say nothing|unless|do not choose", re.I
)
_TYPE = re.compile(
    r"\b(type|an array, or|kind of|values?|sort of|may .* be|should .* be)\b", re.I
)
_RESULT = re.compile(r"\b(back|result|comes? out|returns?|returned|output|give me)\b", re.I)
_WHICH = re.compile(r"\b(which|what|kind of) (exception|error)", re.I)
_FAILS = re.compile(r"\b(fails?|wrong|exceptions?|errors?|raises?|raised|refuse)\b", re.I)


def pieces(context: str, unit: str) -> list[tuple[int, int]]:
    """Places of a context's sentences, or of its blocks.

    Blocks are the items of numpydoc sections, else paragraphs.
    """
    if unit == "sentence":
        return [match.span() for match in _SENTENCE.finditer(context)]
    found = [
        (entry.start, entry.end)
        for section in docstrings.sections(context)
        for entry in docstrings.entries(context, section)
    ]
    paragraphs = re.finditer(r"\S(?:.*?)(?=\n[ \t]*\n|\Z)", context, re.S)
    return found or [match.span() for match in paragraphs]


class Lexical:
    """The piece of the context that shares the rarest words with the question.

    Similarity is the cosine of TF-IDF vectors; word frequencies come from training contexts.

    Args:
        contexts: Of training questions.
        unit: ``sentence`` or ``block``.
    """

    def __init__(self, contexts: Sequence[str], unit: str = "sentence") -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.unit = unit
        pattern = r"[A-Za-z0-9]+"  # max_iter gives max and iter: kinder to the baseline
        self.vectors = TfidfVectorizer(token_pattern=pattern, sublinear_tf=True)
        self.vectors.fit(list(dict.fromkeys(contexts)))

    def answers(self, questions: Sequence[str], contexts: Sequence[str]) -> list[Answer]:
        """The most similar piece for each question; its margin is the similarity."""

        def similar(texts: list[str], owners: np.ndarray) -> np.ndarray:
            asked, held = self.vectors.transform(questions), self.vectors.transform(texts)
            return np.asarray(held.multiply(asked[owners]).sum(axis=1)).ravel()

        return _most_similar(contexts, self.unit, similar)


class Meaning:
    """The block of the context whose sentence embedding is most similar to the question's.

    An encoder that was pretrained for sentence means needs no training for it. Similarity is
    the cosine.

    Args:
        encoder: A transformers encoder without head.
    """

    def __init__(self, encoder: Any, tokenizer: Any) -> None:
        self.encoder, self.tokenizer = encoder, tokenizer

    def answers(self, questions: Sequence[str], contexts: Sequence[str]) -> list[Answer]:
        """The most similar block for each question; its margin is the similarity."""

        def similar(texts: list[str], owners: np.ndarray) -> np.ndarray:
            known = list(dict.fromkeys([*texts, *questions]))
            place = {text: i for i, text in enumerate(known)}
            vectors = embed(self.encoder, self.tokenizer, known)
            held = vectors[[place[text] for text in texts]]
            asked = vectors[[place[text] for text in questions]]
            return (held * asked[owners]).sum(axis=1)

        return _most_similar(contexts, "block", similar)


def _most_similar(
    contexts: Sequence[str], unit: str, similar: Callable[[list[str], np.ndarray], np.ndarray]
) -> list[Answer]:
    """Each context's best piece; ``similar`` gets all pieces and the context of each."""
    spans: list[tuple[int, int]] = []
    bounds = [0]
    for context in contexts:
        spans += pieces(context, unit)
        bounds.append(len(spans))
    owners = np.repeat(np.arange(len(contexts)), np.diff(bounds))
    texts = [contexts[o][a:b] for o, (a, b) in zip(owners.tolist(), spans, strict=True)]
    scores_of = similar(texts, owners)
    found = []
    for row, (low, high) in enumerate(zip(bounds, bounds[1:], strict=False)):
        if low == high:
            found.append(Answer("", 0, 0, 0.0))
            continue
        best = low + int(scores_of[low:high].argmax())
        a, b = spans[best]
        found.append(Answer(contexts[row][a:b], a, b, float(scores_of[best])))
    return found


def tuned_lexical(
    train: Sequence[str],
    questions: Sequence[str],
    contexts: Sequence[str],
    answers: Sequence[Sequence[str]],
) -> tuple[Lexical, float]:
    """The unit, and the similarity from which on it answers, with the best validation F1.

    Args:
        train: Training contexts.
        questions, contexts, answers: Of validation.
    """
    tried = []
    for unit in UNITS:
        lexical = Lexical(train, unit)
        found = lexical.answers(questions, contexts)
        least = best_threshold(found, answers)
        overlap = scores([answer.given(least) for answer in found], answers)[:, 1].mean()
        tried.append((float(overlap), unit, lexical, least))
    return max(tried, key=lambda t: t[:2])[2:]


def by_rule(question: str, context: str) -> Answer | None:
    """What a regular expression finds: the named parameter's block, type or default.

    A question that names nothing but asks for what is returned or raised gets that section's
    only item. None where no rule applies.
    """
    parts: dict[str, Any] = {
        s.title: docstrings.entries(context, s) for s in docstrings.sections(context)
    }
    words = set(re.findall(r"\w+", question))
    given = [*parts.get("Parameters", []), *parts.get("Raises", [])]
    named = [entry for entry in given if entry.name in words - {"a", "I", "it"}]
    if named:
        entry = max(named, key=lambda e: len(e.name))
        span = entry.body
        if _DEFAULT.search(question):
            span = docstring_questions.default_span(context, entry)
        elif _TYPE.search(question):
            span = docstring_questions.type_span(context, entry)
        return _marked(context, span)
    for pattern, title in ((_FAILS, "Raises"), (_RESULT, "Returns")):
        if pattern.search(question):
            if len(parts.get(title, [])) != 1:
                return Answer("", 0, 0, 0.0)
            return _marked(context, _of_item(question, context, parts[title][0], title))
    return None


def _of_item(question: str, context: str, entry: Any, title: str) -> tuple[int, int]:
    """The description of a section's item; its type or name where the question asks that."""
    name = (entry.start, entry.start + len(entry.name))
    if title == "Raises":
        return name if _WHICH.search(question) else entry.body
    if not _TYPE.search(question):
        return entry.body
    stated = entry.type[1] > entry.type[0]
    return docstring_questions.type_span(context, entry) if stated else name


def _marked(context: str, span: tuple[int, int]) -> Answer:
    start, end = span
    return Answer(context[start:end], start, end, float(end > start))


def ruled(
    questions: Sequence[str],
    contexts: Sequence[str],
    otherwise: Sequence[Answer],
    threshold: float = 0.0,
) -> list[str]:
    """What the rules say, and where none applies, what a model says.

    Args:
        otherwise: The model's answers, for example those of `Lexical` or `reading.read`.
        threshold: From which margin on they are given.
    """
    found = []
    for question, context, other in zip(questions, contexts, otherwise, strict=True):
        rule = by_rule(question, context)
        found.append(other.given(threshold) if rule is None else rule.given(0.5))
    return found


def copying_prompt(question: str, context: str) -> list[dict[str, str]]:
    """A conversation that asks a chat model for a few words of the text."""
    text = f"{context}\n\nQuestion: {question}\nAnswer with a few words "
    return [{"role": "user", "content": text + "copied from the text above, no more."}]
