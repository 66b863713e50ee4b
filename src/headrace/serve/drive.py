"""Calls from asyncio -> tokens from the engine's own thread, handed back once a step.

The engine belongs to one thread; nothing else touches it. What comes in (calls, cancellations) waits in an
inbox that the thread empties between two steps; what goes out is one `call_soon_threadsafe` a step, however many
rows the step had. A reader that lags finds several tokens at once and writes them as one piece.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from headrace.errors import WorkerError
from headrace.generation import Request, Token
from headrace.serve.metrics import Metrics


class Steps(Protocol):
    """An engine that is stepped."""

    @property
    def running(self) -> int:
        """Rows that decode."""

    @property
    def waiting(self) -> int:
        """Requests that have not entered."""

    def check(self, request: Request) -> None:
        """Refuse what cannot be made; reads nothing that changes."""

    def add(self, request: Request) -> None:
        """Queue a request."""

    def cancel(self, key: tuple[str, int]) -> bool:
        """Forget a request."""

    def step(self) -> list[Token]:
        """One token for every row."""


class Call:
    """The samples of one HTTP request, and the tokens that have come for them.

    Read by one coroutine: `async for pieces in call`, each a list of tokens in the order they were made.
    """

    __slots__ = ("_pending", "_reader", "arrived", "ended", "error", "key", "last_at", "requests")

    def __init__(self, key: str, requests: Sequence[Request]) -> None:
        self.key, self.requests = key, requests
        self.arrived = time.perf_counter()
        self.last_at: list[float] = [0.0] * len(requests)
        """When each sample's newest token came; 0 before the first."""
        self.ended = 0
        self.error: BaseException | None = None
        self._pending: list[tuple[int, Token]] = []
        self._reader: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Whether all samples ended, or the engine failed."""
        return self.ended == len(self.requests) or self.error is not None

    def take(self, choice: int, token: Token) -> None:
        """One token of one sample; on the loop's thread."""
        self._pending.append((choice, token))
        if token.prediction is not None:
            self.ended += 1
        self._wake()

    def fail(self, error: BaseException) -> None:
        """The engine is gone; on the loop's thread."""
        self.error = error
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def __aiter__(self) -> Call:
        return self

    async def __anext__(self) -> list[tuple[int, Token]]:
        """Tokens since the last time; waits for at least one.

        Raises:
            WorkerError: the engine failed.
        """
        if not self._pending:
            if self.error is not None:
                raise WorkerError(f"the engine failed: {self.error}") from self.error
            if self.done:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
            return await self.__anext__()
        pieces, self._pending = self._pending, []
        return pieces


class Driver:
    """Owns the engine's thread. All methods but the thread's own are for the loop's thread.

    Args:
        engine: not touched by anyone else from now on.
        loop: where tokens go.
        metrics: counted on the loop's thread, but for gauges.
        on_failure: called on the loop's thread when a step raises; the engine does not go on.
    """

    def __init__(
        self,
        engine: Steps,
        *,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics,
        on_failure: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self._engine, self._loop, self._metrics = engine, loop, metrics
        self._on_failure = on_failure
        self._inbox: deque[tuple[Call, bool]] = deque()
        self._news = threading.Event()
        self._stopping = False
        self._live: dict[str, Call] = {}
        self._choices: dict[str, dict[int, tuple[Call, int]]] = {}
        """Of the engine's thread: call key -> id(request) -> its place."""
        self.idle = asyncio.Event()
        """Set while no call is open."""
        self.idle.set()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Samples that decode now."""
        return self._engine.running

    @property
    def samples(self) -> int:
        """Samples that have not ended: running and waiting."""
        return sum(len(call.requests) - call.ended for call in self._live.values())

    @property
    def waiting(self) -> int:
        """Samples that have not entered yet."""
        return max(0, self.samples - self._engine.running)

    def submit(self, call: Call) -> None:
        """Queue a call's samples, which were checked.

        Raises:
            WorkerError: the engine failed before.
        """
        if self.failure is not None:
            raise WorkerError(f"the engine failed: {self.failure}") from self.failure
        self._live[call.key] = call
        self.idle.clear()
        self._inbox.append((call, True))
        self._news.set()

    def release(self, call: Call) -> None:
        """The reader is through, or gone: what still runs for it is cancelled."""
        known = self._live.pop(call.key, None) is not None
        if not self._live:
            self.idle.set()
        if not known or call.ended == len(call.requests):
            return
        self._metrics.cancelled.inc(len(call.requests) - call.ended)
        self._inbox.append((call, False))
        self._news.set()

    def stop(self) -> None:
        """End the thread after its step."""
        self._stopping = True
        self._news.set()
        self._thread.join()

    def _run(self) -> None:
        engine = self._engine
        try:
            while not self._stopping:
                self._news.clear()
                while self._inbox:
                    call, enter = self._inbox.popleft()
                    self._enter(call) if enter else self._leave(call)
                if not engine.running and not engine.waiting:
                    self._news.wait()
                    continue
                began = time.perf_counter()
                tokens = engine.step()
                if tokens:
                    step = [(*self._place(token), token) for token in tokens]
                    self._loop.call_soon_threadsafe(self._take, step, began, time.perf_counter())
        except BaseException as error:  # noqa: BLE001  whatever it was, every reader has to be told
            self._loop.call_soon_threadsafe(self._fail, error)

    def _enter(self, call: Call) -> None:
        places = self._choices[call.key] = {}
        for choice, request in enumerate(call.requests):
            places[id(request)] = (call, choice)
            self._engine.add(request)

    def _leave(self, call: Call) -> None:
        if self._choices.pop(call.key, None) is not None:
            for request in call.requests:
                self._engine.cancel(request.key)

    def _place(self, token: Token) -> tuple[Call, int]:
        key = token.request.prompt_id.partition("/")[0]
        places = self._choices[key]
        if token.prediction is None:
            return places[id(token.request)]
        place = places.pop(id(token.request))
        if not places:
            del self._choices[key]
        return place

    def _take(self, step: list[tuple[Call, int, Token]], began: float, ended: float) -> None:
        self._metrics.step(step, began=began, ended=ended)
        for call, choice, token in step:
            call.take(choice, token)

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        for call in self._live.values():
            call.fail(error)
        self._on_failure(error)
