"""Token streams from asyncio -> tokens from the engine's own thread, handed back once a step.

The engine belongs to one thread; nothing else touches it. New streams and cancellations wait in a queue that the
thread empties between two steps; tokens go back with one `call_soon_threadsafe` a step, however many samples the step
had. A reader that lags finds several tokens at once and writes them as one frame.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from headrace.errors import WorkerError
from headrace.generation import Request, Token
from headrace.serve.metrics import Metrics
from headrace.serve.token_stream import TokenStream


class SteppedEngine(Protocol):
    """An engine that decodes one step at a time."""

    @property
    def running(self) -> int:
        """Samples that decode."""

    @property
    def waiting(self) -> int:
        """Samples that are queued."""

    def check(self, request: Request) -> None:
        """Raise ConfigError for a request that cannot be run; thread-safe."""

    def add(self, request: Request) -> None:
        """Queue a request."""

    def cancel(self, key: tuple[str, int]) -> bool:
        """Drop a request, running or queued."""

    def step(self) -> list[Token]:
        """Decode one token of every running sample."""


class EngineThread:
    """Runs an engine in a thread of its own. All public methods are called on the event loop's thread.

    Args:
        engine: not touched by any other thread from now on, but for `check`.
        loop: receives the tokens.
        metrics: updated on the event loop's thread.
        on_failure: called on the event loop's thread when a step raises; the engine does not go on.
    """

    def __init__(
        self,
        engine: SteppedEngine,
        *,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics,
        on_failure: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self._engine, self._loop, self._metrics = engine, loop, metrics
        self._on_failure = on_failure
        self._queue: deque[tuple[TokenStream, bool]] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._open: dict[str, TokenStream] = {}
        self._choices: dict[str, dict[int, tuple[TokenStream, int]]] = {}
        """Used by the engine's thread only: stream key -> id(request) -> its stream and choice."""
        self.idle = asyncio.Event()
        """Set while no stream is open."""
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
        """Samples that have not ended, running or waiting."""
        return sum(len(stream.requests) - stream.ended for stream in self._open.values())

    @property
    def waiting(self) -> int:
        """Samples that wait for a free row."""
        return max(0, self.samples - self._engine.running)

    def submit(self, stream: TokenStream) -> None:
        """Queue the samples of a stream; each request was checked before.

        Raises:
            WorkerError: the engine failed before.
        """
        if self.failure is not None:
            raise WorkerError(f"the engine failed: {self.failure}") from self.failure
        self._open[stream.key] = stream
        self.idle.clear()
        self._queue.append((stream, True))
        self._wake.set()

    def release(self, stream: TokenStream) -> None:
        """Close a stream; its samples that have not ended are cancelled."""
        known = self._open.pop(stream.key, None) is not None
        if not self._open:
            self.idle.set()
        if not known or stream.ended == len(stream.requests):
            return
        self._metrics.cancelled.inc(len(stream.requests) - stream.ended)
        self._queue.append((stream, False))
        self._wake.set()

    def stop(self) -> None:
        """End the thread after its current step."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    # ---- the engine's thread ----

    def _run(self) -> None:
        engine = self._engine
        try:
            while not self._stopping:
                self._wake.clear()
                while self._queue:
                    stream, is_new = self._queue.popleft()
                    self._add(stream) if is_new else self._cancel(stream)
                if not engine.running and not engine.waiting:
                    self._wake.wait()
                    continue
                started = time.perf_counter()
                tokens = engine.step()
                if tokens:
                    step = [(*self._stream_of(token), token) for token in tokens]
                    self._loop.call_soon_threadsafe(self._deliver, step, started, time.perf_counter())
        except BaseException as error:  # noqa: BLE001  whatever it was, every reader must receive it
            self._loop.call_soon_threadsafe(self._fail, error)

    def _add(self, stream: TokenStream) -> None:
        choices = self._choices[stream.key] = {}
        for choice, request in enumerate(stream.requests):
            choices[id(request)] = (stream, choice)
            self._engine.add(request)

    def _cancel(self, stream: TokenStream) -> None:
        if self._choices.pop(stream.key, None) is not None:
            for request in stream.requests:
                self._engine.cancel(request.key)

    def _stream_of(self, token: Token) -> tuple[TokenStream, int]:
        key = token.request.prompt_id.partition("/")[0]
        choices = self._choices[key]
        if token.prediction is None:
            return choices[id(token.request)]
        ended = choices.pop(id(token.request))
        if not choices:
            del self._choices[key]
        return ended

    # ---- back on the event loop's thread ----

    def _deliver(self, step: list[tuple[TokenStream, int, Token]], started: float, ended: float) -> None:
        self._metrics.observe_step(step, started=started, ended=ended)
        for stream, choice, token in step:
            stream.put(choice, token)

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        for stream in self._open.values():
            stream.fail(error)
        self._on_failure(error)
