"""Lengths of pieces -> which pieces share a row: best-fit decreasing."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack pieces into rows, the longest first, each into the fullest row that still has enough free places.

    Time and memory follow the number of pieces and rows, not the capacity.

    >>> best_fit([3, 5, 2, 4, 2], capacity=8)
    [[1, 0], [3, 2, 4]]

    Args:
        lengths: of the pieces, each in [1, capacity].
        capacity: places in a row.

    Returns:
        Indices of the pieces in each row, in the order in which they were added; rows in the order in which they
        were opened.

    Source: Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv 2404.10830.
    """
    rows: list[list[int]] = []
    rows_by_free: dict[int, list[int]] = {}
    free_places: list[int] = []  # the keys of rows_by_free, ascending
    # Stable: pieces of equal length stay in the stream's order.
    for piece in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[piece]
        at = bisect_left(free_places, length)
        if at < len(free_places):
            free = free_places[at]
            row = rows_by_free[free].pop()
            if not rows_by_free[free]:
                del rows_by_free[free], free_places[at]
        else:
            free, row = capacity, len(rows)
            rows.append([])
        rows[row].append(piece)
        left = free - length
        if left in rows_by_free:
            rows_by_free[left].append(row)
        elif left:
            rows_by_free[left] = [row]
            insort(free_places, left)
    return rows
