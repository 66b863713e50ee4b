"""Tasks, in order -> their results, in the same order, computed ahead by a few daemon threads."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from headrace.errors import ConfigError
from headrace.platform import use_batch_scheduling

if TYPE_CHECKING:
    from collections.abc import Callable

Task = TypeVar("Task")
Result = TypeVar("Result")

# A signal that arrives just before a thread blocks on a lock does not wake it, and its handler runs only when the
# wait ends: a wait without a timeout would lose that Ctrl-C.
_SIGNAL_S: Final = 0.2

_JOIN_S: Final = 1.0
"""Closing waits this long for its threads. One that is blocked in a read of a remote store is left: a daemon."""


class _Slot:
    """A task, and its result or error."""

    __slots__ = ("done", "error", "finished", "result", "task")

    def __init__(self, task: Any) -> None:
        self.task = task
        self.result: Any = None
        self.error: BaseException | None = None
        self.finished = False
        self.done = threading.Lock()
        """Released when the task is finished."""
        self.done.acquire()


class _Queue:
    """What the threads share. It has no reference to the pool, so that dropping the pool ends the threads.

    A SimpleQueue and bare locks, no Condition: its methods are Python, and a Ctrl-C in one of them can leave it locked.
    """

    def __init__(self) -> None:
        self.slots: SimpleQueue[_Slot | None] = SimpleQueue()
        self.closed = False


class OrderedThreadPool(Generic[Task, Result]):
    """Threads that compute results in the order of submission. The caller bounds them by looking at `pending`."""

    def __init__(self, function: Callable[[Task], Result], *, threads: int) -> None:
        self._queue = _Queue()
        self._ordered: deque[_Slot] = deque()
        # Daemons: a process that ends while a remote store does not answer must not wait for it.
        self._threads = [
            threading.Thread(
                target=_run, args=(self._queue, function), name=f"headrace-load-{i}", daemon=True
            )
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._queue, self._threads)
        self._finalizer.atexit = False  # at exit the threads end with the process

    @property
    def pending(self) -> int:
        """Results that are computed or being computed, and not yet taken."""
        return len(self._ordered)

    @property
    def first(self) -> Task:
        """The task whose result `take` returns next."""
        task: Task = self._ordered[0].task
        return task

    def submit(self, task: Task) -> None:
        """Compute a result in a thread; returns at once."""
        slot = _Slot(task)
        self._queue.slots.put(slot)
        self._ordered.append(slot)

    def take(self) -> Result:
        """The oldest result; waits for it.

        Raises:
            Exception: what computing it raised; it stays the oldest until `close`.
            ConfigError: the pool was closed by another thread.
        """
        slot = self._ordered[0]
        while not slot.finished:
            slot.done.acquire(timeout=_SIGNAL_S)
            if self._queue.closed:
                raise ConfigError("this loader was closed while a thread waited for a batch of it")
        if slot.error is not None:
            raise slot.error
        self._ordered.popleft()
        result: Result = slot.result
        return result

    def close(self) -> None:
        """End the threads and drop their results. A second call does nothing."""
        self._ordered.clear()
        self._finalizer()


def _run(queue: _Queue, function: Callable[[Any], Any]) -> None:
    # Otherwise this thread preempts the training step as soon as that takes a batch, and on a busy core the step waits
    # inside next() while a batch is made that it does not need yet.
    use_batch_scheduling()
    while (slot := queue.slots.get()) is not None and not queue.closed:
        try:
            slot.result = function(slot.task)
        except BaseException as error:  # raised where the result is taken
            slot.error = error
        slot.finished = True
        slot.done.release()
        del slot  # or this thread keeps the last result alive until its next task


def _stop(queue: _Queue, threads: list[threading.Thread]) -> None:
    queue.closed = True
    for _ in threads:
        queue.slots.put(None)
    until = time.monotonic() + _JOIN_S
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(timeout=max(0.0, until - time.monotonic()))
