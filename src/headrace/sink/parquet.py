"""A part's rows <-> one Parquet file, zstd, in memory on its way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.sink.schema import BATCH_ROWS, SCHEMA

SUFFIX = ".parquet"


def encode(batches: Iterable[pa.RecordBatch]) -> pa.Buffer:
    """The whole file: a part is bounded, so a killed writer can leave no unreadable half (arrow #42729)."""
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(out, SCHEMA, compression="zstd", compression_level=3) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return out.getvalue()


def decode(
    data: bytes | pa.Buffer, *, columns: list[str] | None = None, rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Batches of the file's rows, `rows` each."""
    file = pq.ParquetFile(pa.BufferReader(data))
    yield from file.iter_batches(batch_size=rows, columns=columns)
