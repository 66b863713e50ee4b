"""A part's rows <-> one Parquet file, zstd, in memory on its way."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.sink.schema import SCHEMA

SUFFIX = ".parquet"
# Readers that merge sorted parts hold one row group of each part.
ROW_GROUP_ROWS = 1024


def encode(batch: pa.RecordBatch) -> pa.Buffer:
    """The whole file: a part is bounded, so a killed writer can leave no unreadable half (arrow #42729)."""
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(out, SCHEMA, compression="zstd", compression_level=3) as writer:
        writer.write_batch(batch, row_group_size=ROW_GROUP_ROWS)
    return out.getvalue()


def decode(data: bytes | pa.Buffer, *, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of the file's rows."""
    file = pq.ParquetFile(pa.BufferReader(data))
    yield from file.iter_batches(batch_size=ROW_GROUP_ROWS, columns=columns)
