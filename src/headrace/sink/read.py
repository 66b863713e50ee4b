"""A job's output -> its committed rows, as Arrow."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import ConfigError
from headrace.paths import local_path
from headrace.sink import database, remote
from headrace.sink.part import Part, decode_part
from headrace.sink.remote import is_url
from headrace.sink.schema import SCHEMA

KEY = ["prompt_id", "sample_index"]
HELD_ROWS = 256
"""Rows held of each part that is being merged."""


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
    """Everything committed at the time of the call, in batches.

    Memory: a row group of a part; sorted, a small batch of each part whose keys overlap.
    """
    names = SCHEMA.names if columns is None else list(columns)
    for name in names:
        if name not in SCHEMA.names:
            raise ConfigError(f"predictions: no column named {name!r}; there are {', '.join(SCHEMA.names)}.")
    parts = committed_parts(out, first_ids=sort)
    schema = pa.schema([SCHEMA.field(name) for name in names], metadata=SCHEMA.metadata)
    columns_read = list(dict.fromkeys([*names, *KEY]))
    in_order = (batch for part in parts for batch in decode_part(part, columns=columns_read))
    batches = _merged(parts, columns_read) if sort else in_order
    return pa.RecordBatchReader.from_batches(
        schema, (batch.select(names).replace_schema_metadata(schema.metadata) for batch in batches)
    )


def count_predictions(out: str | os.PathLike[str]) -> tuple[int, int]:
    """Committed rows, and errors among them.

    Raises:
        SinkError: not a job's output.
    """
    return (
        remote.read_counts(os.fspath(out))
        if is_url(out)
        else database.read_counts(local_path(out, name="predictions"))
    )


def committed_parts(out: str | os.PathLike[str], *, first_ids: bool = False) -> list[Part]:
    """The committed parts, in their order.

    Args:
        out: the job's output.
        first_ids: find each part's smallest id.

    Raises:
        SinkError: not a job's output.
    """
    return (
        remote.read_parts(os.fspath(out))
        if is_url(out)
        else database.read_parts(local_path(out, name="predictions"), first_ids=first_ids)
    )


def _merged(parts: list[Part], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Merge the rows of all parts by key; each part is sorted.

    A part is opened when all rows with smaller keys have been given. One small batch is held of each open part.
    """
    ahead = sorted(parts, key=lambda part: part.first_id, reverse=True)
    held: list[_Held] = []
    while ahead or held:
        # All rows up to this key are held: no further row can have a smaller one.
        bound = min(one.last for one in held) if held else (ahead[-1].first_id, -1)
        opened = 0
        while ahead and (ahead[-1].first_id, -1) <= bound:
            batches = decode_part(ahead.pop(), columns=columns, batch_rows=HELD_ROWS)
            held += [one] if (one := _Held.next(batches)) is not None else []
            opened += 1
        if opened:
            continue
        yield _in_order(pa.Table.from_batches([one.take(bound) for one in held]))
        held = [one for old in held if (one := old if old.rows else _Held.next(old.batches)) is not None]


class _Held:
    """The batch that is held of one part."""

    def __init__(self, batch: pa.RecordBatch, batches: Iterator[pa.RecordBatch]) -> None:
        self._batch, self.batches = batch, batches
        ids, samples = (batch.column(name).to_pylist() for name in KEY)
        self._keys = list(zip(ids, samples, strict=True))

    @classmethod
    def next(cls, batches: Iterator[pa.RecordBatch]) -> Self | None:
        """The next batch that is not empty; None at the end."""
        batch = next((batch for batch in batches if batch.num_rows), None)
        return None if batch is None else cls(batch, batches)

    @property
    def rows(self) -> int:
        """Number of held rows."""
        return len(self._keys)

    @property
    def last(self) -> tuple[str, int]:
        """Key of the last held row."""
        return self._keys[-1]

    def take(self, bound: tuple[str, int]) -> pa.RecordBatch:
        """Remove and return the rows up to a key."""
        count = bisect_right(self._keys, bound)
        taken, self._batch = self._batch.slice(0, count), self._batch.slice(count)
        del self._keys[:count]
        return taken


def _in_order(table: pa.Table) -> pa.RecordBatch:
    """The rows of a table, sorted by key."""
    order = pc.sort_indices(table.select(KEY), sort_keys=[(name, "ascending") for name in KEY])
    (batch,) = table.take(order).combine_chunks().to_batches()
    return batch
