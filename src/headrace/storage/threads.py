"""Functions -> their results, by a bounded number of daemon threads that never hold up the end of a process.

Why not `concurrent.futures.ThreadPoolExecutor`: the interpreter joins its threads at exit, even after
`shutdown(wait=False)`, so that a process could not end while a remote does not answer.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

INTERRUPT_S = 0.2
"""Longest wait on a lock: a signal that arrives just before a thread blocks does not wake it, and its handler would
run only when something else does."""


class _Queue:
    """What the threads share. It does not refer to the pool: dropping the pool ends the threads."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.Lock())
        self.waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.idle = 0
        self.closed = False


class DaemonPool:
    """At most `max_threads` daemon threads, started when they are first needed.

    >>> DaemonPool(2, name="doc").map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    def __init__(self, max_threads: int, *, name: str) -> None:
        self._max = max_threads
        self._name = name
        self._started = 0
        self._queue = _Queue()
        self._finalizer = weakref.finalize(self, _close, self._queue)

    def submit(self, function: Callable[..., object], *args: Any) -> None:
        """Call the function in a thread, in order of submission; its result is dropped. It must not raise.

        Raises:
            RuntimeError: the pool was shut down.
        """
        with self._queue.changed:
            if self._queue.closed:
                raise RuntimeError(f"{self._name}: the thread pool was shut down")
            self._queue.waiting.append((function, args))
            if self._queue.idle >= len(self._queue.waiting) or self._started == self._max:
                self._queue.changed.notify()
                return
            self._started += 1
            number = self._started
        threading.Thread(target=_run, args=(self._queue,), name=f"{self._name}-{number}", daemon=True).start()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Results for all items, in their order; waits for them. Raises what the function raised first."""
        results: list[Any] = list(items)
        errors: list[BaseException] = []
        done = threading.Semaphore(0)

        def one(number: int) -> None:
            try:
                results[number] = function(results[number])
            except BaseException as error:  # noqa: BLE001  # raised where the results are awaited
                errors.append(error)
            finally:
                done.release()

        for number in range(len(results)):
            self.submit(one, number)
        for _ in results:
            while not done.acquire(timeout=INTERRUPT_S):
                if self._queue.closed:
                    raise RuntimeError(f"{self._name}: the thread pool was shut down")
        if errors:
            raise errors[0]
        return results

    def shutdown(self) -> None:
        """Drop what has not begun, and end each thread after what it is doing; waits for nothing."""
        self._finalizer()


def _run(queue: _Queue) -> None:
    while True:
        with queue.changed:
            queue.idle += 1
            while not queue.waiting and not queue.closed:
                queue.changed.wait()
            queue.idle -= 1
            if queue.closed:
                return
            function, args = queue.waiting.popleft()
        function(*args)
        del function, args  # or the last call's arrays stay alive until the next one comes


def _close(queue: _Queue) -> None:
    with queue.changed:
        queue.closed = True
        queue.waiting.clear()
        queue.changed.notify_all()
