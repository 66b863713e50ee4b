"""Parquet and Arrow files -> texts, a batch at a time; a range is a range of row groups or record batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import count
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.errors import SourceError
from headrace.ingestion.document import Parsed, Reject
from headrace.ingestion.fields import as_metadata, too_long, utf8_fault
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.parse.columns import column_of, split_name, type_of
from headrace.ingestion.read.open import open_seekable
from headrace.ingestion.records import Fault, RecordRenderer
from headrace.stats import Stats
from headrace.storage import arrow_errors, refuse_encrypted, validate_arrow

ROWS_AT_ONCE = 4096
_STREAM_END = b"\xff\xff\xff\xff" + bytes(4)
_Item = TypeVar("_Item")


class ParquetGroups:
    """Row groups of a Parquet file."""

    def __init__(self, url: str, compression: str, fields: FieldOptions) -> None:
        self._url = url
        self._fields = fields
        self.stats = Stats()
        self._raw = open_seekable(url, compression)
        try:
            with self._damage("file"):
                refuse_encrypted(self._raw, url)
                self._file = pq.ParquetFile(self._raw)
        except SourceError:
            self._raw.close()
            raise
        self._rows = TableRows(self, url, self._file.schema_arrow, fields)
        self._stored = 0
        self._ended = False

    @property
    def at_end(self) -> bool:
        """Was the last row group read?"""
        return self._ended

    def group_bytes(self) -> list[tuple[int, int]]:
        """Bytes of each row group's text: (unpacked, stored)."""
        meta = self._file.metadata
        names = set(self._rows.columns)
        sizes = []
        with self._damage("column metadata"):  # pyarrow decodes names when they are asked for
            for i in range(meta.num_row_groups):
                group = meta.row_group(i)
                columns = [group.column(j) for j in range(group.num_columns)]
                columns = [
                    c
                    for c in columns
                    if c.path_in_schema in names or c.path_in_schema.partition(".")[0] in names
                ]
                sizes.append(
                    (
                        sum(c.total_uncompressed_size for c in columns),
                        sum(c.total_compressed_size for c in columns),
                    )
                )
        return sizes

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Parsed]:
        """Texts of row groups [start, stop)."""
        meta = self._file.metadata
        stop = meta.num_row_groups if stop is None else min(stop, meta.num_row_groups)
        sizes = self.group_bytes()
        row = sum(meta.row_group(i).num_rows for i in range(start))
        for group in range(start, stop):
            with self._damage(f"row group {group} of {meta.num_row_groups}"):
                batches = self._file.iter_batches(
                    batch_size=ROWS_AT_ONCE, row_groups=[group], columns=self._rows.columns, use_threads=False
                )
                while (batch := timed_next(batches, self.stats)) is not None:
                    with self.stats.busy("parse"):
                        parsed = self._rows.parse(batch, first_row=row)
                    row += batch.num_rows
                    yield parsed
            self._stored += sizes[group][1]
        self._ended = stop == meta.num_row_groups

    def _damage(self, where: str) -> AbstractContextManager[None]:
        return arrow_errors(f"{self._url}: damaged Parquet {where}", error=SourceError)

    def stored_position(self) -> int:
        """Stored bytes read so far."""
        return self._stored

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()


class ArrowBatches:
    """Record batches of an Arrow file (Feather 2), or of an Arrow stream as Hugging Face datasets writes."""

    def __init__(self, url: str, compression: str, fields: FieldOptions) -> None:
        self._url = url
        self._fields = fields
        self.stats = Stats()
        self._raw = open_seekable(url, compression)
        self._nbytes = self._raw.seek(0, 2)
        self._raw.seek(0)
        self._stored = 0
        self._ended = False
        try:
            with self._damage("file"):
                self._is_file = (self._raw.read(6) or b"") == b"ARROW1"
                self._check_stream_end()
                self._raw.seek(0)
                is_local = compression == "none" and "://" not in url
                # A local file is mapped: batches that are passed over are not read.
                self._open: Any = pa.memory_map(url) if is_local else pa.PythonFile(self._raw, mode="r")
                schema = self._reader(None).schema
        except SourceError:
            self._raw.close()
            raise
        self._rows = TableRows(self, url, schema, fields)
        self._included = [schema.get_field_index(name) for name in self._rows.columns]

    @property
    def at_end(self) -> bool:
        """Was the last batch read?"""
        return self._ended

    def _check_stream_end(self) -> None:
        """Arrow takes the end of a file for the end of a stream, so a file cut between two batches looks whole."""
        if not self._is_file:
            self._raw.seek(max(self._nbytes - 8, 0))
            if (self._raw.read(8) or b"") != _STREAM_END:
                raise OSError("the stream has no end mark: truncated")

    def _reader(self, included: list[int] | None) -> Any:
        self._open.seek(0)
        options = pa.ipc.IpcReadOptions(included_fields=included, use_threads=False)
        kind = pa.ipc.open_file if self._is_file else pa.ipc.open_stream
        return kind(self._open, options=options)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        reader = self._reader(self._included)
        of_file = (reader.get_batch(i) for i in range(reader.num_record_batches)) if self._is_file else None
        for i, batch in enumerate(of_file if of_file is not None else reader):
            yield validate_arrow(batch, where=f"{self._url}: record batch {i}", error=SourceError)

    def batch_bytes(self) -> list[int]:
        """Bytes of each record batch's text."""
        with self._damage():
            return [batch.select(self._rows.text_columns).nbytes for batch in self._batches()]

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Parsed]:
        """Texts of record batches [start, stop)."""
        row = 0
        with self._damage():
            batches = self._batches()
            for i in count():
                batch = timed_next(batches, self.stats)
                if batch is None:
                    break
                if stop is not None and i >= stop:
                    return
                if i >= start:
                    chosen = batch.select(self._rows.columns)
                    for at in range(0, batch.num_rows, ROWS_AT_ONCE):
                        part = chosen.slice(at, ROWS_AT_ONCE)
                        with self.stats.busy("parse"):
                            parsed = self._rows.parse(part, first_row=row + at)
                        yield parsed
                    self._stored += chosen.nbytes
                row += batch.num_rows
        self._ended = True

    def _damage(self, what: str = "data") -> AbstractContextManager[None]:
        return arrow_errors(f"{self._url}: damaged Arrow {what}", error=SourceError)

    def stored_position(self) -> int:
        """Stored bytes read so far, about."""
        return min(self._stored, self._nbytes)

    def close(self) -> None:
        """Close the file."""
        self._open.close()
        self._raw.close()


