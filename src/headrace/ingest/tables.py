"""Parquet and Arrow files -> texts, a batch at a time; a range is a range of row groups or record batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.errors import SourceError
from headrace.ingest.document import Parsed, Reject
from headrace.ingest.fields import Fields, as_metadata, too_long, utf8_fault
from headrace.ingest.open import open_raw

ROWS_AT_ONCE = 4096


class ParquetGroups:
    """Row groups of a Parquet file."""

    def __init__(self, url: str, fields: Fields) -> None:
        self._url = url
        self._fields = fields
        self._raw = open_raw(url)
        try:
            self._file = pq.ParquetFile(self._raw)
        except (pa.ArrowException, OSError) as error:
            self._raw.close()
            raise SourceError(f"{url}: damaged Parquet file: {error}. Fetch it again") from error
        _check_columns(url, self._file.schema_arrow, fields)
        self._stored = 0
        self._ended = False

    @property
    def at_end(self) -> bool:
        """Was the last row group read?"""
        return self._ended

    def group_bytes(self) -> list[tuple[int, int]]:
        """Bytes of each row group's text: (unpacked, stored)."""
        meta = self._file.metadata
        wanted = {self._fields.text.partition(".")[0], *self._fields.keep}
        sizes = []
        for i in range(meta.num_row_groups):
            group = meta.row_group(i)
            columns = [group.column(j) for j in range(group.num_columns)]
            columns = [c for c in columns if c.path_in_schema.partition(".")[0] in wanted]
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
        row = sum(meta.row_group(i).num_rows for i in range(start))
        columns = list(dict.fromkeys([self._fields.text, *self._fields.keep]))
        sizes = self.group_bytes()
        for group in range(start, stop):
            try:
                for batch in self._file.iter_batches(
                    batch_size=ROWS_AT_ONCE, row_groups=[group], columns=columns, use_threads=False
                ):
                    yield parse_batch(batch, url=self._url, fields=self._fields, first_row=row)
                    row += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise SourceError(
                    f"{self._url}: damaged Parquet row group {group} of {meta.num_row_groups}: {error}. "
                    f"Fetch it again"
                ) from error
            self._stored += sizes[group][1]
        self._ended = stop == meta.num_row_groups

    def stored_position(self) -> int:
        """Stored bytes read so far."""
        return self._stored

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()


class ArrowBatches:
    """Record batches of an Arrow file (Feather 2), or of an Arrow stream as Hugging Face datasets writes."""

    def __init__(self, url: str, fields: Fields) -> None:
        self._url = url
        self._fields = fields
        self._raw = open_raw(url)
        self._nbytes = self._raw.seek(0, 2)
        self._raw.seek(0)
        self._stored = 0
        self._ended = False
        try:
            head = self._raw.read(6) or b""
            self._raw.seek(0)
            self._is_file = head == b"ARROW1"
            # A local file is mapped: batches that are passed over are not read.
            self._open: Any = pa.memory_map(url) if "://" not in url else pa.PythonFile(self._raw, mode="r")
            self._file: Any = (
                pa.ipc.open_file(self._open) if self._is_file else pa.ipc.open_stream(self._open)
            )
        except (pa.ArrowException, OSError) as error:
            self._raw.close()
            raise SourceError(f"{url}: damaged Arrow file: {error}. Fetch it again") from error
        _check_columns(url, self._file.schema, fields)

    @property
    def at_end(self) -> bool:
        """Was the last batch read?"""
        return self._ended

    def _batches(self) -> Iterator[pa.RecordBatch]:
        if self._is_file:
            for i in range(self._file.num_record_batches):
                yield self._file.get_batch(i)
        else:
            yield from self._file

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Parsed]:
        """Texts of record batches [start, stop)."""
        row = 0
        columns = list(dict.fromkeys([self._fields.text, *self._fields.keep]))
        try:
            for i, batch in enumerate(self._batches()):
                if stop is not None and i >= stop:
                    return
                if i >= start:
                    wanted = batch.select(columns)
                    for at in range(0, batch.num_rows, ROWS_AT_ONCE):
                        part = wanted.slice(at, ROWS_AT_ONCE)
                        yield parse_batch(part, url=self._url, fields=self._fields, first_row=row + at)
                row += batch.num_rows
                self._stored = min(self._nbytes, self._open.tell() if not self._is_file else self._nbytes)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                f"{self._url}: damaged Arrow data at row {row}: {error}. Fetch it again"
            ) from error
        self._ended = True
        self._stored = self._nbytes

    def stored_position(self) -> int:
        """Stored bytes read so far."""
        return self._stored

    def close(self) -> None:
        """Close the file."""
        self._open.close()
        self._raw.close()


def parse_batch(batch: pa.RecordBatch, *, url: str, fields: Fields, first_row: int) -> Parsed:
    """Rows of a table -> texts; rejects name the row as offset (from 0) and line (from 1)."""
    column = batch.column(batch.schema.get_field_index(fields.text))
    values: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    parsed = Parsed(texts=[], nbytes=sum(len(v) for v in values if v is not None))
    good: list[int] = []
    clean = b"\n".join([v for v in values if v is not None]).isascii()
    for i, value in enumerate(values):
        if value is None:
            _reject(parsed, url, first_row + i, "no_text", f"the column {fields.text!r} is null here")
        elif not clean and (fault := utf8_fault(value)) is not None:
            detail = f"invalid UTF-8: byte 0x{value[fault]:02x} at byte {fault} of the text"
            _reject(parsed, url, first_row + i, "invalid_utf8", detail)
        elif len(value) > fields.max_bytes:
            _reject(parsed, url, first_row + i, "too_long", too_long(len(value), fields))
        elif value:
            parsed.texts.append(value)
            good.append(i)
        else:
            parsed.empty += 1
    for name in fields.keep:
        kept = batch.column(batch.schema.get_field_index(name)).to_pylist()
        parsed.meta[name] = [as_metadata(kept[i]) for i in good]
    return parsed


def _reject(parsed: Parsed, url: str, row: int, reason: str, detail: str) -> None:
    parsed.rejects.append(Reject(source=url, offset=row, line=row + 1, reason=reason, detail=detail))


def _check_columns(url: str, schema: pa.Schema, fields: Fields) -> None:
    for name in (fields.text, *fields.keep):
        if name not in schema.names:
            raise SourceError(
                f"{url}: no column {name!r}; the columns are: {', '.join(schema.names) or 'none'}. "
                f"Name the right one with text_field"
            )
    kind = schema.field(fields.text).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_bytes(kind)):
        raise SourceError(f"{url}: the column {fields.text!r} is {kind}; wanted a string")


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return bool(pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_string_view(kind))
