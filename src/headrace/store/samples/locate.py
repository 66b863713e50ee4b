"""Row numbers -> the blocks that they are in, read, and their places inside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.errors import OrderError
from headrace.store.samples.blocks import BlockReader
from headrace.store.samples.columns import Column
from headrace.store.samples.table import SampleTable


def locate_rows(
    rows: NDArray[np.int64], table: SampleTable, reader: BlockReader
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Block of each row, and the row's number inside it; int64 [N] each.

    Raises:
        OrderError: no such row.
        ShardError: a shard's index is damaged or missing.
    """
    num_rows = int(table.row_starts[-1])
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < num_rows:
        raise OrderError(f"{reader.url}: rows {rows.min()} to {rows.max()}, the store has {num_rows}")
    shards = np.searchsorted(table.row_starts, rows, "right") - 1
    distinct = np.unique(shards).tolist()
    reader.load_indexes(distinct)
    blocks, inside = np.empty_like(rows), rows - table.row_starts[shards]
    for shard in distinct:
        chosen = shards == shard
        starts = reader.index(shard).row_starts
        number = np.searchsorted(starts, inside[chosen], "right") - 1
        blocks[chosen] = number + table.block_starts[shard]
        inside[chosen] -= starts[number]
    return blocks, inside


def read_blocks_of(
    rows: NDArray[np.int64], table: SampleTable, reader: BlockReader
) -> tuple[list[tuple[dict[str, Column], NDArray[np.int64]]], NDArray[np.int64]]:
    """For each block its columns and the rows inside it; and the place in `rows` of each of those, in order.

    Raises:
        OrderError: no such row.
        ShardError: a block is damaged or missing.
    """
    if not len(rows):
        return [], rows
    numbers, inside = locate_rows(rows, table, reader)
    places = np.argsort(numbers, kind="stable")
    distinct, firsts = np.unique(numbers[places], return_index=True)
    blocks = reader.get(distinct.tolist())
    parts = np.split(inside[places], firsts[1:])
    return [
        (blocks[number].columns, part) for number, part in zip(distinct.tolist(), parts, strict=True)
    ], places
