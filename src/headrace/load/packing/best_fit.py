"""Lengths of pieces -> which pieces share a row: best-fit decreasing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack pieces into rows, the longest first, each into the fullest row that still has room for it.

    Rows with room are found by the lowest set bit of one integer whose bit r says that a row with r free
    places
    exists: one shift instead of a tree walk.

    >>> best_fit([3, 5, 2, 4, 2], capacity=8)
    [[1, 0], [3, 2, 4]]

    Args:
        lengths: of the pieces, each in [1, capacity].
        capacity: places in a row.

    Returns:
        Pieces (their indices) of each row, in the order in which they were put there; rows in the order in
        which they were begun.

    Source: Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv 2404.10830.
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    occupied = 0
    # Stable: of equal lengths, the piece that stands first in the stream goes first.
    for piece in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[piece]
        fitting = occupied >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                occupied &= ~(1 << room)
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(piece)
        left = room - length
        if left:
            with_room[left].append(row)
            occupied |= 1 << left
    return rows
