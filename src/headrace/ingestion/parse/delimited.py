"""A block of CSV or TSV rows -> texts."""

from __future__ import annotations

import csv
import io
from typing import Any

from headrace.ingestion.document import Parsed, Reject
from headrace.ingestion.fields import too_long, too_long_record, utf8_fault
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.parse.first_row import FirstRow
from headrace.ingestion.read.cuts import CsvRowEnds, Cut, Lines, Scanned
from headrace.ingestion.read.records import RecordBlock
from headrace.ingestion.records import Fault, RecordRenderer

_BOM_BYTES = 3


class DelimitedRows:
    """Texts of rows; the header, if there is one, names the columns.

    CSV follows RFC 4180 (fields in quotes may hold newlines, a quote is doubled); in TSV a quote is a
    character like any other.
    """

    def __init__(self, url: str, fields: FieldOptions, first_row: FirstRow) -> None:
        self._url = url
        self._fields = fields
        self._first_row = first_row
        self._row_ends = CsvRowEnds(first_row.delimiter.encode(), fields.max_record_bytes)
        self._renderer = RecordRenderer(fields)
        self._kind = self._renderer.kind_of_columns(first_row.names, where=url)
        self._text_at = first_row.names.index(fields.text_field) if self._kind is None else 0
        self._keep_at = {name: first_row.names.index(name) for name in fields.keep}

    @property
    def cut(self) -> Cut:
        """Where its rows end."""
        return Scanned(self._row_ends, resumable=True) if self._first_row.quoted else Lines()

    def _rows_of(self, text: str) -> list[list[str]]:
        quoting: Any = self._first_row.quoting
        lines = io.StringIO(text, newline="")
        return list(csv.reader(lines, delimiter=self._first_row.delimiter, quoting=quoting, strict=True))

    def parse(self, block: RecordBlock, *, lines_before: int) -> Parsed:
        """Parse whole rows; a header is passed over. See `JsonLines.parse`."""
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
            is_header = self._fields.csv_header and block.offset + at <= _BOM_BYTES and line == 0
            if not is_header and row_bytes.strip():
                self._row(parsed, row_bytes, block.offset + at, line)
            at += len(row_bytes)
            line += row_bytes.count(b"\n")
        return parsed

    def _row_bytes(self, block: RecordBlock) -> list[bytes]:
        data = block.data
        if not self._first_row.quoted:
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
        if len(rows) != 1 or len(rows[0]) != len(self._first_row.names):
            got = len(rows[0]) if rows else 0
            which = "header" if self._fields.csv_header else "first row"
            detail = f"broken row: {got} fields, the {which} has {len(self._first_row.names)}"
            self._reject(parsed, at, line, "broken_row", detail)
            return
        marks = None
        if self._kind is None:
            text = rows[0][self._text_at].encode()
        else:
            rendered = self._renderer.render(dict(zip(self._first_row.names, rows[0], strict=True)))
            if isinstance(rendered, Fault):
                self._reject(parsed, at, line, rendered.reason, rendered.detail)
                return
            text, marks = rendered
        if len(text) > self._fields.max_document_bytes:
            self._reject(parsed, at, line, "too_long", too_long(len(text), self._fields))
        elif text:
            parsed.add(text, marks=marks)
            for name, i in self._keep_at.items():
                parsed.meta[name].append(rows[0][i])
        else:
            parsed.empty += 1

    def _reject(self, parsed: Parsed, offset: int, index: int, reason: str, detail: str) -> None:
        parsed.rejects.append(
            Reject(source=self._url, offset=offset, line=index + 1, reason=reason, detail=detail)
        )
