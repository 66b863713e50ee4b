"""Keys that every rank keeps counting up -> which ranks live, whatever a collective says."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Self

import torch.distributed as dist

from headrace.errors import WorkerError
from headrace.training.distributed.rendezvous import AttemptStore

PERIOD_S = 0.5
SILENT_S = 120.0
"""A rank that has not counted for so long while others wait for it is dead."""
_NAMING_S = 6.0


class Heartbeat:
    """A thread that counts up this rank's key while the process lives, by a connection of its own."""

    def __init__(self, store: AttemptStore, rank: int) -> None:
        self._keys = store.clone().keys
        self._name = f"beat/{rank}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        try:
            while True:
                self._keys.add(self._name, 1)
                if self._stop.wait(PERIOD_S):
                    return
        except (dist.DistError, RuntimeError):
            return  # the store is gone, and with it the run: the main thread finds out by itself


class Liveness:
    """Which of the other ranks count, seen by one thread of one rank."""

    def __init__(
        self, store: AttemptStore, rank: int, size: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = store.keys
        self._rank = rank
        self._size = size
        self._clock = clock

    def wait(self, key: str, *, silent_s: float = SILENT_S) -> None:
        """Wait for a key for as long as it takes while every rank lives.

        Raises:
            WorkerError: a rank has been silent for silent_s; names it.
        """
        counts: dict[int, tuple[int, float]] = {}
        while True:
            try:
                self._keys.wait([key], timedelta(seconds=min(5.0, silent_s)))
            except dist.DistStoreError:  # not yet there
                now = self._clock()
                for rank, count in self._counts().items():
                    if counts.get(rank, (-1, now))[0] != count:
                        counts[rank] = (count, now)
                silent = [rank for rank, (_, since) in counts.items() if now - since > silent_s]
                if silent:
                    raise WorkerError(
                        f"rank {self._rank} of {self._size}: {_no_answer(silent)} (silent for {silent_s:.0f} s). "
                        f"Its own output says why; the same command continues from the last checkpoint."
                    ) from None
            else:
                return

    def explain(self, error: BaseException) -> str:
        """After a failed collective: which ranks are dead, by their counts and not by the collective."""
        reason = _first_words(error)
        try:
            self._keys.set(f"failed/{self._rank}", "1")
            before = self._counts()
            missing = set(before)
            until = self._clock() + _NAMING_S
            while missing and self._clock() < until:
                time.sleep(0.1)
                now = self._counts()
                missing = {
                    rank
                    for rank in missing
                    if now[rank] == before[rank] and not self._keys.check([f"failed/{rank}"])
                }
        except (dist.DistError, RuntimeError):
            return (
                f"rank {self._rank} of {self._size}: rank 0, which holds the rendezvous, no longer answers "
                f"({reason}). Its own output says why; the same command continues from the last checkpoint."
            )
        if not missing:
            return (
                f"rank {self._rank} of {self._size}: a collective failed though every rank is alive: {reason}"
            )
        return (
            f"rank {self._rank} of {self._size}: {_no_answer(sorted(missing))} ({reason}). "
            f"Its own output says why; the same command continues from the last checkpoint."
        )

    def _counts(self) -> dict[int, int]:
        return {rank: self._keys.add(f"beat/{rank}", 0) for rank in range(self._size) if rank != self._rank}


def is_network_error(error: BaseException) -> bool:
    """Whether an error is that of a collective or of the store: gloo and NCCL say so in words only."""
    words = ("gloo", "NCCL", "ProcessGroup", "TCPStore")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _no_answer(ranks: list[int]) -> str:
    return f"rank {', '.join(map(str, ranks))} no longer answers"


def _first_words(error: BaseException) -> str:
    # Gloo begins with the place in its source and ends with advice; the event is between them.
    lines = str(error).splitlines() or [type(error).__name__]
    return re.sub(r"^\[\S+\] ", "", lines[0]).split(". ")[0][:200]
