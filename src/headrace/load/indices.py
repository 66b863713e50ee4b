"""Positions of the global order -> which rows this rank reads; computed in chunks, ahead of the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from headrace.order.ranks import rank_slice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from headrace.order.mix import QuotaTable
    from headrace.order.stream import RowOrder
    from headrace.store.found import Found

# Positions per chunk: the first are few, so that a first batch does not wait for the rest; then doubled,
# because the arithmetic is vectorised and costs 100 calls into NumPy however few the positions are.
_FIRST_CHUNK = 256
_MAX_CHUNK = 1 << 13

Last = Literal["keep", "drop", "repeat"]


class BatchIndex(NamedTuple):
    """Which rows one rank reads for one global batch."""

    position: int
    """Rows of the global order before the global batch."""
    global_rows: int
    """Rows of the global batch, over all ranks."""
    rows: NDArray[np.int64]
    """int64 [b]: rows of their sources; b may be 0 in the run's last batch."""
    sources: NDArray[np.int64] | None
    """int64 [b]: which source; None where there is one."""
    epoch: int
    """Epoch of the global batch's first row."""
    found: Found | None = None
    """Rows of many batches, looked up ahead; None where each batch is looked up by itself."""
    number: int = 0
    """Which of `found`'s batches this one is."""


class IndexStream:
    """Indices of successive global batches; any position can be asked for, successive ones are cheap."""

    def __init__(
        self,
        orders: Sequence[RowOrder],
        table: QuotaTable | None,
        *,
        batch_size: int,
        rank: int,
        world_size: int,
        end: int | None,
        last: Last,
        find: Callable[[NDArray[np.int64]], Found | None] | None = None,
    ) -> None:
        self._orders = orders
        self._table = table
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._end = end
        self._last = last
        self._find = find
        self._found: Found | None = None
        self._epoch_rows = sum(order.rows for order in orders)
        self._chunk_batches = max(1, _FIRST_CHUNK // batch_size)
        self._begin = 0
        self._batches = 0
        self._rows = np.empty((0, 0), np.int64)
        self._sources: NDArray[np.int64] | None = None

    def steps_from(self, position: int) -> int | None:
        """Batches from a position to the end; None where there is no end. The same on every rank."""
        if self._end is None:
            return None
        left = max(0, self._end - position)
        return left // self._batch_size if self._last == "drop" else -(-left // self._batch_size)

    def at(self, position: int) -> BatchIndex | None:
        """The batch that begins at a position; None at the end."""
        rows = self._batch_size
        number, off = divmod(position - self._begin, rows)
        # Most calls end here: chunks hold only whole batches.
        if 0 <= number < self._batches and not off:
            sources = None if self._sources is None else self._sources[number]
            epoch = position // self._epoch_rows
            return BatchIndex(position, rows, self._rows[number], sources, epoch, self._found, number)
        if self._end is not None and position + rows > self._end and self._last != "repeat":
            rows = max(0, self._end - position) if self._last == "keep" else 0
        if rows == 0 or (self._end is not None and position >= self._end):
            return None
        if rows < self._batch_size:
            begin, end = rank_slice(rows, rank=self._rank, world_size=self._world_size)
            picked, sources = self._locate(np.arange(position + begin, position + end, dtype=np.int64))
            found = None
        else:
            self._refill(position)
            picked, found = self._rows[0], self._found
            sources = None if self._sources is None else self._sources[0]
        return BatchIndex(
            position=position,
            global_rows=rows,
            rows=picked,
            sources=sources,
            epoch=position // self._epoch_rows,
            found=found,
        )

    def _refill(self, position: int) -> None:
        begin, end = rank_slice(self._batch_size, rank=self._rank, world_size=self._world_size)
        batches = self._chunk_batches
        if self._end is not None:
            batches = min(batches, max(1, (self._end - position) // self._batch_size))
        firsts = position + np.arange(batches, dtype=np.int64) * self._batch_size
        positions = (firsts[:, None] + np.arange(begin, end, dtype=np.int64)).ravel()
        rows, sources = self._locate(positions)
        self._rows = rows.reshape(batches, end - begin)
        self._sources = None if sources is None else sources.reshape(batches, end - begin)
        self._found = None if self._find is None else self._find(self._rows)
        self._begin, self._batches = position, batches
        self._chunk_batches = min(2 * self._chunk_batches, max(1, _MAX_CHUNK // max(1, end - begin)))

    def _locate(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        if self._table is None:
            return self._orders[0].rows_at(positions)[0], None
        sources, indices = self._table.locate(positions)
        rows = np.empty_like(indices)
        for number, order in enumerate(self._orders):
            chosen = sources == number
            rows[chosen] = order.rows_at(indices[chosen])[0]
        return rows, sources
