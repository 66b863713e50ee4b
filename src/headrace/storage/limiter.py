"""Responses and refusals of a remote -> how many requests may be under way at once.

Additive increase, multiplicative decrease: each round of responses allows one more, a refusal (429, 503) halves the
number, and it grows again when the remote recovers.
"""

from __future__ import annotations

import threading
from typing import Final

MAX_REQUESTS: Final = 64
FIRST_REQUESTS: Final = 16


class ConcurrencyLimit:
    """An adaptive bound on concurrent requests; safe for threads."""

    def __init__(self, *, first: int = FIRST_REQUESTS, most: int = MAX_REQUESTS) -> None:
        self.most = most
        self.limit = float(min(first, most))
        self._running = 0
        self._succeeded = True
        """Since the last halving: a request that was sent before it may be refused without halving again."""
        self._changed = threading.Condition()

    def acquire(self) -> None:
        """Wait until one more request may start."""
        with self._changed:
            while self._running >= int(self.limit):
                self._changed.wait()
            self._running += 1

    def release(self) -> None:
        """A request has ended, whatever its result."""
        with self._changed:
            self._running -= 1
            self._changed.notify()

    def succeeded(self) -> None:
        """A request succeeded: allow a little more."""
        with self._changed:
            self._succeeded = True
            self.limit = min(float(self.most), self.limit + 1.0 / self.limit)
            self._changed.notify()

    def refused(self) -> None:
        """A request was refused: allow half as many."""
        with self._changed:
            if self._succeeded:
                self.limit = max(1.0, self.limit / 2)
                self._succeeded = False
