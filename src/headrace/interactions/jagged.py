"""Ragged columns of a batch -> distinct rows and where each belongs; values of several columns in one buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def distinct_rows(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of each id, and for each row which of those it equals.

    >>> distinct_rows(np.array([7, 3, 7]))
    (array([0, 1]), array([0, 1, 0]))
    """
    _, firsts, inverse = np.unique(ids, return_index=True, return_inverse=True)
    # In the order in which they come, so that a batch without repeats is as it was.
    order = np.argsort(firsts, kind="stable")
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order))
    return firsts[order], numbers[inverse]


def joined_values(parts: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], list[tuple[int, int]]]:
    """Arrays of one type in one buffer, and where each begins and ends there."""
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return np.concatenate(parts), list(zip([0, *ends[:-1]], ends, strict=True))
