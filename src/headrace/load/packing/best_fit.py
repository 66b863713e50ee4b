"""Lengths of pieces -> which pieces share a row: best-fit decreasing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack pieces into rows, the longest first, each into the fullest row that still has enough free places.

    Bit r of one integer is set where some row has r free places: the fullest row that is large enough is the lowest set
    bit after one shift, instead of a search in a tree.

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
    rows_by_free: list[list[int]] = [[] for _ in range(capacity + 1)]
    occupied = 0
    # Stable: pieces of equal length stay in the stream's order.
    for piece in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[piece]
        fitting = occupied >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = rows_by_free[free].pop()
            if not rows_by_free[free]:
                occupied &= ~(1 << free)
        else:
            free, row = capacity, len(rows)
            rows.append([])
        rows[row].append(piece)
        left = free - length
        if left:
            rows_by_free[left].append(row)
            occupied |= 1 << left
    return rows