def timed_next(items: Iterator[_Item], stats: Stats) -> _Item | None:
    """The next item, its making counted as reading; None at the end."""
    with stats.busy("read"):
        return next(items, None)


def parse_batch(batch: pa.RecordBatch, *, url: str, fields: FieldOptions, first_row: int) -> Parsed:
    """Rows of a table -> texts; rejects name the row as offset (from 0) and line (from 1)."""
    column = column_of(batch, fields.text_field)
    values: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    parsed = Parsed(texts=[], nbytes=sum(len(v) for v in values if v is not None))
    good: list[int] = []
    clean = b"\n".join([v for v in values if v is not None]).isascii()
    for i, value in enumerate(values):
        if value is None:
            _reject(parsed, url, first_row + i, "no_text", f"the column {fields.text_field!r} is null here")
        elif not clean and (fault := utf8_fault(value)) is not None:
            detail = f"invalid UTF-8: byte 0x{value[fault]:02x} at byte {fault} of the text"
            _reject(parsed, url, first_row + i, "invalid_utf8", detail)
        elif len(value) > fields.max_document_bytes:
            _reject(parsed, url, first_row + i, "too_long", too_long(len(value), fields))
        elif value:
            parsed.add(value)
            good.append(i)
        else:
            parsed.empty += 1
    for name in fields.keep:
        kept = column_of(batch, name).to_pylist()
        parsed.meta[name] = [as_metadata(kept[i]) for i in good]
    return parsed


class TableRows:
    """Rows of one table -> texts: of its text column, or of the columns of a conversation or a pair."""

    def __init__(
        self, reader: ParquetGroups | ArrowBatches, url: str, schema: pa.Schema, fields: FieldOptions
    ) -> None:
        self._url, self._fields = url, fields
        self._renderer = RecordRenderer(fields)
        has_text = type_of(schema, fields.text_field) is not None
        names = [*schema.names, fields.text_field] if has_text else schema.names
        self._kind = self._renderer.kind_of_columns(names, where=url)
        self.text_columns = [split_name(schema.names, fields.text_field)[0]]
        """Columns that a text is made of."""
        if self._kind is not None:
            self.text_columns = [name for name in self._renderer.columns(self._kind) if name in schema.names]
            if fields.template is not None:
                self.text_columns = list(schema.names)  # a template may name any of them
        kept = [split_name(schema.names, name)[0] for name in fields.keep]
        self.columns = list(dict.fromkeys([*self.text_columns, *kept]))
        """Top-level columns that are read, each once."""
        needed = [fields.text_field] if self._kind is None else self.text_columns
        _check_columns(reader, url, schema, fields, [*needed, *fields.keep], is_text=self._kind is None)

    def parse(self, batch: pa.RecordBatch, *, first_row: int) -> Parsed:
        """Rows -> texts; rejects name the row as offset (from 0) and line (from 1)."""
        if self._kind is None:
            return parse_batch(batch, url=self._url, fields=self._fields, first_row=first_row)
        parsed = Parsed(texts=[], nbytes=batch.nbytes)
        good: list[int] = []
        for i, record in enumerate(batch.to_pylist()):
            rendered = self._renderer.render(record)
            if isinstance(rendered, Fault):
                _reject(parsed, self._url, first_row + i, rendered.reason, rendered.detail)
            elif not rendered[0]:
                parsed.empty += 1
            else:
                parsed.add(rendered[0], marks=rendered[1])
                good.append(i)
        for name in self._fields.keep:
            kept = column_of(batch, name).to_pylist()
            parsed.meta[name] = [as_metadata(kept[i]) for i in good]
        return parsed


def _reject(parsed: Parsed, url: str, row: int, reason: str, detail: str) -> None:
    parsed.rejects.append(Reject(source=url, offset=row, line=row + 1, reason=reason, detail=detail))


def _check_columns(
    reader: ParquetGroups | ArrowBatches,
    url: str,
    schema: pa.Schema,
    fields: FieldOptions,
    columns: Sequence[str],
    *,
    is_text: bool,
) -> None:
    """Close the reader and raise, where a column is missing or the text is no text."""
    for name in columns:
        top, _ = split_name(schema.names, name)
        if schema.names.count(top) > 1:
            reader.close()
            raise SourceError(f"{url}: {schema.names.count(top)} columns are named {top!r}; expected one")
        if type_of(schema, name) is None:
            reader.close()
            inside = f" inside the column {top!r} ({schema.field(top).type})" if top in schema.names else ""
            raise SourceError(
                f"{url}: no column {name!r}{inside}; the columns are: "
                f"{', '.join(schema.names) or 'none'}. Name the right one with "
                + ("text_field (--text-field)" if name == fields.text_field else "keep (--keep)")
            )
    if not is_text:
        return
    kind: Any = type_of(schema, fields.text_field)
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind not in (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()):
        reader.close()
        raise SourceError(f"{url}: the column {fields.text_field!r} is {kind}; expected a string")
