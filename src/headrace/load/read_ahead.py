"""A loader's position -> rows announced to remote stores, which fetch their blocks before they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from headrace.load.defaults import windows_ahead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.load.indices import IndexStream
    from headrace.load.packing.rows import PackedRows
    from headrace.load.rows import ConcatenatedRows
    from headrace.order import RowOrder


_FIRST_ROWS: Final = 64
"""Positions in the first announcement; each one has twice as many as the last."""


class ReadAhead:
    """Announces this rank's rows in the order in which they will be read.

    A block shuffle announces whole windows, a quarter at a time from the first: a quarter of the rows is in nearly
    all blocks of the window, so that neighbouring blocks are fetched by few large requests (measured on loopback:
    requests of 128 KiB 59 MB/s, of 4 MiB 440 MB/s). Other shuffles announce few rows at first, so that the first
    batch comes soon.

    Args:
        index: the rank's rows.
        rows: rows of each source.
        orders: order of each source.
        distance: positions that are announced ahead at least.
    """

    def __init__(
        self,
        index: IndexStream,
        rows: Sequence[ConcatenatedRows | PackedRows],
        orders: Sequence[RowOrder],
        *,
        distance: int,
    ) -> None:
        self._index = index
        self._rows = rows
        self._distance = max(distance, *(order.lookahead for order in orders))
        windows = [
            windows_ahead(order, one.store, seq_len=one.seq_len)
            for order, one in zip(orders, rows, strict=True)
        ]
        self._windows = windows[0]
        self._order = orders[0] if len(orders) == 1 and windows[0] else None
        self._max_step = max(_FIRST_ROWS, max(order.lookahead for order in orders) // 4)
        self._first_step = self._max_step if all(windows) else _FIRST_ROWS
        self._step = self._first_step
        self._announced = -1
        self._end: int | None = None
        self._done = False

    def advance(self, position: int, end: int | None) -> None:
        """Announce some of the rows behind a position of a pass that ends at `end`, unless enough are announced.

        One step a call: the first batch does not wait until a whole window is announced.
        """
        if self._announced < position or end != self._end:
            self._announced, self._end, self._step, self._done = position, end, self._first_step, False
        until = self._until(position)
        if self._done or self._announced >= until:
            return
        batches = []
        stop = min(until, self._announced + self._step)
        while self._announced < stop:
            batch = self._index.at(self._announced, end)
            if batch is None:
                self._done = True
                break
            batches.append(batch)
            self._announced += batch.global_rows
        self._step = min(2 * self._step, self._max_step)
        for number, rows in enumerate(self._rows):
            parts = [b.rows if b.sources is None else b.rows[b.sources == number] for b in batches]
            if parts and (announced := np.concatenate(parts)).size:
                rows.announce(announced)

    def _until(self, position: int) -> int:
        """Position up to which rows should be announced when those from `position` on are read."""
        if self._order is None:
            return position + self._distance
        epoch, inside = divmod(position, self._order.rows)
        window = self._order.lookahead
        # Whole windows: a part of one more would not fit into the cache.
        return epoch * self._order.rows + (inside // window + self._windows) * window
