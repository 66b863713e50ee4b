"""A position of one source's endless stream -> the row read there and its epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from headrace.errors import OrderError
from headrace.order.blocks import BlockWindow
from headrace.order.permutation import permute_many, round_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shuffle = Literal["none", "global", "blocks"]


def row_at(position: int, *, rows: int, seed: int, source: str = "") -> int:
    """Row read at a position of the endless, globally shuffled stream.

    Pure and O(1) in memory: the resume state of a run is one integer, and a run stopped on 8 ranks continues
    on 6.

    Args:
        position: rows read before this one, all ranks and epochs; >= 0.
        rows: rows in the source, 1 to 2**62.
        seed: any int; runs with different seeds have unrelated orders.
        source: name; keeps the orders of a mixture independent.

    Returns:
        Row in [0, rows); each epoch (`rows` positions) visits each once.

    Raises:
        OrderError: position < 0, or rows out of range.
    """
    order = RowOrder(rows=rows, seed=seed, source=source)
    return int(order.rows_at(np.array([position], np.int64))[0][0])


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOrder:
    """The order of one source, without end: every row exactly once per epoch."""

    rows: int
    """Rows of the source; >= 1."""
    seed: int
    source: str = ""
    """Name that keeps the orders of a mixture's sources independent."""
    shuffle: Shuffle = "global"
    """none: in the store's order. global: one permutation of all rows. blocks: see `BlockWindow`."""
    block_rows: int = 1
    """Rows per block, for "blocks"."""
    window: int = 1
    """Blocks per window, for "blocks"."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise OrderError(f"a source of {self.rows} rows has no order: at least one row is needed")

    @property
    def lookahead(self) -> int:
        """Positions ahead of a reader to announce to a remote store: a window, or some hundred rows."""
        return min(self.rows, self.block_rows * self.window) if self.shuffle == "blocks" else 512

    def rows_at(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows read at positions, and their epochs.

        Args:
            positions: int64 [N], >= 0, of this source's own stream, in any order.

        Returns:
            rows int64 [N] in [0, rows), epochs int64 [N].

        Raises:
            OrderError: a position < 0.
        """
        if positions.size == 0:
            return positions.copy(), positions.copy()
        if int(positions.min()) < 0:
            raise OrderError(f"position {int(positions.min())} is before the beginning of the stream")
        epochs, indices = np.divmod(positions, self.rows)
        if self.shuffle == "none":
            return indices, epochs
        first, last = int(epochs.min()), int(epochs.max())
        if first == last:
            return self._epoch_rows(indices, first), epochs
        rows = np.empty_like(indices)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._epoch_rows(indices[chosen], int(epoch))
        return rows, epochs

    def _epoch_rows(self, indices: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        if self.shuffle == "blocks":
            window = BlockWindow(
                rows=self.rows,
                block_rows=self.block_rows,
                window=self.window,
                seed=self.seed,
                source=self.source,
                epoch=epoch,
            )
            return window.rows_at(indices)
        keys = round_keys(seed=self.seed, source=self.source, epoch=epoch)
        return permute_many(indices, n=self.rows, keys=keys)
