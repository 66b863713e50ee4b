"""Coroutines of an object-store client -> their results in the calling thread, which stays interruptible.

One daemon thread runs the event loop of the process. A caller that gives up (Ctrl-C, a time limit, `close`) cancels its
coroutine, and the connection ends with it. At exit all coroutines are cancelled, so that no native thread returns
into an interpreter that is being taken down.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from headrace.errors import StoreError
from headrace.platform import after_fork_in_child
from headrace.storage.threads import INTERRUPT_S

T = TypeVar("T")
_EXIT_S = 1.0
"""Longest wait at exit for coroutines to be cancelled."""


class EventLoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="headrace-io", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine's result; whatever ends the wait cancels the coroutine."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while True:
                try:
                    return future.result(timeout=INTERRUPT_S)
                except concurrent.futures.TimeoutError:
                    if future.done():
                        raise
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Cancel all coroutines and end the thread; waits a second at most."""
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).add_done_callback(
            lambda _: self._loop.call_soon_threadsafe(self._loop.stop)
        )
        self._thread.join(timeout=_EXIT_S)


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=_EXIT_S / 2) if tasks else None


_started: EventLoopThread | None = None
_started_in = os.getpid()
_lock = threading.Lock()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the process's event loop thread and wait for its result.

    Raises:
        StoreError: this process was forked from one that had used a remote: the client's threads are not here.
    """
    global _started
    with _lock:
        if os.getpid() != _started_in:
            coroutine.close()
            raise StoreError(
                "a remote store was used before this process was forked, and its connections do not survive a fork: "
                "start processes by spawn or forkserver, or open the store in the child only"
            )
        if _started is None:
            _started = EventLoopThread()
            atexit.register(_stop)
    return _started.run(coroutine)


def _stop() -> None:
    if _started is not None and os.getpid() == _started_in:
        _started.stop()


def _reset_after_fork() -> None:
    global _started_in, _lock
    _lock = threading.Lock()
    if _started is None:
        _started_in = os.getpid()


after_fork_in_child(_reset_after_fork)
