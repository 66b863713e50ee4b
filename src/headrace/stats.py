"""Events of pipeline stages -> counters with units: items, bytes, busy and waiting seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCount:
    """One stage's counters at one moment."""

    items: int = 0
    bytes: int = 0
    busy_s: float = 0.0
    """Seconds of work, summed over threads."""
    wait_s: float = 0.0
    """Seconds spent waiting for another stage, summed over threads."""

    def __add__(self, other: StageCount) -> StageCount:
        """Sum of both."""
        return StageCount(
            items=self.items + other.items,
            bytes=self.bytes + other.bytes,
            busy_s=self.busy_s + other.busy_s,
            wait_s=self.wait_s + other.wait_s,
        )


class Stats:
    """Counters of named stages; safe to update from many threads.

    Stages are kept in the order of their first event, which is the order of the data's path.

    >>> stats = Stats(clock=iter([0.0, 2.0]).__next__)
    >>> with stats.busy("decode", items=3, nbytes=10):
    ...     pass
    >>> stats.snapshot()["decode"]
    StageCount(items=3, bytes=10, busy_s=2.0, wait_s=0.0)
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._stages: dict[str, list[float]] = {}

    def add(
        self, stage: str, *, items: int = 0, nbytes: int = 0, busy_s: float = 0.0, wait_s: float = 0.0
    ) -> None:
        """Add to a stage's counters; its first event adds the stage."""
        with self._lock:
            row = self._stages.setdefault(stage, [0, 0, 0.0, 0.0])
            row[0] += items
            row[1] += nbytes
            row[2] += busy_s
            row[3] += wait_s

    @contextmanager
    def busy(self, stage: str, *, items: int = 0, nbytes: int = 0) -> Iterator[None]:
        """Time the block as work of a stage."""
        start = self._clock()
        try:
            yield
        finally:
            self.add(stage, items=items, nbytes=nbytes, busy_s=self._clock() - start)

    @contextmanager
    def waiting(self, stage: str) -> Iterator[None]:
        """Time the block as a stage's waiting for another."""
        start = self._clock()
        try:
            yield
        finally:
            self.add(stage, wait_s=self._clock() - start)

    def snapshot(self) -> dict[str, StageCount]:
        """Counters of all stages so far, in the order of the stages' first events."""
        with self._lock:
            return {
                name: StageCount(items=int(row[0]), bytes=int(row[1]), busy_s=row[2], wait_s=row[3])
                for name, row in self._stages.items()
            }
