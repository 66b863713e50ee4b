"""Where a loader stands -> rows announced to remote stores, so that their blocks are fetched before their use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headrace.load.choose import windows_held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.load.indices import IndexStream
    from headrace.load.packing.rows import PackedRows
    from headrace.load.rows import ConcatenatedRows
    from headrace.order.stream import RowOrder


# Positions announced first; each announcement is twice the last.
_FIRST = 64


class Hints:
    """Runs ahead of the batches, and announces this rank's rows in order of use."""

    def __init__(
        self,
        index: IndexStream,
        rows: Sequence[ConcatenatedRows | PackedRows],
        orders: Sequence[RowOrder],
        *,
        position: int,
        at_least: int,
    ) -> None:
        """Stand at a position.

        A block shuffle announces whole windows, from the first time on a quarter of one at a time: a quarter
        touches nearly all of a window's blocks, so that neighbours are fetched by few large requests (measured on
        loopback: 128 KiB each 59 MB/s, 4 MiB each 440). Elsewhere that would only delay the first batch.

        Args:
            index: the rank's rows.
            rows: where each source's rows lie.
            orders: the order of each source.
            position: rows of the global order read before.
            at_least: positions to announce ahead.
        """
        self._index = index
        self._rows = rows
        self._hinted = position
        self._ahead = max(at_least, *(order.lookahead for order in orders))
        self._windows = [
            windows_held(order, one.store, seq_len=one.seq_len)
            for order, one in zip(orders, rows, strict=True)
        ]
        self._order = orders[0] if len(orders) == 1 and self._windows[0] else None
        self._most = max(_FIRST, max(order.lookahead for order in orders) // 4)
        self._piece = self._most if all(self._windows) else _FIRST
        self._ended = False

    def _until(self, position: int) -> int:
        """Position up to which rows should have been announced when those from `position` on are read."""
        if self._order is None:
            return position + self._ahead
        epoch, inside = divmod(position, self._order.rows)
        window = self._order.lookahead
        # Whole windows: a part of one more would not fit into the cache.
        return epoch * self._order.rows + (inside // window + self._windows[0]) * window

    def advance(self, position: int) -> None:
        """Announce a piece of what is read after a position, unless enough is announced.

        One piece a call: a first batch does not wait until a whole window has been announced.
        """
        until = self._until(position)
        if self._ended or self._hinted >= until:
            return
        batches = []
        end = min(until, self._hinted + self._piece)
        while self._hinted < end:
            batch = self._index.at(self._hinted)
            if batch is None:
                self._ended = True  # the run's end: there is nothing more to announce
                break
            batches.append(batch)
            self._hinted += batch.global_rows
        self._piece = min(2 * self._piece, self._most)
        for number, rows in enumerate(self._rows):
            wanted = [b.rows if b.sources is None else b.rows[b.sources == number] for b in batches]
            if wanted and (announced := np.concatenate(wanted)).size:
                rows.hint(announced)
