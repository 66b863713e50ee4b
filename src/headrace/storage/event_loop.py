"""Asynchronous calls of an object-store client -> their results in the calling thread, which stays interruptible.

One daemon thread runs the event loop of the process. A caller that gives up (Ctrl-C, a time limit, `close`) cancels its
call, and the connection ends with it. At exit all calls are cancelled, so that no native thread returns
into an interpreter that is being taken down.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from headrace.errors import StoreError
from headrace.platform import after_fork_in_child
from headrace.storage.threads import INTERRUPT_S

T = TypeVar("T")
_EXIT_S = 1.0
"""Longest wait at exit for calls to be cancelled."""


class EventLoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._active: dict[concurrent.futures.Future[Any], asyncio.Future[Any]] = {}
        """The client's future of each call; used in the loop's thread only."""
        self._thread = threading.Thread(target=self._loop.run_forever, name="headrace-io", daemon=True)
        self._thread.start()

    def run(self, make: Callable[[], Awaitable[T]], *, hedge_s: float | None = None) -> T:
        """Wait for the result of a call; whatever ends the wait cancels it.

        Args:
            make: begins the call, in the loop's thread.
            hedge_s: the call is idempotent, and made a second time if the first has no result after so long; the
                first success is returned. If both fail, the error of the first is raised.
        """
        calls = [self._start(make)]
        began = time.monotonic()
        try:
            while True:
                wait_s = INTERRUPT_S
                if hedge_s is not None and len(calls) == 1:
                    wait_s = min(wait_s, max(0.0, began + hedge_s - time.monotonic()))
                if len(calls) == 1:
                    try:
                        return calls[0].result(timeout=wait_s)
                    except concurrent.futures.TimeoutError:
                        if calls[0].done():
                            raise
                    if hedge_s is not None and time.monotonic() - began >= hedge_s:
                        calls.append(self._start(make))
                    continue
                done, pending = concurrent.futures.wait(
                    calls, timeout=wait_s, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for call in done:
                    if not call.cancelled() and call.exception() is None:
                        return call.result()
                if not pending:
                    return calls[0].result()
                if done:  # one of the two has failed: the other one decides
                    concurrent.futures.wait(pending, timeout=wait_s)
        finally:
            for call in calls:
                if not call.done():
                    self._loop.call_soon_threadsafe(self._cancel, call)

    def _start(self, make: Callable[[], Awaitable[T]]) -> concurrent.futures.Future[T]:
        call: concurrent.futures.Future[T] = concurrent.futures.Future()

        def begin() -> None:
            try:
                future = asyncio.ensure_future(make())
            except BaseException as error:  # noqa: BLE001  # raised where the result is awaited
                call.set_exception(error)
                return
            self._active[call] = future
            future.add_done_callback(finish)

        def finish(future: asyncio.Future[T]) -> None:
            del self._active[call]
            if future.cancelled():
                call.set_exception(concurrent.futures.CancelledError())
            elif (error := future.exception()) is not None:
                call.set_exception(error)
            else:
                call.set_result(future.result())

        self._loop.call_soon_threadsafe(begin)
        return call

    def _cancel(self, call: concurrent.futures.Future[Any]) -> None:
        future = self._active.get(call)
        if future is not None:
            future.cancel()

    def stop(self) -> None:
        """Cancel all calls and end the thread; waits a second at most."""

        def cancel_all() -> None:
            for future in list(self._active.values()):
                future.cancel()
            self._loop.call_later(0.05, self._loop.stop)

        self._loop.call_soon_threadsafe(cancel_all)
        self._thread.join(timeout=_EXIT_S)


_started: EventLoopThread | None = None
_started_in = os.getpid()
_lock = threading.Lock()


def run(make: Callable[[], Awaitable[T]], *, hedge_s: float | None = None) -> T:
    """Run a call in the process's event loop thread and wait for its result; see `EventLoopThread.run`.

    Raises:
        StoreError: this process was forked from one that had used a remote: the client's threads are not here.
    """
    global _started
    with _lock:
        if os.getpid() != _started_in:
            raise StoreError(
                "a remote store was used before this process was forked, and its connections do not survive a fork: "
                "start processes by spawn or forkserver, or open the store in the child only"
            )
        if _started is None:
            _started = EventLoopThread()
            atexit.register(_stop)
    started = _started
    return started.run(make, hedge_s=hedge_s)


def _stop() -> None:
    if _started is not None and os.getpid() == _started_in:
        _started.stop()


def _reset_after_fork() -> None:
    global _started_in, _lock
    _lock = threading.Lock()
    if _started is None:
        _started_in = os.getpid()


after_fork_in_child(_reset_after_fork)
