"""A position -> its batch, made when it is taken, or made ahead by threads while the training step runs."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from headrace.load.thread_pool import OrderedThreadPool

if TYPE_CHECKING:
    from headrace.load.batch import Batch
    from headrace.load.indices import BatchIndex, IndexStream
    from headrace.load.read_ahead import ReadAhead
    from headrace.stats import Stats


class MakesBatches(Protocol):
    """Makes the batch of an index; safe for threads."""

    def build(self, index: BatchIndex) -> tuple[Batch[Any], Any]:
        """The batch, and the event after which it is on its device (None: it is there)."""


LONG_STEP_S: Final = 1e-3
"""Time between two batches: ten times what handing a batch from thread to thread takes with cold caches."""


class Prefetcher:
    """Successive batches of an index stream.

    What is made ahead is used only if it is the batch at the position that is asked for, so that whatever interrupts
    a call (an error, Ctrl-C), the next call returns the right batch.

    Args:
        builder: makes one batch.
        index: which rows are in it.
        read_ahead: announces rows to remote stores; None for local ones.
        threads: threads that make batches ahead; 0 makes each batch when it is taken.
        while_long: make batches ahead only while steps last longer than handing a batch over.
        prefetch: batches made ahead at most.
        stats: "next" counts the caller's waits for threads.
    """

    def __init__(
        self,
        builder: MakesBatches,
        index: IndexStream,
        *,
        read_ahead: ReadAhead | None,
        threads: int,
        while_long: bool,
        prefetch: int,
        stats: Stats,
    ) -> None:
        self._build = builder.build
        self._index = index
        self._read_ahead = read_ahead
        self._threads, self._while_long = threads, while_long
        self._prefetch = prefetch
        self._stats = stats
        self._depth = 0
        self._submitted = 0
        self._taken_s = math.inf
        self._pool: OrderedThreadPool[BatchIndex, tuple[Batch[Any], Any]] | None = None

    @property
    def pending(self) -> int:
        """Batches that are made or being made, and not yet taken."""
        return self._pool.pending if self._pool is not None else 0

    def take(self, position: int, end: int | None) -> tuple[Batch[Any], Any] | None:
        """The batch that begins at a position; None where its pass, which ends at `end`, has no more.

        Returns:
            The batch, and the event after which it is on its device (None: it is there).

        Raises:
            Exception: what making it raised. Call `close` before the next `take`.
        """
        if not self._while_long:
            return self._take_ahead(position, end) if self._threads else self._make(position, end)
        taken = self._take_ahead(position, end) if self._long_step() else self._make(position, end)
        self._taken_s = time.perf_counter()
        return taken

    def close(self) -> None:
        """End the threads and drop what was made ahead. A later `take` starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _long_step(self) -> bool:
        """Whether the step since the last batch took so long that further batches should be made during steps."""
        if time.perf_counter() - self._taken_s > LONG_STEP_S:
            return True
        # Batches that are under way are taken in their turn; no further ones are begun.
        self._depth = 0
        return self.pending > 0

    def _make(self, position: int, end: int | None) -> tuple[Batch[Any], Any] | None:
        index = self._index.at(position, end)
        return None if index is None else self._build(index)

    def _take_ahead(self, position: int, end: int | None) -> tuple[Batch[Any], Any] | None:
        if self.pending and self._pool is not None and self._pool.first.position != position:
            self.close()
        if self._pool is None:
            self._pool = OrderedThreadPool(self._build, threads=self._threads)
            self._depth = 0
        pool = self._pool
        if not pool.pending:
            self._submitted = position
        # The first batch is made alone: it comes sooner, and with less memory, than as one of several.
        self._depth = min(self._depth + 1, self._prefetch)
        while pool.pending < self._depth:
            if self._read_ahead is not None:
                self._read_ahead.advance(self._submitted, end)
            index = self._index.at(self._submitted, end)
            if index is None:
                break
            pool.submit(index)
            self._submitted = index.position + index.global_rows
        if not pool.pending:
            return None
        start = time.perf_counter()
        try:
            return pool.take()
        finally:
            self._stats.add("next", items=1, wait_s=time.perf_counter() - start)
