"""Bytes of a connection -> requests, within limits: header size, time to send, number of connections.

The limits hold before any key is looked at. HTTP/1.0 clients get a stream without chunked framing, which ends with the
connection: nginx speaks HTTP/1.0 to its backends by default.
"""

from __future__ import annotations

import socket
from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from headrace.serve.protocol import APIError

MAX_HEADER_BYTES = 64 << 10
MAX_HEADERS = 128
HEADER_S = 20.0
"""From a connection's beginning, or a request's first byte, to the end of its header."""
BODY_S = 60.0
"""Between two pieces of a body."""
FRAMING_RATIO = 8
"""Bytes that arrive for each byte of a body in chunks; a chunk of one byte has five of framing."""
LINGER_S = 2.0
DISCARDED_BYTES = 8 << 20
KEEP_ALIVE_PROBES = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


def limited_protocol(
    *, max_connections: int, header_s: float = HEADER_S, body_s: float = BODY_S
) -> type[HttpToolsProtocol]:
    """The protocol class of a server with these limits."""
    return type(
        "LimitedProtocol",
        (LimitedHttpProtocol,),
        {"max_connections": max_connections, "header_s": header_s, "body_s": body_s},
    )


class LimitedHttpProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1 protocol with limits."""

    max_connections = 1000
    header_s = HEADER_S
    body_s = BODY_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._error: APIError | None = None
        self._timer: TimerHandle | None = None
        self._in_header, self._in_body, self._between_messages = True, False, True
        self._any_bytes, self._discarding = False, False
        self._header_bytes = self._header_count = 0
        self._received = self._body_bytes = 0
        """Of the current message: all bytes, and those of its body."""

    # ---- from the transport ----

    def connection_made(self, transport: Any) -> None:
        """Refuse a connection too many; give the others a limited time for their header."""
        super().connection_made(transport)
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family != getattr(socket, "AF_UNIX", None):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEP_ALIVE_PROBES:
                if hasattr(socket, name):
                    opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if len(self.connections) > self.max_connections:
            self._refuse(
                APIError(
                    503,
                    f"The server has {self.max_connections} open connections already. Try again later.",
                    code="too_many_connections",
                    headers={"retry-after": "1"},
                ),
                linger=False,
            )
            return
        self._start_timer(self.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and count."""
        self._received += len(data)
        if self._discarding:
            if self._received > DISCARDED_BYTES:
                self.transport.abort()
            return
        if self.transport.is_closing():
            return
        self._any_bytes = True
        super().data_received(data)
        if self._discarding or self.transport.is_closing():
            return
        if self._in_header:
            # The parser reports a header field when it is complete; until then its bytes are counted here.
            if self._received > MAX_HEADER_BYTES:
                self._refuse(_header_too_large())
            elif self._timer is None and not (self._between_messages and self._answering):
                self._start_timer(self.header_s)
        elif self._in_body:
            if self._received > MAX_HEADER_BYTES + FRAMING_RATIO * self._body_bytes + len(data):
                self._refuse(_header_too_large())
            else:
                self._start_timer(self.body_s)

    # ---- from the parser ----

    def on_message_begin(self) -> None:
        """A new request."""
        super().on_message_begin()
        self._in_header, self._in_body, self._between_messages = True, False, False
        self._header_bytes = self._header_count = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self._count_header(len(url), fields=0)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field, or one trailer field."""
        self._count_header(len(name) + len(value) + 4, fields=1)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The header is complete: the request starts."""
        self._in_header, self._in_body = False, True
        self._stop_timer()
        # What came with the header in one piece may be body already: a new count begins.
        self._received = 0
        super().on_headers_complete()
        if self.parser.get_http_version() == "1.0" and self.cycle is not None:
            # In front of the method: the cycle looks `send` up when its task starts.
            vars(self.cycle)["send"] = UnframedSend(self.cycle)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete; the next one may follow."""
        self._in_header, self._in_body, self._between_messages = True, False, True
        self._received = 0
        self._stop_timer()
        super().on_message_complete()

    # ---- limits ----

    def _count_header(self, nbytes: int, *, fields: int) -> None:
        self._header_bytes += nbytes
        self._header_count += fields
        if self._header_bytes > MAX_HEADER_BYTES or self._header_count > MAX_HEADERS:
            self._error = _header_too_large()
            raise self._error  # the parser stops, and `send_400_response` sends this error

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _on_timeout(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused or (self._answering and self._in_header):
            self._start_timer(self.body_s)  # the server itself does not read at the moment
        elif self._any_bytes:
            self._refuse(APIError(408, "The request did not arrive in time.", code="request_timeout"))
        else:
            self.transport.close()

    def _refuse(self, error: APIError, *, linger: bool = True) -> None:
        self._error = error
        self.send_400_response("", linger=linger)

    def send_400_response(self, msg: str, *, linger: bool = True) -> None:
        """Send the error that was found, else 400, and close.

        Closing while the client still sends would reset the connection and lose the error on its way: for a moment
        what comes is read and dropped.
        """
        error = self._error or APIError(400, msg or "Invalid HTTP request received.", code="invalid_http")
        self._stop_timer()
        lines = [
            STATUS_LINE[error.status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(error.body),
            *(f"{name}: {value}\r\n".encode() for name, value in error.headers.items()),
            b"connection: close\r\n\r\n",
        ]
        if (
            self._answering and self.cycle.response_started
        ):  # nothing fits into the middle of another response
            self.transport.close()
            return
        self.transport.write(b"".join([*lines, error.body]))
        if not linger or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self._discarding, self._received = True, 0
        self._timer = self.loop.call_later(LINGER_S, self.transport.close)


class UnframedSend:
    """The `send` of one HTTP/1.0 response: a body of unknown length ends with the connection, without chunks.

    Args:
        cycle: the request and its response.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._unframed = False

    async def __call__(self, message: Any) -> None:
        """Send one ASGI message."""
        cycle = self._cycle
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            self._unframed = b"content-length" not in names
            if self._unframed:
                cycle.chunked_encoding = False
        elif self._unframed:
            cycle.expected_content_length = len(message.get("body", b""))
        await type(cycle).send(cycle, message)


def _header_too_large() -> APIError:
    return APIError(
        431,
        f"The request's header is too large: at most {MAX_HEADER_BYTES} bytes in {MAX_HEADERS} fields.",
        code="header_too_large",
    )
