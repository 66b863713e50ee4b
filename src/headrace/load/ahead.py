"""A position -> its batch, made when it is asked for, or ahead by threads while the step before it runs."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

from headrace.load.stages import Pipeline

if TYPE_CHECKING:
    from headrace.load.batches import BatchMaker
    from headrace.load.hints import Hints
    from headrace.load.indices import BatchIndex, IndexStream
    from headrace.stats import Stats
    from headrace.types import Batch

LONG_STEP_S: Final = 1e-3
"""Between two batches: ten times what handing a batch over takes when it finds none of its memory in a cache."""


class BatchesAhead:
    """Batches of an index stream from one position on, in order; for another position make another one.

    Args:
        maker: makes one batch.
        index: which rows it has.
        hints: told what will be needed, before its turn; None where nothing listens.
        threads: that make batches ahead; 0 makes them when they are asked for.
        while_long: threads work only while steps last longer than handing a batch over.
        prefetch: batches made ahead at most.
        stats: "next" counts what the caller waited for threads.
    """

    def __init__(
        self,
        maker: BatchMaker,
        index: IndexStream,
        *,
        hints: Hints | None,
        threads: int,
        while_long: bool,
        prefetch: int,
        stats: Stats,
    ) -> None:
        self._make = maker.make
        self._index = index
        self._hints = hints
        self._threads, self._while_long = threads, while_long
        self._prefetch = prefetch
        self._stats = stats
        self._wanted = 0
        self._submitted = 0
        self._taken_s = math.inf
        self._pipeline: Pipeline[BatchIndex, tuple[Batch, Any]] | None = None

    @property
    def pending(self) -> int:
        """Batches made or under way, and not yet taken."""
        return self._pipeline.pending if self._pipeline is not None else 0

    def take(self, position: int) -> tuple[Batch, Any] | None:
        """The batch that begins at a position, which is where the one before it ended; None behind the last.

        Returns:
            The batch, and what says that it has arrived on its device (None: it has).

        Raises:
            Exception: what making it raised. Nothing more can be taken from this object.
        """
        if not self._while_long:
            return self._taken(position) if self._threads else self._made(position)
        found = self._taken(position) if self._long_step() else self._made(position)
        self._taken_s = time.perf_counter()
        return found

    def close(self) -> None:
        """End the threads and drop what was made ahead. A second call does nothing."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()

    def _long_step(self) -> bool:
        """Whether what was done with the last batch took so long that the next ones should be made meanwhile."""
        if time.perf_counter() - self._taken_s > LONG_STEP_S:
            return True
        # What is under way is taken in its turn, and nothing more begun.
        self._wanted = 0
        return self.pending > 0

    def _made(self, position: int) -> tuple[Batch, Any] | None:
        index = self._index.at(position)
        return None if index is None else self._make(index)

    def _taken(self, position: int) -> tuple[Batch, Any] | None:
        if self._pipeline is None:
            self._pipeline = Pipeline(self._make, threads=self._threads)
            self._wanted = 0
        pipeline = self._pipeline
        if not pipeline.pending:
            self._submitted = position
        # The first batch is made alone: it comes sooner, and with less memory, than as one of several.
        self._wanted = min(self._wanted + 1, self._prefetch)
        while pipeline.pending < self._wanted:
            if self._hints is not None:
                self._hints.advance(self._submitted)
            index = self._index.at(self._submitted)
            if index is None:
                break
            pipeline.submit(index)
            self._submitted += index.global_rows
        if not pipeline.pending:
            return None
        start = time.perf_counter()
        try:
            return pipeline.take()
        finally:
            self._stats.add("next", items=1, wait_s=time.perf_counter() - start)
