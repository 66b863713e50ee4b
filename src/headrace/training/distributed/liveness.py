"""Keys that every rank keeps counting up, and this machine's processes -> the ranks that live, collective or not."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

import torch.distributed as dist

from headrace.errors import WorkerError
from headrace.training.distributed.process_name import ProcessName
from headrace.training.distributed.rendezvous import AttemptStore

PERIOD_S = 0.5
SILENT_S = 120.0
"""A rank that has not counted for so long while others wait for it is dead."""
_NAMING_S = 6.0
_LOOK_S = 1.0
"""Time between two looks at the processes of this machine while a key is waited for."""
_COUNT_S = 5.0
"""Time between two looks at the counts: each is a request for every rank."""
_FAILED: Final = "failed/any"


class Heartbeat:
    """A thread that counts up this rank's key while the process lives, by a connection of its own."""

    def __init__(self, store: AttemptStore, rank: int) -> None:
        self._keys = store.clone().keys
        self._name = f"beat/{rank}"
        self._keys.set(f"process/{rank}", ProcessName.own().text)
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
        self,
        store: AttemptStore,
        rank: int,
        size: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        stopped: threading.Event | None = None,
    ) -> None:
        self._keys = store.keys
        self._rank = rank
        self._size = size
        self._clock = clock
        self._stopped = threading.Event() if stopped is None else stopped
        self._processes: dict[int, ProcessName] | None = None

    def wait(self, key: str, *, silent_s: float | None = None) -> None:
        """Wait for a key for as long as it takes while every rank lives.

        A rank of this machine is dead when its process is gone, another one when it does not count for `silent_s`, or
        when a rank that had a collective with it has failed.

        Raises:
            WorkerError: a rank is dead, and named; or the wait was stopped.
        """
        silent_s = SILENT_S if silent_s is None else silent_s
        counts: dict[int, tuple[int, float]] = {}
        looked = self._clock()
        while True:
            try:
                self._keys.wait([key], timedelta(seconds=min(_LOOK_S, silent_s)))
            except dist.DistStoreError:  # not yet there
                self._look_at_processes(key)
                now = self._clock()
                if counts and now - looked < min(_COUNT_S, silent_s):
                    continue
                looked = now
                for rank, count in self._counts().items():
                    if counts.get(rank, (-1, now))[0] != count:
                        counts[rank] = (count, now)
                silent = [rank for rank, (_, since) in counts.items() if now - since > silent_s]
                if silent:
                    raise self._dead(silent, f"silent for {silent_s:.0f} s") from None
            else:
                return

    def _look_at_processes(self, key: str) -> None:
        """Raise where the wait for a key cannot end."""
        if self._stopped.is_set():
            raise WorkerError(f"rank {self._rank} of {self._size}: another thread of this process failed.")
        gone = self._gone()
        has_failed = self._keys.check([_FAILED])
        if self._keys.check([key]):  # set by a rank that has ended since
            return
        if gone:
            raise self._dead(gone, "its process is gone")
        if has_failed:
            raise WorkerError(self.explain(RuntimeError("another rank's collective failed")))

    def _gone(self) -> list[int]:
        """Ranks of this machine whose processes have ended, other than those that failed because of another rank."""
        ended = [rank for rank, process in self._others_here().items() if not process.is_running()]
        return [rank for rank in ended if not self._keys.check([f"failed/{rank}"])]

    def _others_here(self) -> dict[int, ProcessName]:
        if self._processes is None:
            others = [rank for rank in range(self._size) if rank != self._rank]
            names = [f"process/{rank}" for rank in others]
            if not self._keys.check(names):  # one has not begun to count
                return {}
            found = zip(others, map(ProcessName.parse, self._keys.multi_get(names)), strict=True)
            self._processes = {rank: process for rank, process in found if process.is_of_this_machine}
        return self._processes

    def _dead(self, ranks: list[int], reason: str) -> WorkerError:
        return WorkerError(
            f"rank {self._rank} of {self._size}: {_no_answer(ranks)} ({reason}). "
            f"Its own output says why; the same command continues from the last checkpoint."
        )

    def explain(self, error: BaseException) -> str:
        """After a failed collective: which ranks are dead, by their counts and not by the collective."""
        reason = _first_words(error)
        try:
            self._keys.set(f"failed/{self._rank}", "1")
            self._keys.set(_FAILED, "1")
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
            gone = set(self._gone())  # a process that is there lives, however little of the processor it gets
            missing = (missing - self._others_here().keys()) | gone
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
