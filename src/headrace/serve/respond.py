"""A request that can be made -> its answer on the wire; a client that leaves takes its samples with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from headrace.errors import WorkerError
from headrace.serve.answer import DONE, Answer
from headrace.serve.ask import Asked
from headrace.serve.drive import Driver
from headrace.serve.refusal import Refusal
from headrace.serve.served import Served


class Reply:
    """The answer to one request, as an ASGI application of its own.

    Args:
        asked: the request; queued here.
        served: names tokens.
        driver: makes them.
    """

    def __init__(self, asked: Asked, *, served: Served, driver: Driver) -> None:
        self._asked, self._driver = asked, driver
        self._answer = Answer(asked, served)

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; what the client does not want any more is cancelled."""
        call = self._asked.call
        self._driver.submit(call)
        watcher = asyncio.ensure_future(self._watch(receive))
        try:
            await (self._stream(send) if self._asked.stream else self._send_whole(send))
        except ClientDisconnect:
            pass  # nobody is there to be told
        finally:
            watcher.cancel()
            self._driver.release(call)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._asked.call.fail(ClientDisconnect())

    async def _stream(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-cache"),
                    (b"x-accel-buffering", b"no"),
                ],
            }
        )
        answer = self._answer
        ahead = answer.opening()
        try:
            async for pieces in self._asked.call:
                data = answer.frames(pieces)
                if ahead:
                    data, ahead = ahead + data, b""
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            last = answer.closing()
        except (Refusal, WorkerError) as error:
            # The status is sent already: the stream says what happened, and ends.
            refusal = error if isinstance(error, Refusal) else Refusal(500, str(error))
            last = b"data: " + refusal.body + b"\n\n" + DONE
        await send({"type": "http.response.body", "body": ahead + last, "more_body": False})

    async def _send_whole(self, send: Send) -> None:
        body = orjson.dumps(await collect(self._asked, self._answer))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def collect(asked: Asked, answer: Answer) -> dict[str, object]:
    """The whole answer, when it is there.

    Raises:
        Refusal: a sample failed.
        WorkerError: the engine failed.
    """
    async for pieces in asked.call:
        answer.take(pieces)
    return answer.whole()


@contextlib.asynccontextmanager
async def submitted(asked: Asked, driver: Driver) -> AsyncIterator[None]:
    """Queue a request's samples; what still runs at the end of the block is cancelled."""
    driver.submit(asked.call)
    try:
        yield
    finally:
        driver.release(asked.call)
