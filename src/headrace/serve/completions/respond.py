"""A parsed request -> its response on the wire; the samples of a client that disconnects are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from headrace.errors import WorkerError
from headrace.serve.completions.format import DONE, ResponseFormatter
from headrace.serve.completions.model import ServedModel
from headrace.serve.completions.parse import ParsedRequest
from headrace.serve.engine_thread import EngineThread
from headrace.serve.protocol import APIError


class CompletionResponse:
    """The response to one request, as an ASGI application of its own.

    Args:
        request: the request; queued when the application is called.
        model: gives tokens their names.
        engine: generates.
    """

    def __init__(self, request: ParsedRequest, *, model: ServedModel, engine: EngineThread) -> None:
        self._request, self._engine = request, engine
        self._formatter = ResponseFormatter(request, model)

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the response; cancel the samples when the client disconnects."""
        tokens = self._request.tokens
        self._engine.submit(tokens)
        watcher = asyncio.ensure_future(self._watch_disconnect(receive))
        try:
            await (self._send_stream(send) if self._request.stream else self._send_object(send))
        except ClientDisconnect:
            pass  # no response can be sent
        finally:
            watcher.cancel()
            self._engine.release(tokens)

    async def _watch_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._request.tokens.fail(ClientDisconnect())

    async def _send_stream(self, send: Send) -> None:
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
        formatter = self._formatter
        opening = formatter.opening()
        try:
            async for tokens in self._request.tokens:
                data = formatter.frames(tokens)
                if opening:
                    data, opening = opening + data, b""
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            last = formatter.closing()
        except (APIError, WorkerError) as failure:
            # The status is sent already: the stream contains the error, and ends.
            error = failure if isinstance(failure, APIError) else APIError(500, str(failure))
            last = b"data: " + error.body + b"\n\n" + DONE
        await send({"type": "http.response.body", "body": opening + last, "more_body": False})

    async def _send_object(self, send: Send) -> None:
        body = orjson.dumps(await collect(self._request, self._formatter))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def collect(request: ParsedRequest, formatter: ResponseFormatter) -> dict[str, object]:
    """Wait for all samples and return the response object.

    Raises:
        APIError: a sample failed.
        WorkerError: the engine failed.
    """
    async for tokens in request.tokens:
        formatter.add(tokens)
    return formatter.response()


@contextlib.asynccontextmanager
async def submitted(request: ParsedRequest, engine: EngineThread) -> AsyncIterator[None]:
    """Queue a request's samples; those that have not ended at the end of the block are cancelled."""
    engine.submit(request.tokens)
    try:
        yield
    finally:
        engine.release(request.tokens)
