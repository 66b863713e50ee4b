"""An HTTP response, as it went over the wire -> its status, headers and decoded body.

Archives are not always what went over the wire: some crawlers store the decoded body beside the headers of the coded
one. So a body is taken as it is where it does not begin as its coding has it.

Source: RFC 9112 (message syntax, chunked coding) and RFC 9110 (content codings).
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from headrace.ingestion.parse.html_text import missing
from headrace.ingestion.parse.warc_records import parse_headers
from headrace.ingestion.read.unpack import TruncatedStreamError, Unpacker

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})(?:[ \t][^\r\n]*)?\r?(?:\n|$)")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n]*)?\r?\n")
_MAGIC = {"gzip": (b"\x1f\x8b",), "zstd": (b"\x28\xb5\x2f\xfd",)}
_NAMES = {"x-gzip": "gzip", "x-zstd": "zstd"}
_TEXT_STARTS = (b"<", b"\xef\xbb\xbf<", b"\xff\xfe<", b"\xfe\xff\x00<")


class HttpError(ValueError):
    """A response that cannot be read; says why."""


class TooLongError(ValueError):
    """A body that is longer than the limit once it is decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """A response."""

    status: int
    headers: Mapping[str, str]
    """By lowercase name, the first one of several."""
    body: bytes
    """As it was sent."""

    @property
    def media_type(self) -> str:
        """Of its Content-Type, in lowercase; "" where there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_response(message: bytes) -> HttpResponse:
    """The parts of a response.

    Raises:
        HttpError: it has no status line.
    """
    status = _STATUS.match(message)
    if status is None:
        raise HttpError(f"no HTTP response: it begins with {message[:40]!r}")
    end = _HEADER_END.search(message, status.end() - 2)
    start, stop = (len(message), len(message)) if end is None else (end.start(), end.end())
    return HttpResponse(
        status=int(status[1]), headers=parse_headers(message[status.end() : start]), body=message[stop:]
    )


def decoded_body(response: HttpResponse, *, limit: int, is_cut: bool) -> bytes:
    """The body without its transfer and content codings.

    Args:
        response: what was sent.
        limit: largest size of the result, bytes.
        is_cut: the crawler says that it stored the beginning only: the result then ends where the data do.

    Raises:
        HttpError: the body is damaged, ends early, or has a coding that is not known.
        TooLongError: it is longer than `limit`.
    """
    body = response.body
    codings = _codings(response.headers, "content-encoding") + _codings(response.headers, "transfer-encoding")
    for coding in reversed(codings):
        if coding == "chunked":
            body = _without_chunks(body, is_cut=is_cut)
        elif coding != "identity":
            body = _decompressed(body, coding, limit=limit, is_cut=is_cut)
    if len(body) > limit:
        raise TooLongError
    return body


def _codings(headers: Mapping[str, str], name: str) -> list[str]:
    names = [part.strip().lower() for part in headers.get(name, "").split(",")]
    return [_NAMES.get(coding, coding) for coding in names if coding]


def _without_chunks(body: bytes, *, is_cut: bool) -> bytes:
    parts: list[bytes] = []
    at = 0
    while True:
        size = _CHUNK_SIZE.match(body, at)
        if size is None:
            if at == 0:
                return body  # the crawler has removed the chunks, and left the header
            if is_cut:
                return b"".join(parts)
            what = "ends before its last chunk" if at >= len(body) else f"is damaged at byte {at}"
            raise HttpError(f"its chunked body {what}")
        length = int(size[1], 16)
        if length == 0:
            return b"".join(parts)
        start, end = size.end(), size.end() + length
        parts.append(body[start:end])
        if end > len(body):
            if is_cut:
                return b"".join(parts)
            raise HttpError("its chunked body ends inside a chunk")
        newline = b"\r\n" if size[0].endswith(b"\r\n") else b"\n"
        if not body.startswith(newline, end) and end < len(body) and not is_cut:
            raise HttpError(f"its chunked body is damaged at byte {end}")
        at = end + len(newline)


def _decompressed(body: bytes, coding: str, *, limit: int, is_cut: bool) -> bytes:
    if not body or (coding in _MAGIC and not body.startswith(_MAGIC[coding])):
        return body  # the crawler has decoded it, and left the header
    try:
        if coding == "gzip":
            return _inflated(body, 31, limit=limit, is_cut=is_cut)
        if coding == "deflate":
            # Servers send both what the name means in HTTP (zlib) and bare deflate.
            is_zlib = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
            return _inflated(body, 15 if is_zlib else -15, limit=limit, is_cut=is_cut)
        if coding == "br":
            return _unbrotli(body, limit=limit, is_cut=is_cut)
        if coding == "zstd":
            return _unzstd(body, limit=limit, is_cut=is_cut)
    except HttpError:
        if coding in ("br", "deflate") and body.lstrip().startswith(_TEXT_STARTS):
            return body  # decoded by the crawler: these codings have no magic number
        raise
    raise HttpError(f"its content coding is {coding[:40]!r}; expected gzip, deflate, br or zstd")


def _inflated(body: bytes, window: int, *, limit: int, is_cut: bool) -> bytes:
    parts, size = [], 0
    while True:
        stream = zlib.decompressobj(window)
        try:
            parts.append(stream.decompress(body, limit + 1 - size))
        except zlib.error as error:
            raise HttpError(f"its compressed body is damaged: {error}") from None
        size += len(parts[-1])
        if size > limit:
            raise TooLongError
        if not stream.eof and not is_cut:
            raise HttpError("its compressed body ends early")
        body = stream.unused_data
        if window != 31 or not body.startswith(_MAGIC["gzip"][0]):  # several members are one body
            return b"".join(parts)


def _unbrotli(body: bytes, *, limit: int, is_cut: bool) -> bytes:
    try:
        brotli: Any = import_module("brotli")
    except ModuleNotFoundError as error:
        raise missing("brotli") from error
    stream = brotli.Decompressor()
    parts: list[bytes] = []
    size, data = 0, body
    try:
        while not stream.is_finished():
            part: bytes = stream.process(data, output_buffer_limit=1 << 20)
            data = b""
            parts.append(part)
            size += len(part)
            if size > limit:
                raise TooLongError
            if not part and stream.can_accept_more_data():
                break
    except brotli.error as error:
        raise HttpError(f"its brotli body is damaged: {error}") from None
    if not stream.is_finished() and not is_cut:
        raise HttpError("its brotli body ends early")
    return b"".join(parts)


def _unzstd(body: bytes, *, limit: int, is_cut: bool) -> bytes:
    stream = Unpacker(io.BytesIO(body), "zstd")
    buffer = memoryview(bytearray(256 << 10))
    found = bytearray()
    try:
        while size := stream.readinto(buffer):
            found += buffer[:size]
            if len(found) > limit:
                raise TooLongError
    except TruncatedStreamError:
        if not is_cut:
            raise HttpError("its zstd body ends early") from None
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, TooLongError):
            raise
        raise HttpError(f"its zstd body is damaged: {error}") from None
    return bytes(found)
