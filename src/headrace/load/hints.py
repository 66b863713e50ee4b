"""Where a loader stands -> hints to remote stores about the rows it reads next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.load.indices import IndexStream
    from headrace.load.packed import PackedRows
    from headrace.load.rows import ConcatenatedRows


class Hints:
    """Runs ahead of the batches by `rows` rows of this rank, and announces them in order of use."""

    def __init__(
        self, index: IndexStream, rows: Sequence[ConcatenatedRows | PackedRows], *, position: int, ahead: int
    ) -> None:
        self._index = index
        self._rows = rows
        self._hinted = position
        self._ahead = ahead

    def advance(self, position: int) -> None:
        """Announce what will be read up to `ahead` positions beyond a position."""
        # In pieces: a first batch does not wait until a whole window has been announced, and the arithmetic
        # for one call is shared by many rows.
        while self._hinted < position + self._ahead:
            batches = []
            first = self._hinted
            while self._hinted < first + max(1, self._ahead // 4):
                batch = self._index.at(self._hinted)
                if batch is None:
                    self._ahead = 0
                    break
                batches.append(batch)
                self._hinted += batch.global_rows
            for number, rows in enumerate(self._rows):
                wanted = [b.rows if b.sources is None else b.rows[b.sources == number] for b in batches]
                if wanted and (together := np.concatenate(wanted)).size:
                    rows.hint(together)
