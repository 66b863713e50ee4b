"""A part's rows <-> JSON lines in one zstd frame with a checksum."""

from __future__ import annotations

import io
from collections.abc import Iterator

import orjson
import pyarrow as pa
import zstandard

from headrace.sink.schema import SCHEMA

SUFFIX = ".jsonl.zst"
BATCH_ROWS = 1024


def encode(batch: pa.RecordBatch) -> pa.Buffer:
    """One JSON object a line, in the batch's order."""
    lines = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in batch.to_pylist())
    return pa.py_buffer(zstandard.ZstdCompressor(level=3, write_checksum=True).compress(lines))


def decode(data: bytes | pa.Buffer, *, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of the file's rows, in the one schema."""
    schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
    rows = []
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as stream:
        for line in io.BufferedReader(stream):
            rows.append(orjson.loads(line))
            if len(rows) == BATCH_ROWS:
                yield pa.RecordBatch.from_pylist(rows, schema=schema)
                rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=schema)
