"""A job's output -> its committed rows, as Arrow; rows that are not committed are not seen."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from headrace.errors import ConfigError
from headrace.sink import commit, remote
from headrace.sink.part import Part, decode_part
from headrace.sink.remote import is_url
from headrace.sink.schema import SCHEMA

KEY = ["prompt_id", "sample_index"]
MERGE_ROWS = 1024


def read_predictions(
    out: str | os.PathLike[str], *, columns: Sequence[str] | None = None, sort: bool = False
) -> pa.Table:
    """Everything committed so far, as one table; `scan_predictions` reads more than memory holds.

    Args:
        out: the job's output directory or URL; it may still be written.
        columns: names out of `headrace.sink.SCHEMA`, default all.
        sort: by prompt id, then sample index; default in the order of the parts.

    Raises:
        SinkError: not a job's output, or a part is missing or damaged.
        ConfigError: no such column.
    """
    return scan_predictions(out, columns=columns, sort=sort).read_all()


def scan_predictions(
    out: str | os.PathLike[str], *, columns: Sequence[str] | None = None, sort: bool = False
) -> pa.RecordBatchReader:
    """Everything committed at the time of the call, in batches: one part in memory, sorted all of them."""
    wanted = SCHEMA.names if columns is None else list(columns)
    for name in wanted:
        if name not in SCHEMA.names:
            raise ConfigError(f"predictions: no column named {name!r}; there are {', '.join(SCHEMA.names)}.")
    parts = committed_parts(out)
    schema = pa.schema([SCHEMA.field(name) for name in wanted], metadata=SCHEMA.metadata)
    needed = list(dict.fromkeys([*wanted, *KEY]))
    in_order = (batch for part in parts for batch in decode_part(part, columns=needed))
    batches = _merged(parts, needed) if sort else in_order
    return pa.RecordBatchReader.from_batches(
        schema, (batch.select(wanted).replace_schema_metadata(schema.metadata) for batch in batches)
    )


def count_predictions(out: str | os.PathLike[str]) -> tuple[int, int]:
    """Committed rows, and errors among them.

    Raises:
        SinkError: not a job's output.
    """
    return remote.read_counts(os.fspath(out)) if is_url(out) else commit.read_counts(Path(out))


def committed_parts(out: str | os.PathLike[str]) -> list[Part]:
    """The parts that the commits name, in their order.

    Raises:
        SinkError: not a job's output.
    """
    return remote.read_parts(os.fspath(out)) if is_url(out) else commit.read_parts(Path(out))


def _merged(parts: list[Part], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of all parts in the order of their keys; each part is sorted already."""

    def rows(part: Part) -> Iterator[tuple[str, int, pa.RecordBatch, int]]:
        for batch in decode_part(part, columns=columns):
            ids, samples = batch.column("prompt_id").to_pylist(), batch.column("sample_index").to_pylist()
            for i, key in enumerate(zip(ids, samples, strict=True)):
                yield *key, batch, i

    held: list[pa.RecordBatch] = []
    for _, _, batch, i in heapq.merge(*(rows(part) for part in parts), key=lambda row: row[:2]):
        held.append(batch.slice(i, 1))
        if len(held) == MERGE_ROWS:
            yield pa.concat_batches(held)
            held = []
    if held:
        yield pa.concat_batches(held)
