"""Splits that depend on the content of the rows and the seed, not on their order."""

from __future__ import annotations

from typing import Any

from sftkit.corpora.duplicates import first_appearance, mix

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = ("train", "validation", "test")


def carve(
    labels: Any, groups: Any, keys: Any, sizes: dict[int, float], seed: int, stratify: bool
) -> Any:
    """Choose the rows of new splits. A group is never divided.

    The groups are taken in an order drawn from their content and the seed, so that the same
    rows in another order are split alike.

    Args:
        labels: ``int (N,)``, the class of each row.
        groups: ``int (N,)``; rows with the same number stay together.
        keys: ``uint64 (N,)``, a hash of the content of each row.
        sizes: Rows wanted, as a share (below 1) or as a number, per ``VALIDATION``, ``TEST``.
        seed: Another seed gives another split.
        stratify: Keep the share of each class equal in all splits, as far as groups allow.

    Returns:
        ``int8 (N,)`` of ``TRAIN``, ``VALIDATION`` and ``TEST``. Every class has at least one
        group in ``TRAIN``.
    """
    import numpy as np

    labels, groups = np.asarray(labels), first_appearance(groups)
    count = groups.max() + 1 if len(groups) else 0
    size = np.bincount(groups, minlength=count)
    smallest = np.full(count, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, groups, np.asarray(keys, np.uint64))
    order = np.argsort(mix(smallest, seed), kind="stable")
    majority = _majority(labels, groups)

    wanted = {split: want if want >= 1 else want * len(labels) for split, want in sizes.items()}
    side = np.zeros(count, np.int8)
    if stratify:
        pools = [order[majority[order] == label] for label in np.unique(majority)]
    else:
        pools = [order]
    quotas = {split: _quotas(pools, size, want) for split, want in wanted.items()}
    reserved = _first_of_each_class(
        labels, groups, order
    )  # one group of each class to train on
    for at, pool in enumerate(pools):
        free = [group for group in pool.tolist() if group not in reserved]
        for split in sorted(wanted, reverse=True):  # test first
            left, passed = quotas[split][at], []
            for group in free:
                if side[group] == TRAIN and size[group] <= left:
                    side[group] = split
                    left -= size[group]
                else:
                    passed.append(group)
            free = passed
    return side[groups]


def nested_order(labels: Any, keys: Any, seed: int, stratify: bool = True) -> Any:
    """An order of rows in which every beginning is a fair sample.

    The first row of each class comes first, so that a sample of at least ``C`` rows knows all
    classes. After that, each beginning holds the classes in their proportions. Smaller
    samples are parts of larger ones.

    Args:
        labels: ``int (N,)``.
        keys: ``uint64 (N,)``, a hash of the content of each row.
        seed: Another seed gives another order.
        stratify: When False, a plain shuffle.

    Returns:
        ``int64 (N,)``: row numbers.
    """
    import numpy as np

    labels = np.asarray(labels)
    scrambled = mix(keys, seed + 7)
    if not stratify:
        return np.argsort(scrambled, kind="stable")
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(scrambled[rows], kind="stable")]
        jitter = mix(scrambled[rows], seed + 8) / 2.0**64
        place[rows] = (np.arange(len(rows)) + jitter) / len(rows)
        place[rows[0]] -= 1.0
    return np.argsort(place, kind="stable")


def groups_per_class(labels: Any, groups: Any, classes: int) -> Any:
    """``int (C,)``: how many groups have a row of each class."""
    import numpy as np

    pairs = np.unique(np.stack([first_appearance(groups), np.asarray(labels)]), axis=1)
    return np.bincount(pairs[1], minlength=classes)


def _majority(labels: Any, groups: Any) -> Any:
    """The most frequent class of each group (the smaller number when two are level)."""
    import numpy as np

    pairs, counts = np.unique(np.stack([groups, labels]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    ordered = pairs[:, order]
    first = np.r_[True, ordered[0][1:] != ordered[0][:-1]]
    return ordered[1][first]


def _quotas(pools: list[Any], size: Any, want: float) -> list[int]:
    """Rows to take from each pool: proportional, whole, and together ``want``."""
    import numpy as np

    rows = np.array([size[pool].sum() for pool in pools])
    exact = want * rows / rows.sum()
    quota = np.floor(exact).astype(int)
    missing = round(want) - quota.sum()
    quota[np.argsort(quota - exact, kind="stable")[:missing]] += 1
    # A class that can spare a row is in every split, even if its share is less than one row.
    spare = np.array([len(pool) >= 3 for pool in pools])
    quota = np.where((quota == 0) & spare & (want > 0), 1, quota)
    while quota.sum() > max(round(want), 1) and quota.max() > 1:
        quota[quota.argmax()] -= 1
    return quota.tolist()


def _first_of_each_class(labels: Any, groups: Any, order: Any) -> set[int]:
    """The first group, in the given order of groups, that has a row of each class."""
    import numpy as np

    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    first = np.full(labels.max(initial=0) + 1, len(order), np.int64)
    np.minimum.at(first, labels, place[groups])
    return set(order[first[first < len(order)]].tolist())
