"""A shard's index file -> the position, rows and checksum of each of its blocks, checked before any is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ShardError
from headrace.storage import Blob
from headrace.store.arrow.reader import ArrowFileError, read_numbers
from headrace.store.arrow.writer import Field
from headrace.store.format import index_path
from headrace.store.index import read_checked
from headrace.store.samples.table import SampleShardEntry, starts_of

INDEX_FIELDS: Final = (
    Field("offset", "uint64"),
    Field("nbytes", "uint32"),
    Field("rows", "uint32"),
    Field("xxh3", "uint64"),
)
_ROW_NBYTES: Final = 24
_FRAME_NBYTES: Final = 8192
"""Upper bound on magic, schema, batch, footer and padding of a file of these columns."""


@dataclass(frozen=True, slots=True)
class SampleIndex:
    """Positions, lengths, rows and checksums of a shard's blocks in its data file."""

    offset: NDArray[np.uint64]
    nbytes: NDArray[np.uint32]
    xxh3: NDArray[np.uint64]
    row_starts: NDArray[np.int64]
    """int64 [blocks + 1]: rows of the shard before each block."""


def load_sample_index(blob: Blob, entry: SampleShardEntry) -> SampleIndex:
    """Read and check a shard's index.

    Raises:
        ShardError: missing, damaged, or with blocks that overlap, leave the file, or do not fit the shard.
    """
    where = f"{blob.url}/{index_path(entry.name)}"
    least = _ROW_NBYTES * entry.blocks
    if not least <= entry.index_nbytes <= least + _FRAME_NBYTES:
        raise ShardError(
            f"{where}: the shard table says {entry.index_nbytes} bytes, {entry.blocks} blocks take {least} to "
            f"{least + _FRAME_NBYTES}. The table is forged."
        )
    data = read_checked(blob, index_path(entry.name), entry.index_nbytes, entry.index_xxh3)
    try:
        columns = read_numbers(data, INDEX_FIELDS, entry.blocks)
    except ArrowFileError as error:
        raise ShardError(f"{where}: not a block index: {error}") from error
    offset, nbytes = columns["offset"].astype(np.uint64), columns["nbytes"].astype(np.uint32)
    row_starts = starts_of(columns["rows"].astype(np.int64))
    fault = None
    if len(offset) != entry.blocks:
        fault = f"{len(offset)} blocks, the shard table says {entry.blocks}"
    elif int(columns["rows"].min()) < 1 or int(row_starts[-1]) != entry.rows:
        fault = f"blocks of {row_starts[-1]} rows in all, the shard table says {entry.rows}"
    elif int(offset.max()) > entry.data_nbytes or int(offset[-1] + nbytes[-1]) > entry.data_nbytes:
        fault = f"a block ends behind the data file's {entry.data_nbytes} bytes"
    elif bool((offset[:-1] + nbytes[:-1] > offset[1:]).any()):
        fault = "two blocks overlap"
    elif bool((offset % 8).any()):
        fault = "a block does not begin at a multiple of 8 bytes"
    if fault is not None:
        raise ShardError(
            f"{where}: {fault}. The index is forged, or of another shard: write the shard again."
        )
    return SampleIndex(offset, nbytes, columns["xxh3"].astype(np.uint64), row_starts)
