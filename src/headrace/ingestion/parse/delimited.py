"""A block of CSV or TSV rows -> texts."""

from __future__ import annotations

import csv
import io
from typing import Literal

from headrace.errors import SourceError
from headrace.ingestion.document import Parsed, Reject
from headrace.ingestion.fields import too_long, too_long_record, utf8_fault
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.read.cuts import CsvRowEnds
from headrace.ingestion.read.records import RecordBlock

_BOM_BYTES = 3


class DelimitedRows:
    """Texts of rows; the header names the columns.

    CSV follows RFC 4180 (fields in quotes may hold newlines, a quote is doubled); in TSV a quote is a
    character like any other.
    """

    def __init__(
        self, url: str, fields: FieldOptions, *, header: bytes, delimiter: str, row_ends: CsvRowEnds
    ) -> None:
        self._url = url
        self._row_ends = row_ends
        self._fields = fields
        self._delimiter = delimiter
        self._names = self._header_names(header) if header.strip() else []
        if delimiter == "," and b"\r" in header.rstrip(b"\r\n"):
            raise SourceError(
                f"{url}: its rows end in lone carriage returns; expected newlines. Convert it: tr '\\r' '\\n'"
            )
        twice = [name for name in (fields.text_field, *fields.keep) if self._names.count(name) > 1]
        if twice:
            raise SourceError(
                f"{url}: {self._names.count(twice[0])} columns are named {twice[0]!r}; expected one"
            )
        missing = [name for name in (fields.text_field, *fields.keep) if name not in self._names]
        if missing:
            cure = "Name the right one with text_field (--text-field)"
            if f'"{missing[0]}"' in self._names:
                cure = "Its values are in quotes, which TSV does not know: write it as .csv"
            raise SourceError(
                f"{url}: no column {missing[0]!r}; the columns are: {', '.join(self._names) or 'none'}. {cure}"
            )
        self._text_at = self._names.index(fields.text_field)
        self._keep_at = {name: self._names.index(name) for name in fields.keep}

    def _header_names(self, header: bytes) -> list[str]:
        try:
            return self._rows_of(header.decode("utf-8", errors="replace"))[0]
        except csv.Error as error:
            raise SourceError(f"{self._url}: the header is no row of CSV: {error}") from error

    def _rows_of(self, text: str) -> list[list[str]]:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._delimiter == "," else csv.QUOTE_NONE
        lines = io.StringIO(text, newline="")
        return list(csv.reader(lines, delimiter=self._delimiter, quoting=quoting, strict=True))

    def parse(self, block: RecordBlock, *, lines_before: int) -> Parsed:
        """Parse whole rows; the header is passed over. See `JsonLines.parse`."""
        newlines = block.newlines if block.oversized else block.data.count(b"\n")
        parsed = Parsed(
            texts=[],
            meta={name: [] for name in self._fields.keep},
            nbytes=block.nbytes or len(block.data),
            lines=newlines,
        )
        if block.oversized:
            self._reject(parsed, block.offset, lines_before, "too_long", too_long_record(self._fields))
            return parsed
        csv.field_size_limit(max(csv.field_size_limit(), self._fields.max_record_bytes))
        at, line = 0, lines_before
        for row_bytes in self._row_bytes(block):
            if not (block.offset + at <= _BOM_BYTES and line == 0) and row_bytes.strip():
                self._row(parsed, row_bytes, block.offset + at, line)
            at += len(row_bytes)
            line += row_bytes.count(b"\n")
        return parsed

    def _row_bytes(self, block: RecordBlock) -> list[bytes]:
        data = block.data
        if self._delimiter != ",":
            return data.splitlines(keepends=True)
        # Each block ends with a row, whose end no further bytes can move.
        ends: list[int] = self._row_ends(bytearray(data), 0, len(data), final=True)
        if data and (not ends or ends[-1] != len(data)):
            ends.append(len(data))
        return [data[i:j] for i, j in zip([0, *ends[:-1]], ends, strict=True)] if ends else []

    def _row(self, parsed: Parsed, raw: bytes, at: int, line: int) -> None:
        if len(raw) > self._fields.max_record_bytes:
            self._reject(parsed, at, line, "too_long", too_long_record(self._fields))
            return
        fault = utf8_fault(raw)
        if fault is not None:
            detail = f"invalid UTF-8: byte 0x{raw[fault]:02x} does not belong here"
            self._reject(parsed, at + fault, line + raw.count(b"\n", 0, fault), "invalid_utf8", detail)
            return
        try:
            rows = self._rows_of(raw.decode())
        except (
            csv.Error
        ) as error:  # a quote that opens a field and is not closed, or is followed by more text
            detail = f"broken row: {error}; a quote inside a quoted field has to be doubled"
            self._reject(parsed, at, line, "broken_row", detail)
            return
        if len(rows) != 1 or len(rows[0]) != len(self._names):
            got = len(rows[0]) if rows else 0
            detail = f"broken row: {got} fields, the header has {len(self._names)}"
            self._reject(parsed, at, line, "broken_row", detail)
            return
        text = rows[0][self._text_at].encode()
        if len(text) > self._fields.max_document_bytes:
            self._reject(parsed, at, line, "too_long", too_long(len(text), self._fields))
        elif text:
            parsed.add(text)
            for name, i in self._keep_at.items():
                parsed.meta[name].append(rows[0][i])
        else:
            parsed.empty += 1

    def _reject(self, parsed: Parsed, offset: int, index: int, reason: str, detail: str) -> None:
        parsed.rejects.append(
            Reject(source=self._url, offset=offset, line=index + 1, reason=reason, detail=detail)
        )
