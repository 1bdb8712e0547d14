"""Interpolated Kneser-Ney n-grams: the language model without a network, as a baseline.

Kneser and Ney (1995), "Improved backing-off for m-gram language modeling", in the interpolated
form of Chen and Goodman (1999). All counts are sorted arrays, so that millions of characters
take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sftkit.errors import ParameterError


class KneserNey:
    """Probabilities of the next token from the ``order - 1`` tokens before it.

    For a token w after the context h, with h' the context without its first token:

        p(w | h) = max(c(h w) - d, 0) / c(h) + d * t(h) / c(h) * p(w | h')

    where c counts, t(h) is the number of different tokens seen after h, and d is the discount.
    For the longest context c counts occurrences; for shorter ones it counts the different
    tokens seen *before* the n-gram. Below the empty context all tokens are equally likely. An
    unseen context leaves all to the next shorter one.

    Args:
        texts: Token ids from 0 to ``vocab - 1``, one sequence per text.
        order: n; 1 looks at no context.
        vocab: V, the number of token ids.
        begin: The id that fills the context before a text; it is not predicted itself.
        discount: d for every order, or None: ``n1 / (n1 + 2 n2)`` per order, from the n-grams
            counted once and twice (Ney, Essen and Kneser 1994).
    """

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        order: int,
        vocab: int,
        begin: int,
        discount: float | None = None,
    ) -> None:
        if order < 1 or vocab**order >= 2**63:
            raise ParameterError(
                f"order={order} with vocab={vocab}.",
                f"Give from 1 to {int(63 / np.log2(vocab))}: an n-gram must fit 63 bits.",
            )
        if discount is not None and not 0 < discount < 1:
            raise ParameterError(f"discount={discount}.", "It must be between 0 and 1.")
        self.order, self.vocab, self.begin = order, vocab, begin
        self.tables: list[_Table] = []
        codes, counts = np.unique(self.codes(texts)[:, -1], return_counts=True)
        for length in range(order, 0, -1):
            self.tables.append(_Table(codes, counts, vocab, discount))
            # Without its first token, an n-gram counts once per different first token.
            codes, counts = np.unique(codes % vocab ** (length - 1), return_counts=True)
        self.tables.reverse()

    def codes(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Each token and the k - 1 before it as one number, k from 1 on: ``(N, order)``."""
        width = self.order - 1
        rows = [np.asarray([self.begin] * width + list(text), np.int64) for text in texts]
        flat = np.concatenate([np.zeros(0, np.int64), *rows])
        sizes = [len(text) for text in texts]
        starts = np.cumsum([0] + [size + width for size in sizes[:-1]]) + width
        at = np.concatenate([s + np.arange(n) for s, n in zip(starts, sizes, strict=True)])
        out = np.empty((len(at), self.order), np.int64)
        code = np.zeros(len(at), np.int64)
        for back in range(self.order):
            code = code + flat[at - back] * self.vocab**back
            out[:, back] = code
        return out

    def probs_of_codes(self, codes: np.ndarray) -> np.ndarray:
        """Probabilities of n-grams given as `codes` gives them: ``(N, order)`` to ``(N,)``."""
        probs = np.full(len(codes), 1.0 / self.vocab)
        for table, column in zip(self.tables, codes.T, strict=True):
            probs = table.interpolate(column, probs)
        return probs

    def log_probs(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Log-probability of every token of every text, in nats, ``(sum of lengths,)``."""
        return np.log(self.probs_of_codes(self.codes(texts)))

    def next_probs(self, context: Sequence[int]) -> np.ndarray:
        """Probabilities of all tokens after a context of any length, ``(V,)``."""
        width = self.order - 1
        last = ([self.begin] * width + list(context))[-width:] if width else []
        return self.probs_of_codes(
            np.stack(
                [
                    np.arange(self.vocab)
                    + sum(t * self.vocab ** (i + 1) for i, t in enumerate(last[::-1][:k]))
                    for k in range(self.order)
                ],
                axis=1,
            )
        )

    def sample(
        self, steps: int, generator: np.random.Generator, prompt: Sequence[int] = ()
    ) -> list[int]:
        """A text of ``steps`` more tokens, drawn token by token."""
        out = list(prompt)
        for _ in range(steps):
            probs = self.next_probs(out)
            out.append(int(generator.choice(self.vocab, p=probs / probs.sum())))
        return out


class _Table:
    """The counts of one order, with the totals of their contexts."""

    def __init__(
        self, codes: np.ndarray, counts: np.ndarray, vocab: int, discount: float | None
    ) -> None:
        self.codes, self.counts, self.vocab = codes, counts, vocab
        if discount is None:
            once, twice = int((counts == 1).sum()), int((counts == 2).sum())
            discount = once / (once + 2 * twice) if once and twice else 0.5
        self.discount = discount
        contexts = codes // vocab  # sorted, since the codes are
        self.contexts, first, self.types = np.unique(
            contexts, return_index=True, return_counts=True
        )
        self.totals = np.add.reduceat(counts, first) if len(counts) else counts

    def interpolate(self, codes: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """This order's share, and the rest from the next lower one, ``lower``."""
        count = _look_up(self.codes, self.counts, codes)
        total = _look_up(self.contexts, self.totals, codes // self.vocab)
        types = _look_up(self.contexts, self.types, codes // self.vocab)
        known = np.maximum(total, 1)
        here = np.maximum(count - self.discount, 0) / known
        return np.where(total > 0, here + self.discount * types / known * lower, lower)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of sorted keys; 0 where a key is missing."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
