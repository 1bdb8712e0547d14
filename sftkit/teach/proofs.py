"""Verification cells: two independent computations, the largest error, the tolerance.

A notebook calls `compare` or `same`; each prints one line of a fixed form, which
``sftkit proofs`` collects from the executed notebooks. Errors are printed as the next power of
ten, since the last digits differ between processors.
"""

from __future__ import annotations

import math
from typing import Any

WIDTH = 44  # characters of the first column


def compare(what: str, ours: Any, reference: Any, tolerance: float) -> None:
    """Compare two numbers or arrays, print the largest absolute error, and insist on it.

    Args:
        what: What is compared with what, as "hand gradient vs autograd".
        ours: A number, a list, an array or a tensor of any shape.
        reference: The independent result, of the same shape.
        tolerance: The largest absolute error that is accepted.

    Raises:
        AssertionError: Shapes differ, a value is not finite where the other is, or the error
            is above the tolerance. The message names the place.
    """
    import numpy as np

    a, b = _array(ours), _array(reference)
    assert a.shape == b.shape, f"{what}: shape {a.shape}, but the reference has {b.shape}"
    assert a.size, f"{what}: there is nothing to compare"
    with np.errstate(invalid="ignore"):
        differences = np.where(a == b, 0.0, np.abs(a - b))  # equal infinities are equal
    error = float(differences.max())
    if not error <= tolerance:  # also when it is NaN
        wrong = np.where(np.isnan(differences), np.inf, differences)
        place = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), a.shape))
        raise AssertionError(
            f"{what}: |error| {error:.3g} at {place} is above the tolerance {tolerance:g}; "
            f"ours {a[place]:.6g}, reference {b[place]:.6g}"
        )
    print(f"{what:<{WIDTH}}  max |error| {power_of_ten(error):<8}  tolerance {tolerance:g}  ok")


def same(what: str, ours: Any, reference: Any) -> None:
    """Compare two sequences item by item, print how many there are, and insist on equality.

    Args:
        what: What is compared with what, as "our merges vs tokenizers".
        ours: A sequence: texts, ids, merges, or lists of them.
        reference: The independent result.

    Raises:
        AssertionError: Lengths differ or an item does. The message names the first one.
    """
    a, b = list(ours), list(reference)
    assert len(a) == len(b), f"{what}: {len(a)} items, but the reference has {len(b)}"
    assert a, f"{what}: there is nothing to compare"
    for place, (x, y) in enumerate(zip(a, b, strict=True)):
        assert x == y, f"{what}: item {place} is {x!r}, but the reference has {y!r}"
    print(f"{what:<{WIDTH}}  0 of {len(a):,} differ  tolerance 0  ok")


def power_of_ten(error: float) -> str:
    """``< 1e-12`` for 3.4e-13, and ``= 0`` for no error at all."""
    if error == 0:
        return "= 0"
    return f"< 1e{math.floor(math.log10(error)) + 1:+03d}"


def _array(value: Any) -> Any:
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)
