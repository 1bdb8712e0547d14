"""Duplicates and near-duplicates: which rows say the same thing."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

NEAR_LIMIT = 200_000  # rows; above this only duplicates after normalisation are grouped
SIMILARITY = 0.7  # shared share (Jaccard) of word pairs from which on two texts are the same
SHORT = 5  # words; a shorter text is compared as a whole

_ROWS_PER_BAND, _BANDS = 4, 16  # finds 99 % of pairs at a similarity of 0.7
_NEIGHBOURS = 30
# Addresses, user names, and the marks of a retweet say who passed a text on, not what it says.
_DROP = re.compile(r"(?:https?://|www\.)\S*|\bhttp\b|@\w+|\brt\b|&\w{2,6};")
_HAN = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # written without spaces: each is a word
_WORD = re.compile(rf"[{_HAN}]|[^\W\d_{_HAN}]+")
_WORD_OR_NUMBER = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+")


def normal_words(text: str) -> list[str]:
    """The words by which two texts are compared.

    Lower case, without addresses, user names, retweet marks and punctuation. Numbers are left
    out too, unless fewer than ``SHORT`` words would remain: in a short text they carry the
    meaning.
    """
    text = _DROP.sub(" ", text.lower())
    words = _WORD.findall(text)
    return words if len(words) >= SHORT else _WORD_OR_NUMBER.findall(text)


def normal_form(text: str) -> str:
    """The text as one string of normal words; the bare text if it has no words at all."""
    return " ".join(normal_words(text)) or " ".join(text.lower().split())


def key(text: str) -> int:
    """A hash of 64 bits that is the same on every machine."""
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def near_groups(texts: Iterable[str]) -> Any:
    """Number the groups of near-duplicate texts.

    Texts are the same when their normal forms are equal, or when at least ``SIMILARITY`` of
    their pairs of neighbouring words are shared. Groups are chains: if a is like b and b is
    like c, the three are one group. Candidates come from MinHash signatures in bands; each
    candidate pair is then compared exactly.

    Args:
        texts: One string per row, ``N`` in all.

    Returns:
        ``int64 (N,)``: the group of each row, numbered by first appearance.
    """
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    number: dict[str, int] = {}  # normal form -> number of the distinct text
    which: list[int] = []
    hashes: list[Any] = []  # per distinct text: one code per word
    codes: dict[str, int] = {}
    for text in texts:
        words = normal_words(text)
        form = " ".join(words) or " ".join(text.lower().split())
        at = number.setdefault(form, len(number))
        which.append(at)
        if at == len(hashes):
            for word in words:
                if word not in codes:
                    codes[word] = zlib.crc32(word.encode("utf-8", "replace"))
            hashes.append(np.fromiter((codes[word] for word in words), np.uint64, len(words)))
    rows = np.asarray(which, dtype=np.int64)
    if not which:
        return rows
    left, right = _similar_pairs(hashes)
    size = len(hashes)
    graph = coo_matrix((np.ones(len(left), np.int8), (left, right)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    return first_appearance(component[rows])


def across(dataset: Any) -> dict[str, int]:
    """Rows of each later split that say the same as a row of an earlier one.

    Args:
        dataset: A ``DatasetDict`` with a ``text`` column, and perhaps ``text_pair``.

    Returns:
        ``{"validation/train": n, "test/train": n, "test/validation": n}``: how many rows of
        the first split are in a group of near-duplicates with rows of the second. Above
        ``NEAR_LIMIT`` rows in all, only equal normal forms count.
    """
    return across_groups(split_groups(dataset))


def across_groups(groups: dict[str, Any]) -> dict[str, int]:
    """As ``across``, from the groups of each split."""
    import numpy as np

    order = [name for name in ("train", "validation", "test") if name in groups]
    return {
        f"{later}/{earlier}": int(np.isin(groups[later], groups[earlier]).sum())
        for at, later in enumerate(order)
        for earlier in order[:at]
    }


def split_groups(dataset: Any) -> dict[str, Any]:
    """Per split, ``int64 (N,)``: the groups of near-duplicates, numbered through all splits."""
    import numpy as np

    sizes = [len(part) for part in dataset.values()]
    texts = (text for part in dataset.values() for text in whole_texts(part))
    if sum(sizes) <= NEAR_LIMIT:
        flat = near_groups(texts)
    else:
        flat = first_appearance(np.fromiter((key(normal_form(t)) for t in texts), np.uint64))
    return dict(zip(dataset, np.split(flat, np.cumsum(sizes)[:-1]), strict=True))


def whole_texts(part: Any) -> Iterator[str]:
    """The texts of a split, each joined with its second text if there is one."""
    names = [name for name in ("text", "text_pair") if name in part.column_names]
    for batch in part.select_columns(names).iter(batch_size=5_000):
        yield from map("\x1f".join, zip(*(batch[name] for name in names), strict=True))


def first_appearance(values: Any) -> Any:
    """Renumber values 0, 1, 2, ... in the order in which they first appear."""
    import numpy as np

    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def mix(values: Any, seed: int) -> Any:
    """Scramble 64-bit numbers (the finaliser of splitmix64), differently for each seed."""
    import numpy as np

    step = np.uint64((0x9E3779B97F4A7C15 * (2 * seed + 1)) % 2**64)
    with np.errstate(over="ignore"):
        z = np.asarray(values, np.uint64) + step
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _similar_pairs(hashes: list[Any]) -> tuple[Any, Any]:
    """Pairs of texts whose sets of word pairs overlap by at least ``SIMILARITY``."""
    import numpy as np

    none = np.zeros(0, np.int64)
    long = [i for i, words in enumerate(hashes) if len(words) >= SHORT]
    if len(long) < 2:
        return none, none
    # A word pair is one number; each text keeps the distinct ones, all in one flat array.
    shingles = [np.unique(mix(hashes[i][:-1], 1) ^ mix(hashes[i][1:], 2)) for i in long]
    flat = np.concatenate(shingles)
    starts = np.cumsum([0, *map(len, shingles[:-1])])
    ids = np.asarray(long)
    signature = np.empty((len(long), _ROWS_PER_BAND * _BANDS), np.uint64)
    factors = mix(np.arange(signature.shape[1]), 100) | np.uint64(1)
    for column in range(signature.shape[1]):
        # The numbers are scrambled already: times an odd factor is another scramble.
        signature[:, column] = np.minimum.reduceat(flat * factors[column], starts)
    # In a fixed order of content, so that the groups do not depend on the order of the rows.
    content = mix(np.add.reduceat(mix(flat, 4), starts), 5)
    place = np.empty(len(long), np.int64)
    place[np.argsort(content, kind="stable")] = np.arange(len(long))
    pairs = np.unique(
        np.concatenate(
            [
                _bucket_pairs(signature[:, at : at + _ROWS_PER_BAND], place)
                for at in range(0, signature.shape[1], _ROWS_PER_BAND)
            ]
        ),
        axis=0,
    )
    agree = np.concatenate(
        [
            (signature[some[:, 0]] == signature[some[:, 1]]).mean(axis=1)
            for some in np.array_split(pairs, len(pairs) // 100_000 + 1)
        ]
    )
    likely = pairs[agree >= SIMILARITY - 0.2].tolist()  # an estimate: 0.2 is over three sigma
    kept = [(a, b) for a, b in likely if _overlap(shingles[a], shingles[b]) >= SIMILARITY]
    if not kept:
        return none, none
    left, right = np.asarray(kept).T
    return ids[left], ids[right]


def _bucket_pairs(block: Any, place: Any) -> Any:
    """``int (P, 2)``: pairs of texts whose signatures agree in one band.

    In a large bucket each text is compared with the next ``_NEIGHBOURS`` only: enough to chain
    real copies, and bounded.
    """
    import numpy as np

    bucket = np.zeros(len(block), np.uint64)
    for column in block.T:
        bucket = mix(bucket ^ column, 3)
    order = np.lexsort((place, bucket))
    ordered, found = bucket[order], []
    for gap in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
        same = ordered[gap:] == ordered[:-gap]
        if not same.any():
            break
        found.append(np.stack([order[:-gap][same], order[gap:][same]], axis=1))
    return np.sort(np.concatenate(found), axis=1) if found else np.zeros((0, 2), np.int64)


def _overlap(a: Any, b: Any) -> float:
    """Jaccard similarity of two sorted arrays of distinct numbers."""
    import numpy as np

    if min(len(a), len(b)) < SIMILARITY * max(len(a), len(b)):
        return 0.0
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)
