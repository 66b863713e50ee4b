"""A source and a range -> its documents, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from headrace.ingestion.document import Parsed
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.parse.delimited import DelimitedRows
from headrace.ingestion.parse.first_row import read_first_row
from headrace.ingestion.parse.jsonl import JsonLines
from headrace.ingestion.parse.objects import JsonObjects
from headrace.ingestion.parse.plain import PlainText
from headrace.ingestion.parse.tarfiles import TarSamples
from headrace.ingestion.parse.warc import WarcDocuments
from headrace.ingestion.read.cuts import (
    Cut,
    Lines,
    Scanned,
    Whole,
    blank_line_ends,
    json_object_ends,
)
from headrace.ingestion.read.open import Stream, read_head
from headrace.ingestion.read.records import RecordBlock, Records
from headrace.ingestion.read.sources import SourceFile
from headrace.stats import Stats

WHOLE_TEXT_BYTES = 1 << 20
"""Mode auto: a text file of at most this size is one document, a longer one is cut at blank lines."""


class Reader(Protocol):
    """Documents of one file, by ranges."""

    stats: Stats
    """Counts the seconds of reading and parsing."""

    @property
    def at_end(self) -> bool:
        """Was the last document read?"""

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Parsed]:
        """Documents that start in [start, stop): bytes, row groups or record batches, by format."""

    def stored_position(self) -> int:
        """Stored bytes read so far."""

    def close(self) -> None:
        """Close the file."""


class _Parser(Protocol):
    def parse(self, block: RecordBlock, *, lines_before: int) -> Parsed: ...


class RecordReader:
    """Blocks of records, parsed."""

    def __init__(self, records: Records, parser: _Parser) -> None:
        self._records = records
        self._parser = parser
        self.stats = Stats()

    @property
    def at_end(self) -> bool:
        """See `Reader`."""
        return self._records.at_end

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Parsed]:
        """See `Reader`."""
        lines = 0
        blocks = self._records.read(start, stop)
        while True:
            with self.stats.busy("read"):
                block = next(blocks, None)
            if block is None:
                return
            with self.stats.busy("parse", nbytes=len(block.data)):
                parsed = self._parser.parse(block, lines_before=lines)
            lines += parsed.lines
            yield parsed

    def stored_position(self) -> int:
        """See `Reader`."""
        return self._records.stored_position()

    def close(self) -> None:
        """See `Reader`."""
        self._records.close()


def open_reader(source: SourceFile, fields: FieldOptions, seek_points: bytes | None = None) -> Reader:
    """The reader for a source's format.

    Args:
        source: what to read.
        fields: what a document is, and which part of it is its text.
        seek_points: from `seekpoints.load`; ranges of a .gz are then read without what stands before them.

    Raises:
        SourceError: missing, damaged, or without the columns that are asked for.
    """
    url = source.url
    if source.format in ("parquet", "arrow"):
        from headrace.ingestion.parse.tables import ArrowBatches, ParquetGroups  # loads pyarrow

        return (ParquetGroups if source.format == "parquet" else ArrowBatches)(
            url, source.compression, fields
        )
    if source.format == "tar":
        return TarSamples(url, source.compression, fields)
    if source.format == "warc":
        return WarcDocuments(url, source.compression, fields)
    cut, parser = _cut_and_parser(source, fields)
    records = Records(
        lambda start: Stream(url, source.compression, start=start, seek_points=seek_points),
        cut,
        url=url,
        seekable=source.compression == "none" or seek_points is not None,
        max_record_bytes=fields.max_record_bytes,
        expected_bytes=source.text_bytes,
    )
    return RecordReader(records, parser)


def is_seekable(source: SourceFile, fields: FieldOptions) -> bool:
    """Can ranges of its bytes be read without what stands before them?"""
    return is_cut_by_line(source, fields) and source.compression == "none"


def is_cut_by_line(source: SourceFile, fields: FieldOptions) -> bool:
    """Is a record a line, so that the first one after any byte is found there?"""
    return source.format == "jsonl" or (source.format == "text" and fields.text_mode == "line")


def _cut_and_parser(source: SourceFile, fields: FieldOptions) -> tuple[Cut, _Parser]:
    url = source.url
    if source.format == "jsonl":
        return Lines(), JsonLines(url, fields)
    if source.format == "json":
        return Scanned(json_object_ends, resumable=False), JsonObjects(
            url, fields, compression=source.compression
        )
    if source.format in ("csv", "tsv"):
        head = read_head(url, source.compression, 1 << 20).removeprefix(b"\xef\xbb\xbf")
        rows = DelimitedRows(url, fields, read_first_row(url, head, fields, quoted=source.format == "csv"))
        return rows.cut, rows
    mode = fields.text_mode if fields.text_mode != "auto" else _text_mode(source)
    text_cut: dict[str, Cut] = {
        "line": Lines(),
        "file": Whole(),
        "block": Scanned(blank_line_ends, resumable=True),
    }
    return text_cut[mode], PlainText(url, fields, mode=mode)


def _text_mode(source: SourceFile) -> str:
    return (
        "file"
        if len(read_head(source.url, source.compression, WHOLE_TEXT_BYTES + 1)) <= WHOLE_TEXT_BYTES
        else "block"
    )
