"""Tokens of one HTTP request's samples, as the engine generates them -> an asynchronous iterator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from headrace.errors import WorkerError
from headrace.generation import Request, Token


class TokenStream:
    """The samples of one HTTP request and the tokens that were generated for them.

    One coroutine reads: `async for tokens in stream`, each a list of (choice, token) in the order of generation.

    Args:
        key: unique among the open streams.
        requests: one for each sample.
    """

    __slots__ = ("_pending", "_reader", "arrived", "ended", "error", "key", "last_at", "requests")

    def __init__(self, key: str, requests: Sequence[Request]) -> None:
        self.key, self.requests = key, requests
        self.arrived = time.perf_counter()
        self.last_at: list[float] = [0.0] * len(requests)
        """Time of each sample's newest token; 0 before the first."""
        self.ended = 0
        self.error: BaseException | None = None
        self._pending: list[tuple[int, Token]] = []
        self._reader: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Whether all samples ended, or the engine failed."""
        return self.ended == len(self.requests) or self.error is not None

    def put(self, choice: int, token: Token) -> None:
        """Add a token of a sample; called on the event loop's thread."""
        self._pending.append((choice, token))
        if token.prediction is not None:
            self.ended += 1
        self._wake()

    def fail(self, error: BaseException) -> None:
        """End the stream with an error; called on the event loop's thread."""
        self.error = error
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> list[tuple[int, Token]]:
        """Tokens since the last call; waits for at least one.

        Raises:
            WorkerError: the engine failed.
        """
        while not self._pending:
            if self.error is not None:
                raise WorkerError(f"the engine failed: {self.error}") from self.error
            if self.done:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        tokens, self._pending = self._pending, []
        return tokens
