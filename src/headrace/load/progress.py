"""Rows of a pass, loops over a loader -> its position, and where the pass that is being read ends."""

from __future__ import annotations

import threading
import weakref
from typing import Any


class Progress:
    """A loader's position in the global order, and its passes.

    A pass is what one `for` loop reads: `pass_rows` positions, or all without end. A new loop reads the next pass
    from its beginning, as with a torch DataLoader, except

    - after `seek`, and where batches were taken by `next(loader)` only: it goes on at the position;
    - while a loop of another thread is in the middle of a pass: both share that pass.

    Args:
        pass_rows: rows of a pass, over all ranks; None where there is one pass without end.
    """

    def __init__(self, pass_rows: int | None) -> None:
        self._pass_rows = pass_rows
        self._loops: weakref.WeakKeyDictionary[Any, threading.Thread] = weakref.WeakKeyDictionary()
        self.seek(0)

    position: int
    """Rows of the global order taken so far."""
    end: int | None
    """Position at which the pass ends."""
    begin: int
    """Position at which the newest loop over this pass began, or that was sought last."""

    def seek(self, position: int) -> None:
        """Go to a position; the pass is the one that it lies in."""
        self.position = self.begin = position
        self.end = self._end_of(position)
        self._loop_begin: int | None = None
        self._finished = False

    def begin_loop(self, loop: Any, *, has_batches: bool) -> None:
        """Begin a `for` loop.

        Args:
            loop: its iterator; referred to weakly.
            has_batches: whether the pass has a batch left.
        """
        if not has_batches or self.is_abandoned:
            assert self.end is not None
            self.seek(self.end)
        if self._loop_begin is None or not self._is_shared():
            self._loop_begin = self.begin = self.position
        self._loops[loop] = threading.current_thread()

    def end_loop(self, loop: Any) -> None:
        """A loop has reached the end of its pass."""
        self._loops.pop(loop, None)

    def finish(self) -> None:
        """Go to the pass's end, behind rows that last="drop" leaves out."""
        if self.end is not None:
            self.position = max(self.position, self.end)
            self._finished = True

    @property
    def is_whole_next(self) -> bool:
        """Whether the next loop reads a whole pass, and none is under way."""
        return not self._loops and (self._finished or self.is_abandoned)

    @property
    def is_abandoned(self) -> bool:
        """Whether a loop was left in the middle of the pass, so that the next one begins another pass."""
        return (
            self.end is not None
            and self._loop_begin is not None
            and self.position > self._loop_begin
            and not self._is_shared()
        )

    def _is_shared(self) -> bool:
        me = threading.current_thread()
        return any(thread is not me and thread.is_alive() for thread in list(self._loops.values()))

    def _end_of(self, position: int) -> int | None:
        return None if self._pass_rows is None else (position // self._pass_rows + 1) * self._pass_rows
