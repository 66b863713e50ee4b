"""A web archive -> texts: conversion records (.wet) as they are, responses and resources of HTML by their main content.

A record belongs to the range of bytes in which its first byte is. Whatever is no document is counted by what it is: it
is not HTML, not a success, another record of the same page (requests, metadata, revisits), or bad.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping

from headrace.errors import SourceError
from headrace.ingestion.document import Parsed, Reject
from headrace.ingestion.fields import as_metadata, too_long, utf8_fault
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.parse.html_text import PageError, decode_html, main_text
from headrace.ingestion.parse.http_message import (
    HttpError,
    HttpResponse,
    TooLongError,
    decoded_body,
    parse_response,
)
from headrace.ingestion.parse.warc_records import BrokenRecord, WarcRecord, WarcRecords
from headrace.ingestion.parse.warc_sources import MemberSource, PlainSource, StreamSource, open_source
from headrace.stats import Stats

BATCH_BYTES = 2 << 20
_HTML = ("text/html", "application/xhtml+xml")
_PASSED_OVER = ("warcinfo", "request", "metadata", "revisit", "continuation")
_NAMES = {
    "url": "warc-target-uri",
    "date": "warc-date",
    "id": "warc-record-id",
}
_DIGESTS = ("sha1", "sha256", "sha384", "sha512", "md5")


class BadRecordError(ValueError):
    """A record that should be a document and is none."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class NoDocumentError(Exception):
    """A record that is no document; its name is what it is counted as."""


