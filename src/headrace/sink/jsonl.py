"""A part's rows <-> JSON lines in one zstd frame with a checksum."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import orjson
import pyarrow as pa
import zstandard

from headrace.sink.schema import BATCH_ROWS, SCHEMA

SUFFIX = ".jsonl.zst"


def encode(batches: Iterable[pa.RecordBatch]) -> pa.Buffer:
    """One JSON object a line, in the batches' order."""
    lines = b"".join(
        orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for batch in batches for row in batch.to_pylist()
    )
    return pa.py_buffer(zstandard.ZstdCompressor(level=3, write_checksum=True).compress(lines))


def decode(
    data: bytes | pa.Buffer, *, columns: list[str] | None = None, rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Batches of the file's rows, `rows` each, in the one schema."""
    schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
    lines = []
    with zstandard.ZstdDecompressor().stream_reader(pa.BufferReader(data)) as stream:
        for line in io.BufferedReader(stream):
            lines.append(orjson.loads(line))
            if len(lines) == rows:
                yield pa.RecordBatch.from_pylist(lines, schema=schema)
                lines = []
    if lines:
        yield pa.RecordBatch.from_pylist(lines, schema=schema)
