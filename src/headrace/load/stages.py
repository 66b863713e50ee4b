"""Work, in order -> its results, in the same order, made ahead by a few threads."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Work = TypeVar("Work")
Result = TypeVar("Result")

# A signal that arrives just before a thread blocks on a lock does not wake it, and its handler runs only when
# something else does: without an end to each wait, that Ctrl-C would be lost.
_INTERRUPT_S = 0.2


class _Line:
    """What the threads share. It does not know the pipeline: dropping the pipeline ends the threads."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.Lock())
        self.waiting: deque[_Slot] = deque()
        self.closed = False


class _Slot:
    """One piece of work, and what became of it."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Any) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False


class Pipeline(Generic[Work, Result]):
    """A few threads that make results ahead; who submits bounds them, by `pending`."""

    def __init__(self, make: Callable[[Work], Result], *, threads: int) -> None:
        self._line = _Line()
        self._ordered: deque[_Slot] = deque()
        # Daemons: a process that ends while a remote does not answer must not wait for it.
        self._threads = [
            threading.Thread(target=_run, args=(self._line, make), name=f"headrace-load-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._line, self._threads)

    @property
    def pending(self) -> int:
        """Results made or under way, and not yet taken."""
        return len(self._ordered)

    def submit(self, work: Work) -> None:
        """Have a result made; returns at once."""
        slot = _Slot(work)
        self._ordered.append(slot)
        with self._line.changed:
            self._line.waiting.append(slot)
            self._line.changed.notify_all()

    def take(self) -> Result:
        """The oldest result; waits for it.

        Raises:
            Exception: what making it raised; it stays the oldest until `close`.
        """
        slot = self._ordered[0]
        if not slot.done:
            with self._line.changed:
                while not slot.done:
                    self._line.changed.wait(timeout=_INTERRUPT_S)
        if slot.error is not None:
            raise slot.error
        self._ordered.popleft()
        result: Result = slot.result
        return result

    def close(self) -> None:
        """End the threads; what is under way is finished and dropped. A second call does nothing."""
        self._ordered.clear()
        self._finalizer()


def _run(line: _Line, make: Callable[[Any], Any]) -> None:
    _never_first()
    while True:
        with line.changed:
            while not line.waiting and not line.closed:
                line.changed.wait()
            if line.closed:
                return
            slot = line.waiting.popleft()
        try:
            slot.result = make(slot.work)
        except BaseException as error:  # it is raised where the result is taken
            slot.error = error
        with line.changed:
            slot.done = True
            line.changed.notify_all()
        del slot  # or the last batch stays alive until the next one comes


def _never_first() -> None:
    """Let this thread not interrupt another when it is woken; its share of the processor stays the same.

    Woken by whoever takes a batch, it would run before that one goes on, and on a busy core the step would wait in
    next() for the making of a batch that it does not need yet.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _stop(line: _Line, threads: list[threading.Thread]) -> None:
    with line.changed:
        line.closed = True
        line.waiting.clear()
        line.changed.notify_all()
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(timeout=5.0)