class WarcDocuments:
    """Documents of a web archive; a reader that goes forward keeps its place."""

    def __init__(self, url: str, compression: str, fields: FieldOptions) -> None:
        self._url = url
        self._compression = compression
        self._fields = fields
        self.stats = Stats()
        self._source: StreamSource | PlainSource | MemberSource | None = None
        self._records: Iterator[WarcRecord | BrokenRecord] = iter(())
        self._ahead: WarcRecord | BrokenRecord | None = None
        self._needed_from = 0
        self._read_to = 0.0
        """Everything that begins before this byte was passed."""

    @property
    def at_end(self) -> bool:
        """Was the last record read?"""
        return self._source is not None and self._ahead is None

    def stored_position(self) -> int:
        """Stored bytes read so far."""
        return 0 if self._source is None else self._source.stored_position()

    def close(self) -> None:
        """Close the file."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Parsed]:
        """Texts of the records that start in [start, stop)."""
        if self._source is None or start < self._read_to:
            self._reopen(start)
        self._needed_from = start
        self._read_to = math.inf if stop is None else stop
        parsed = self._empty()
        while self._ahead is not None and (stop is None or self._ahead.offset < stop):
            item = self._ahead
            if item.offset >= start:
                with self.stats.busy("parse"):
                    self._add(parsed, item)
                if parsed.nbytes >= BATCH_BYTES:
                    yield parsed
                    parsed = self._empty()
            try:
                self._advance()
            except SourceError:
                yield parsed
                raise
        yield parsed

    def _empty(self) -> Parsed:
        return Parsed(texts=[], meta={name: [] for name in self._fields.keep})

    def _reopen(self, start: int) -> None:
        self.close()
        self._source = open_source(self._url, self._compression)
        self._needed_from = start
        self._records = iter(
            WarcRecords(
                self._source,
                url=self._url,
                max_block_bytes=self._fields.max_record_bytes,
                is_needed=lambda offset: offset >= self._needed_from,
            )
        )
        self._advance()

    def _advance(self) -> None:
        with self.stats.busy("read"):
            self._ahead = next(self._records, None)

    def _add(self, parsed: Parsed, item: WarcRecord | BrokenRecord) -> None:
        if isinstance(item, BrokenRecord):
            self._reject(parsed, item.offset, "broken_record", f"no whole record: {item.detail}")
            return
        parsed.nbytes += item.length
        try:
            text, values = self._document(item)
        except NoDocumentError as error:
            parsed.dropped[str(error)] = parsed.dropped.get(str(error), 0) + 1
        except BadRecordError as error:
            self._reject(parsed, item.offset, error.reason, f"{_place(item.headers)}: {error}")
        else:
            if not text:
                parsed.empty += 1
                return
            parsed.add(text)
            for name in self._fields.keep:
                parsed.meta[name].append(as_metadata(values.get(name.lower())))

    def _document(self, record: WarcRecord) -> tuple[bytes, dict[str, str]]:
        """The record's text, and the values that can be kept beside it.

        Raises:
            NoDocumentError: it is none, by what it is.
            BadRecordError: it should be one, and is not.
        """
        headers = record.headers
        kind = headers.get("warc-type", "").lower()
        values = {
            **headers,
            **{name: headers[header] for name, header in _NAMES.items() if header in headers},
        }
        if "url" in values:
            values["url"] = values["url"].removeprefix("<").removesuffix(">")  # as WARC 1.0 has it
        values["content_type"] = headers.get("content-type", "")
        if kind in _PASSED_OVER:
            raise NoDocumentError(f"{kind}_record")
        if kind not in ("conversion", "response", "resource"):
            raise (
                NoDocumentError("record_of_another_type")
                if kind
                else BadRecordError("broken_record", "it has no WARC-Type")
            )
        if headers.get("warc-segment-number"):
            raise NoDocumentError("segmented_record")
        if kind == "conversion":
            return self._plain_text(record), values
        if kind == "resource":
            if _media_type(values["content_type"]) not in _HTML:
                raise NoDocumentError("not_html")
            self._check_whole(record)
            return self._html(record.block, values["content_type"]), values
        return self._page(record, values), values

    def _plain_text(self, record: WarcRecord) -> bytes:
        media_type = _media_type(record.headers.get("content-type", ""))
        if media_type not in ("text/plain", ""):
            raise NoDocumentError("not_text")
        self._check_whole(record)
        fault = utf8_fault(record.block)
        if fault is not None:
            byte = record.block[fault]
            raise BadRecordError(
                "invalid_utf8", f"invalid UTF-8: byte 0x{byte:02x} at byte {fault} of the text"
            )
        return self._short_enough(record.block)

    def _page(self, record: WarcRecord, values: dict[str, str]) -> bytes:
        """Text of a response; adds the HTTP headers to the values."""
        if _media_type(record.headers.get("content-type", "")) != "application/http":
            raise NoDocumentError("not_http")  # for example of a dns: URI
        try:
            response = parse_response(record.block)
        except HttpError as error:
            raise BadRecordError("broken_http", str(error)) from None
        values["content_type"] = response.headers.get("content-type", "")
        values["status"] = str(response.status)
        for name, value in response.headers.items():
            values[f"http.{name}"] = value
        if not 200 <= response.status < 300:
            raise NoDocumentError(f"http_{response.status // 100}xx")
        if not _is_html(response, record.headers):
            raise NoDocumentError("not_html")
        self._check_whole(record)
        is_cut = bool(record.headers.get("warc-truncated"))
        try:
            body = decoded_body(response, limit=self._fields.max_record_bytes, is_cut=is_cut)
        except HttpError as error:
            raise BadRecordError("broken_http", str(error)) from None
        except TooLongError:
            limit = self._fields.max_record_bytes
            raise BadRecordError("too_long", f"its decoded page is longer than {limit:,} bytes") from None
        return self._html(body, values["content_type"])

    def _html(self, body: bytes, content_type: str) -> bytes:
        try:
            text = main_text(decode_html(body, content_type))
        except PageError as error:
            raise BadRecordError("broken_html", str(error)) from None
        return self._short_enough(text)

    def _short_enough(self, text: bytes) -> bytes:
        if len(text) > self._fields.max_document_bytes:
            raise BadRecordError("too_long", too_long(len(text), self._fields))
        return text

    def _check_whole(self, record: WarcRecord) -> None:
        """Refuse a block that is longer than is held, and one whose digest is wrong."""
        if not record.is_whole:
            limit = self._fields.max_record_bytes
            raise BadRecordError(
                "too_long", f"a block of {record.length:,} bytes; no more than {limit:,} is read of one"
            )
        declared = record.headers.get("warc-block-digest")
        if declared is not None and (actual := block_digest(record.block, declared)) is not None:
            raise BadRecordError(
                "wrong_digest", f"its WARC-Block-Digest is {declared}, its block's is {actual}"
            )

    def _reject(self, parsed: Parsed, offset: int, reason: str, detail: str) -> None:
        parsed.rejects.append(
            Reject(source=self._url, offset=offset, line=None, reason=reason, detail=detail)
        )


def block_digest(block: bytes, declared: str) -> str | None:
    """The digest of a block, where it is not the declared one; None where it is, or cannot be computed.

    >>> block_digest(b"a", "sha1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
    'sha1:Q336IN72UWT7ZYK5DXOLT2XK5I3XMZ5Y'
    """
    algorithm, _, value = declared.partition(":")
    name = algorithm.strip().lower().replace("-", "")
    if name not in _DIGESTS or not value:
        return None
    digest = hashlib.new(name, block, usedforsecurity=False)
    value = value.strip().rstrip("=")
    encoded = base64.b32encode(digest.digest()).decode().rstrip("=")
    if value.lower() in (digest.hexdigest(), encoded.lower()):
        return None
    return f"{algorithm}:{encoded}"


def _is_html(response: HttpResponse, headers: Mapping[str, str]) -> bool:
    if response.media_type:
        return response.media_type in _HTML
    identified = _media_type(headers.get("warc-identified-payload-type", ""))
    if identified:
        return identified in _HTML
    return response.body.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _place(headers: Mapping[str, str]) -> str:
    return headers.get("warc-target-uri") or headers.get("warc-record-id") or "a record"
