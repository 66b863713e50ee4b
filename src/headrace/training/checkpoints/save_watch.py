"""The work of one save -> its result, with a line every minute while it lasts, and an end after a stated time.

The work runs in a daemon thread: a disk or store that hangs costs its checkpoint, never the run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from headrace.errors import CheckpointError
from headrace.formatting import duration, nbytes

T = TypeVar("T")
LINE_S: Final = 60.0
"""Seconds between two lines about a save that is under way."""


class CheckpointGivenUp(CheckpointError):
    """A checkpoint was not stored in time, or the store refused it: the run goes on without it."""


class SaveWatch:
    """One rank's part of one save: bytes done, and when it is given up.

    Args:
        step: of the checkpoint.
        rank: of this process.
        place: where it is stored, for the messages.
        limit_s: seconds after which it is given up, from now on.
        log: called with a line while the save makes progress.
        warn: called with a line when no byte was stored since the line before.
        clock: in seconds.
        wait: called as wait(event, seconds): waits until the event is set, so many seconds at most.
    """

    def __init__(
        self,
        *,
        step: int,
        rank: int,
        place: str,
        limit_s: float,
        log: Callable[[str], None],
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._step, self._rank, self._place, self._limit_s = step, rank, place, limit_s
        self._log, self._warn, self._clock, self._wait = log, warn, clock, wait
        self._began = clock()
        self._is_over = False
        self._lock = threading.Lock()
        self.done = 0
        """Bytes written or sent so far."""
        self.total = 0
        """Bytes to write or send, as far as they are known."""
        self._failure = ""

    @property
    def limit_s(self) -> float:
        """Seconds after which the save is given up."""
        return self._limit_s

    def record_failure(self, error: Exception) -> None:
        """A request failed, and is tried again: the next line says why.

        Raises:
            CheckpointGivenUp: see `count`.
        """
        self._failure = str(error)
        self.count(0)

    def count(self, nbytes: int) -> None:
        """So many more bytes are done; fewer where some are sent again.

        Raises:
            CheckpointGivenUp: the save was given up: its thread ends here.
        """
        if self._is_over:
            raise CheckpointGivenUp(f"{self._place}: step {self._step} was given up.")
        with self._lock:
            self.done += nbytes

    def run(self, work: Callable[[], T]) -> T:
        """Do work in a thread of its own, and wait for it as long as the limit allows.

        Raises:
            CheckpointGivenUp: the time is over; the thread ends by itself at its next `count`.
        """
        results: list[T] = []
        errors: list[BaseException] = []
        ended = threading.Event()

        def target() -> None:
            try:
                results.append(work())
            except BaseException as error:  # noqa: BLE001  # raised below
                errors.append(error)
            finally:
                ended.set()

        threading.Thread(target=target, name=f"save-{self._step}", daemon=True).start()
        before = -1
        while True:
            left_s = self._began + self._limit_s - self._clock()
            if self._wait(ended, max(0.0, min(LINE_S, left_s))):
                break
            if self._clock() - self._began >= self._limit_s:
                self._is_over = True
                raise CheckpointGivenUp(
                    f"{self._place}: the checkpoint of step {self._step:,} is given up: {self._progress()}, and "
                    f"--checkpoint-timeout is {duration(self._limit_s)}.{self._last_failure()} The checkpoints before "
                    f"are whole."
                )
            line = f"{self._place}: the checkpoint of step {self._step:,} is being stored: {self._progress()}"
            if self.done > before:
                self._log(line)
            else:
                self._warn(
                    f"{line}, none of them since the last line.{self._last_failure()} Training goes on."
                )
            before = self.done
        if errors:
            raise errors[0]
        return results[0]

    def _last_failure(self) -> str:
        return f" The last request failed: {self._failure}." if self._failure else ""

    def _progress(self) -> str:
        of_total = f" of {nbytes(self.total)}" if self.total else ""
        elapsed = duration(self._clock() - self._began)
        return f"rank {self._rank} has done {nbytes(self.done)}{of_total} in {elapsed}"
