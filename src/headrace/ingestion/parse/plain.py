"""A block of plain text -> documents: its lines, its paragraphs, or all of it."""

from __future__ import annotations

import re

from headrace.ingestion.document import Parsed, Reject
from headrace.ingestion.fields import too_long, too_long_record, utf8_fault
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.read.cuts import blank_line_ends
from headrace.ingestion.read.records import RecordBlock

_EDGES = b"\r\n"
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


class PlainText:
    """Documents of a text file; `mode` says what a document is."""

    def __init__(self, url: str, fields: FieldOptions, *, mode: str) -> None:
        assert mode in ("line", "block", "file")
        self._url = url
        self._fields = fields
        self._mode = mode

    def parse(self, block: RecordBlock, *, lines_before: int) -> Parsed:
        """Parse whole records; see `JsonLines.parse`."""
        newlines = block.newlines if block.oversized else block.data.count(b"\n")
        parsed = Parsed(texts=[], nbytes=block.nbytes or len(block.data), lines=newlines)
        if block.oversized:
            self._reject(parsed, block.offset, lines_before, "too_long", self._too_long_record())
            return parsed
        at, line = block.offset, lines_before
        fine = block.data.isascii() and len(block.data) <= self._fields.max_document_bytes
        for piece in self._pieces(block.data):
            text = self._strip(piece)
            if not text or (self._mode != "file" and text.isspace()):
                parsed.empty += self._mode == "file"
            elif fine:
                parsed.add(text)
            else:
                self._check(parsed, piece, text, at, line)
            if not fine or self._mode == "block":
                at += len(piece)
                line += piece.count(b"\n")
        return parsed

    def _strip(self, piece: bytes) -> bytes:
        """Without the line ends around a line, and the blank lines around a paragraph."""
        if self._mode == "file":
            return piece
        return piece.strip(_EDGES) if self._mode == "line" else piece.rstrip(b" \t\r\n").lstrip(_EDGES)

    def _pieces(self, data: bytes) -> list[bytes]:
        if not data or self._mode == "file":
            return [data] if data else []
        if self._mode == "line":
            # splitlines is the faster one, but it also breaks at a lone carriage return
            return data.splitlines(keepends=True) if b"\r" not in data else _LINE.findall(data)
        buffer = bytearray(data)
        ends = blank_line_ends(buffer, 0, len(buffer), final=True)
        if not ends or ends[-1] != len(data):
            ends.append(len(data))
        return [data[i:j] for i, j in zip([0, *ends[:-1]], ends, strict=True)]

    def _check(self, parsed: Parsed, piece: bytes, text: bytes, at: int, line: int) -> None:
        if len(piece) > self._fields.max_record_bytes:
            self._reject(parsed, at, line, "too_long", self._too_long_record())
            return
        fault = utf8_fault(text)
        if fault is not None:
            place = fault + (0 if self._mode == "file" else len(piece) - len(piece.lstrip(_EDGES)))
            detail = f"invalid UTF-8: byte 0x{text[fault]:02x} does not belong here"
            self._reject(parsed, at + place, line + piece.count(b"\n", 0, place), "invalid_utf8", detail)
        elif len(text) > self._fields.max_document_bytes:
            self._reject(parsed, at, line, "too_long", too_long(len(text), self._fields))
        else:
            parsed.add(text)

    def _too_long_record(self) -> str:
        hint = ". One document per line or per paragraph? Use text_mode" if self._mode == "file" else ""
        return too_long_record(self._fields) + hint

    def _reject(self, parsed: Parsed, offset: int, index: int, reason: str, detail: str) -> None:
        parsed.rejects.append(
            Reject(source=self._url, offset=offset, line=index + 1, reason=reason, detail=detail)
        )
