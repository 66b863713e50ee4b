"""Every request -> passed on or refused: host and origin, key, size; and what is raised becomes an OpenAI error.

Plain ASGI: a middleware that runs the application in a task of its own would lose disconnects.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import logging
from collections.abc import Callable, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.errors import HeadraceError
from headrace.serve.metrics import Metrics
from headrace.serve.origins import CrossOriginPolicy
from headrace.serve.protocol import APIError
from headrace.serve.redaction import os_error_message

logger = logging.getLogger(__name__)

CACHE_SCOPE = "headrace.cache_scope"
"""Field of the ASGI scope: prefixes are shared by requests of one cache scope."""
PAGE_PATHS = ("/", "/page/")
OPEN_PATHS = ("/health", "/openapi.json")
FILES_PATH = "/v1/files"
MAX_FILE_BYTES = 200 << 20
MULTIPART_BYTES = 1 << 20
"""Allowance for a form's other fields and its boundaries."""


class RequestMiddleware:
    """ASGI middleware in front of all routes.

    Args:
        app: the application.
        metrics: counts responses.
        origins: decides which names and pages may call.
        api_keys: any of them is accepted; without keys everybody is.
        max_body_bytes: largest JSON body.
        redact: removes the server's paths from error messages.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        origins: CrossOriginPolicy,
        api_keys: Sequence[str] = (),
        max_body_bytes: int,
        redact: Callable[[str], str],
    ) -> None:
        self._app, self._metrics, self._origins = app, metrics, origins
        # Digests have one length, so that every comparison takes the same time.
        self._keys = [hashlib.sha256(key.encode()).digest() for key in api_keys]
        self._max_body_bytes, self._redact = max_body_bytes, redact

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def counted_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._metrics.count_response(message["status"])
            await send(message)

        try:
            headers = dict(scope["headers"])
            is_page = is_page_path(scope["path"])
            self._origins.check(
                scope["headers"], http_version=scope.get("http_version", "1.1"), open_path=is_page
            )
            if not is_page and scope["path"] not in OPEN_PATHS:
                scope[CACHE_SCOPE] = self._check_key(scope["method"], headers)
            await self._app(scope, self._limited_receive(scope["path"], headers, receive), counted_send)
        except ClientDisconnect:
            return
        except Exception as error:  # the last handler answers for everything
            if started:
                raise  # uvicorn closes the connection: half a response must not look complete
            await _send_error(error_for(error, redact=self._redact), counted_send)

    def _check_key(self, method: str, headers: dict[bytes, bytes]) -> str:
        """Refuse a request without a valid key; its cache scope, which is the key's hash."""
        if not self._keys or method == "OPTIONS":
            return ""
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        digest = hashlib.sha256(given.strip()).digest()
        matches = [hmac.compare_digest(digest, key) for key in self._keys]
        if scheme.lower() != b"bearer" or not any(matches):
            raise APIError(
                401,
                "Incorrect API key provided. Send the header: Authorization: Bearer KEY.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return digest.hex()

    def _limited_receive(self, path: str, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        limit = MAX_FILE_BYTES + MULTIPART_BYTES if path == FILES_PATH else self._max_body_bytes
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > limit:
            raise _body_too_large(int(length[:20]), limit)
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    raise _body_too_large(received, limit)
            return message

        return limited_receive


def is_page_path(path: str) -> bool:
    """Whether a path is the page or one of its files, which are the same for everybody."""
    return path == PAGE_PATHS[0] or path.startswith(PAGE_PATHS[1])


def error_for(error: Exception, *, redact: Callable[[str], str] = str) -> APIError:
    """The error response for an exception, without paths of the server."""
    if isinstance(error, APIError):
        return APIError(
            error.status, redact(str(error)), param=error.param, code=error.code, headers=error.headers
        )
    if isinstance(error, HTTPException):
        message = {404: "There is nothing at this path; see /openapi.json.", 405: "Not with this method."}
        return APIError(
            error.status_code, message.get(error.status_code, str(error.detail)), headers=error.headers
        )
    if isinstance(error, HeadraceError):
        return APIError(500, redact(str(error)))
    if isinstance(error, OSError):  # a disk that is full or failing
        logger.error("serve: %s: %s", error.filename or "a file", os_error_message(error))
        status = 507 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 500
        return APIError(
            status, f"The server's disk failed: {os_error_message(error)}.", code="storage_failed"
        )
    return APIError(500, "The server failed on this request; its log says more.")


async def _send_error(error: APIError, send: Any) -> None:
    body = error.body
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _body_too_large(got: int, limit: int) -> APIError:
    return APIError(
        413,
        f"The body has {got} bytes or more; at most {limit}.",
        code="body_too_large",
        headers={"connection": "close"},
    )
