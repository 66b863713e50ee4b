"""Every request -> let through or refused: key, size, draining; and what escapes becomes an OpenAI error.

Pure ASGI: a middleware that wraps answers in a task of its own loses disconnects.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.errors import HeadraceError
from headrace.serve.metrics import Metrics
from headrace.serve.refusal import Refusal

OPEN_PATHS = ("/", "/health", "/openapi.json")
FILES_PATH = "/v1/files"
MAX_FILE_BYTES = 200 << 20
MULTIPART_BYTES = 1 << 20
"""Room for a form's other fields and its boundaries."""


class Guard:
    """ASGI middleware in front of all routes.

    Args:
        app: what it guards.
        metrics: counts answers.
        api_keys: any of them opens the door; none: it stands open.
        max_body_bytes: of a JSON body.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, api_keys: Sequence[str] = (), max_body_bytes: int
    ) -> None:
        self._app, self._metrics = app, metrics
        # Digests have one length, so that comparing them takes one time.
        self._keys = [hashlib.sha256(key.encode()).digest() for key in api_keys]
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._metrics.answered(message["status"])
            await send(message)

        try:
            headers = dict(scope["headers"])
            self._refuse_stranger(scope["path"], scope["method"], headers)
            await self._app(scope, self._measured(scope["path"], headers, receive), counted)
        except ClientDisconnect:
            return
        except Exception as error:  # the last line of defence answers for everything
            if started:
                raise  # uvicorn closes the connection: a half answer must not look whole
            await _say(refusal_for(error), counted)

    def _refuse_stranger(self, path: str, method: str, headers: dict[bytes, bytes]) -> None:
        if not self._keys or method == "OPTIONS" or path in OPEN_PATHS:
            return
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        digest = hashlib.sha256(given.strip()).digest()
        fits = [hmac.compare_digest(digest, key) for key in self._keys]
        if kind.lower() != b"bearer" or not any(fits):
            raise Refusal(
                401,
                "Incorrect API key provided. Send the header: Authorization: Bearer KEY.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    def _measured(self, path: str, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        limit = MAX_FILE_BYTES + MULTIPART_BYTES if path == FILES_PATH else self._max_body_bytes
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise _too_large(int(length), limit)
        taken = 0

        async def measured() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > limit:
                    raise _too_large(taken, limit)
            return message

        return measured


def refusal_for(error: Exception) -> Refusal:
    """The answer for whatever was raised."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        message = {404: "There is nothing at this path; see /openapi.json.", 405: "Not with this method."}
        return Refusal(
            error.status_code, message.get(error.status_code, str(error.detail)), headers=error.headers
        )
    if isinstance(error, HeadraceError):
        return Refusal(500, str(error))
    return Refusal(500, "The server failed on this request; its log says more.")


async def _say(refusal: Refusal, send: Any) -> None:
    body = refusal.body
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _too_large(got: int, limit: int) -> Refusal:
    return Refusal(
        413,
        f"The body has {got} bytes or more; at most {limit}.",
        code="body_too_large",
        headers={"connection": "close"},
    )
