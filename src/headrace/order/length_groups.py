"""Rows of an order and their lengths -> the same rows, those of similar length in one group; a function of position.

The global order is cut into windows of some thousand positions. The rows of a window are sorted by length and cut into
groups of a batch's size; the groups of a window, and the rows inside a group, are in random order. Which row is at a
position therefore follows from (seed, epoch, position) and from the lengths of one window's rows.

Groups begin at multiples of `group_rows` in the endless stream of all epochs, so that batches of this size are whole
groups in every epoch. The groups at both ends of an epoch are shorter where the epoch begins or ends between two
multiples; together they are one batch.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from headrace.errors import OrderError
from headrace.order.permutation import permute_many, round_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from headrace.order.stream import RowOrder

_KEPT_WINDOWS = 4


class LengthGroupedOrder:
    """A `RowOrder` whose rows are grouped by length; every row still exactly once per epoch. Not safe for threads.

    Args:
        base: the order of the rows before they are grouped.
        lengths: rows int64 [N] -> their lengths, int64 [N].
        window: positions whose rows are sorted together; a multiple of `group_rows`.
        group_rows: rows of similar length that are neighbours; the batch size.
    """

    def __init__(
        self,
        base: RowOrder,
        lengths: Callable[[NDArray[np.int64]], NDArray[np.int64]],
        *,
        window: int,
        group_rows: int,
    ) -> None:
        if group_rows < 1 or window < group_rows or window % group_rows:
            raise OrderError(
                f"windows of {window} rows in groups of {group_rows}: a window is a multiple of a group"
            )
        self.base = base
        self.window = window
        self.group_rows = group_rows
        self._lengths = lengths
        self._windows: OrderedDict[tuple[int, int], NDArray[np.int64]] = OrderedDict()

    @property
    def rows(self) -> int:
        """Rows of the source."""
        return self.base.rows

    def rows_at(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows read at positions, and their epochs; see `RowOrder.rows_at`."""
        if positions.size == 0:
            return positions.copy(), positions.copy()
        if int(positions.min()) < 0:
            raise OrderError(f"position {int(positions.min())} is before the beginning of the stream")
        epochs, indices = np.divmod(positions, self.rows)
        # Groups lie at multiples of group_rows of the stream: `lead` rows of the first one are of the epoch before.
        lead = epochs * self.rows % self.group_rows
        windows = (indices + lead) // self.window
        rows = np.empty_like(positions)
        for epoch, number in np.unique(np.stack([epochs, windows], axis=1), axis=0).tolist():
            chosen = (epochs == epoch) & (windows == number)
            first, found = self._window(epoch, number)
            rows[chosen] = found[indices[chosen] - first]
        return rows, epochs

    def _window(self, epoch: int, number: int) -> tuple[int, NDArray[np.int64]]:
        """First index in the epoch of a window, and its rows in order."""
        lead = epoch * self.rows % self.group_rows
        first = max(number * self.window - lead, 0)
        last = min((number + 1) * self.window - lead, self.rows)
        found = self._windows.get((epoch, number))
        if found is None:
            found = self._ordered(epoch, number, first, last, lead)
            self._windows[epoch, number] = found
            if len(self._windows) > _KEPT_WINDOWS:
                self._windows.popitem(last=False)
        return first, found

    def _ordered(self, epoch: int, number: int, first: int, last: int, lead: int) -> NDArray[np.int64]:
        rows, _ = self.base.rows_at(epoch * self.rows + np.arange(first, last, dtype=np.int64))
        by_length = np.argsort(self._lengths(rows), kind="stable")
        cuts = np.arange(
            -(-(first + lead + 1) // self.group_rows) * self.group_rows, last + lead, self.group_rows
        )
        edges = np.concatenate(([first], cuts - lead, [last])) - first
        sizes = np.diff(edges)
        keys = round_keys(
            seed=self.base.seed, source=self.base.source, epoch=epoch, purpose=f"lengths {number}"
        )
        places = permute_many(np.arange(len(sizes), dtype=np.int64), n=len(sizes), keys=keys)
        out = np.empty_like(rows)
        taken = 0
        for place in places.tolist():
            # In a group the rows are in the order that they have without groups: ranks take slices of it.
            group = np.sort(by_length[taken : taken + sizes[place]])
            out[edges[place] : edges[place + 1]] = rows[group]
            taken += int(sizes[place])
        return out
