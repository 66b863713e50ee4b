"""Where a loader stands -> hints to remote stores about the rows it reads next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from headrace.load.indices import IndexStream
    from headrace.load.packed import PackedRows
    from headrace.load.rows import ConcatenatedRows


# Positions announced first; each announcement is twice the last, up to a quarter of all.
_FIRST = 64
_ASKED = 4096
"""Groups that are remembered as asked for, so that memory does not grow with the epoch."""


class Hints:
    """Runs ahead of the batches by `ahead` positions, and announces this rank's rows in order of use."""

    def __init__(
        self,
        index: IndexStream,
        rows: Sequence[ConcatenatedRows | PackedRows],
        *,
        position: int,
        ahead: int,
        together: Sequence[int],
    ) -> None:
        """Stand at a position.

        Args:
            index: the rank's rows.
            rows: where each source's rows lie.
            position: rows of the global order read before.
            ahead: positions to announce ahead.
            together: rows of each source that are fetched as one when the first of them is wanted, because a
                block shuffle will want the others soon; 1 fetches each block by itself.
        """
        self._index = index
        self._rows = rows
        self._hinted = position
        self._ahead = ahead
        self._piece = _FIRST
        self._together = together
        self._asked: list[set[int]] = [set() for _ in rows]
        self._epoch = 0

    def advance(self, position: int) -> None:
        """Announce a piece of what is read after a position, unless enough is announced.

        One piece a call: a first batch does not wait until a whole window has been announced.
        """
        if self._hinted >= position + self._ahead:
            return
        batches = []
        end = self._hinted + self._piece
        while self._hinted < end:
            batch = self._index.at(self._hinted)
            if batch is None:
                self._ahead = 0  # the run's end: there is nothing more to announce
                break
            batches.append(batch)
            self._hinted += batch.global_rows
        self._piece = max(_FIRST, min(2 * self._piece, self._ahead // 4))
        for number, rows in enumerate(self._rows):
            wanted = [b.rows if b.sources is None else b.rows[b.sources == number] for b in batches]
            if wanted and (announced := np.concatenate(wanted)).size:
                self._fetch_groups(number, announced, batches[0].epoch)
                rows.hint(announced)

    def _fetch_groups(self, number: int, announced: NDArray[np.int64], epoch: int) -> None:
        """Have the neighbours of rows fetched with them: few large requests in place of many small ones."""
        together = self._together[number]
        if together == 1:
            return
        if epoch != self._epoch:
            self._epoch, self._asked = epoch, [set() for _ in self._rows]
        distinct, order = np.unique(announced // together, return_index=True)
        asked = self._asked[number]
        if len(asked) > _ASKED:
            asked.clear()
        groups = [group for group in distinct[np.argsort(order)].tolist() if group not in asked]
        asked.update(groups)
        if groups:
            self._rows[number].fetch(np.array(groups, np.int64), together)
