"""Announced uses of blocks -> when each block is used next, for Belady's replacement algorithm.

Of several blocks the algorithm evicts the one whose next use is furthest ahead. A loader knows its order, and
announces the blocks of its rows before it reads them.

Source: Belady 1966, A study of replacement algorithms for a virtual-storage computer.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.store.read.mapped import reserved

_MAX_ANNOUNCED: Final = 1 << 20
"""Uses that can be announced ahead; the oldest are dropped."""
_SOON: Final = 1 << 13
"""Uses whose order is known; of those further ahead only the last use of each block is known."""


class NextUses:
    """A queue of uses of blocks, announced ahead and taken one after the other. Not safe for threads by itself."""

    def __init__(self, blocks: int) -> None:
        """Start without announced uses.

        Args:
            blocks: of the store; 8 bytes of address space are reserved for each, and used once it is announced.
        """
        self._future = np.empty(0, np.int64)
        self._next = 0
        """Uses of `_future` that were taken."""
        self._first = 0
        """Uses before `_future`, since the beginning."""
        self._last_use = reserved(blocks, np.int64)
        """int64 [blocks]: number of the last announced use, counted from 1 since the beginning; 0 for none."""

    def __bool__(self) -> bool:
        """Whether an announced use has not been taken."""
        return self._next < len(self._future)

    def announce(self, blocks: NDArray[np.int64]) -> None:
        """Append uses, int64 [N], to those announced before."""
        left = self._future[self._next :]
        end = self._first + len(self._future)
        self._last_use[blocks] = np.arange(end + 1, end + 1 + len(blocks))
        self._future = np.concatenate((left, blocks))[-_MAX_ANNOUNCED:]
        self._first, self._next = end + len(blocks) - len(self._future), 0

    def take(self, blocks: NDArray[np.int64]) -> None:
        """Take these uses, int64 [N], N >= 1: where they were announced, the queue continues after them.

        Threads overtake each other, and a reader may have moved elsewhere: uses that were not announced in this
        order after the last ones change nothing.
        """
        ahead, count = self._future[self._next :], len(blocks)
        if ahead[0] == blocks[0] and np.array_equal(ahead[:count], blocks):
            self._next += count
            return
        for at in np.flatnonzero(ahead == blocks[0]).tolist():
            if np.array_equal(ahead[at : at + count], blocks):
                self._next += at + count
                return

    def soon(self) -> NDArray[np.int64]:
        """Blocks of the next uses, in order."""
        return self._future[self._next : self._next + _SOON]

    def last_uses(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [N]: uses before each block's last announced one; below 0 where there is none."""
        return self._last_use[blocks] - (self._first + self._next + 1)

    def first_uses(self) -> dict[int, int]:
        """Announced blocks, and for each the number of uses before its next one."""
        blocks, uses = np.unique(self._future[self._next :], return_index=True)
        return dict(zip(blocks.tolist(), uses.tolist(), strict=True))
