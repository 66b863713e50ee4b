"""A position of the global order -> which rows this rank reads for the batch there; computed in chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headrace.order import rank_slice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from headrace.load.options import LastBatch
    from headrace.order import LengthGroupedOrder, QuotaTable, RowOrder
    from headrace.store import RowLookup

# Positions per chunk. The first chunk is small, so that the first batch comes soon; chunks then double, because the
# vectorised arithmetic makes some 100 calls into NumPy for each chunk, whatever its size.
_FIRST_CHUNK = 256
_MAX_CHUNK = 1 << 13


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
    lookup: RowLookup | None = None
    """Addresses of the rows of several batches, looked up at once; None where each batch is looked up by itself."""
    number: int = 0
    """Index of this batch in `lookup`."""


class IndexStream:
    """The rows of the batch at a position, any position; successive ones come from one chunk and are cheap."""

    def __init__(
        self,
        orders: Sequence[RowOrder | LengthGroupedOrder],
        table: QuotaTable | None,
        *,
        batch_size: int,
        rank: int,
        world_size: int,
        last: LastBatch,
        look_up: Callable[[NDArray[np.int64]], RowLookup | None] | None = None,
        max_chunk: int | None = None,
    ) -> None:
        self._orders = orders
        self._table = table
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._last = last
        self._look_up = look_up
        self._lookup: RowLookup | None = None
        self._max_batches = _MAX_CHUNK if max_chunk is None else max(1, max_chunk // batch_size)
        self._epoch_rows = sum(order.rows for order in orders)
        self._chunk_batches = max(1, _FIRST_CHUNK // batch_size)
        self._begin = 0
        self._batches = 0
        self._rows = np.empty((0, 0), np.int64)
        self._sources: NDArray[np.int64] | None = None

    def steps(self, position: int, end: int | None) -> int | None:
        """Batches from a position to the end of its pass; None where there is no end. The same on every rank."""
        if end is None:
            return None
        rows = max(0, end - position)
        return rows // self._batch_size if self._last == "drop" else -(-rows // self._batch_size)

    def at(self, position: int, end: int | None) -> BatchIndex | None:
        """The batch that begins at a position of a pass that ends at `end`; None where the pass has no more."""
        rows = self._batch_size
        number, offset = divmod(position - self._begin, rows)
        # Most calls return here: a chunk holds whole batches of one pass.
        if 0 <= number < self._batches and not offset:
            sources = None if self._sources is None else self._sources[number]
            epoch = position // self._epoch_rows
            return BatchIndex(position, rows, self._rows[number], sources, epoch, self._lookup, number)
        if end is not None and position + rows > end and self._last != "repeat":
            rows = max(0, end - position) if self._last == "keep" else 0
        if rows == 0 or (end is not None and position >= end):
            return None
        if rows < self._batch_size:
            begin, stop = rank_slice(rows, rank=self._rank, world_size=self._world_size)
            picked, sources = self._locate(np.arange(position + begin, position + stop, dtype=np.int64))
            lookup = None
        else:
            self._refill(position, end)
            picked, lookup = self._rows[0], self._lookup
            sources = None if self._sources is None else self._sources[0]
        return BatchIndex(
            position=position,
            global_rows=rows,
            rows=picked,
            sources=sources,
            epoch=position // self._epoch_rows,
            lookup=lookup,
        )

    def _refill(self, position: int, last: int | None) -> None:
        begin, end = rank_slice(self._batch_size, rank=self._rank, world_size=self._world_size)
        batches = self._chunk_batches
        if last is not None:
            batches = min(batches, max(1, (last - position) // self._batch_size))
        firsts = position + np.arange(batches, dtype=np.int64) * self._batch_size
        positions = (firsts[:, None] + np.arange(begin, end, dtype=np.int64)).ravel()
        rows, sources = self._locate(positions)
        self._rows = rows.reshape(batches, end - begin)
        self._sources = None if sources is None else sources.reshape(batches, end - begin)
        self._lookup = None if self._look_up is None else self._look_up(self._rows)
        self._begin, self._batches = position, batches
        most = min(self._max_batches, max(1, _MAX_CHUNK // max(1, end - begin)))
        self._chunk_batches = min(2 * self._chunk_batches, most)

    def _locate(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        if self._table is None:
            return self._orders[0].rows_at(positions)[0], None
        sources, indices = self._table.locate(positions)
        rows = np.empty_like(indices)
        for number, order in enumerate(self._orders):
            of_source = sources == number
            rows[of_source] = order.rows_at(indices[of_source])[0]
        return rows, sources
