"""Columns of rows -> a shard's two files, and its entry of the shard table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from headrace.errors import ConfigError
from headrace.storage import Blob, open_blob
from headrace.store.arrow import writer
from headrace.store.format import CODECS, check_shard_name, data_path, index_path
from headrace.store.samples.block import buffers_of, encode_block
from headrace.store.samples.columns import (
    MAX_BLOCK_BYTES,
    Columns,
    check_columns,
    row_nbytes,
    slice_columns,
)
from headrace.store.samples.features import Features, arrow_field, check_features
from headrace.store.samples.index import INDEX_FIELDS
from headrace.store.samples.table import SampleShardEntry
from headrace.types import Bytes

BLOCK_BYTES: Final = 256 << 10
"""Bytes of rows after which a block is closed: two to four photos, or thousands of numbers. A block is read and checked
as a whole, and 256 KiB take 20 us to check."""
MAX_BLOCK_ROWS: Final = 1 << 20


def write_sample_shard(
    store_url: str | os.PathLike[str] | Blob,
    name: str,
    columns: Columns,
    features: Features,
    *,
    codec: str = "none",
    block_bytes: int = BLOCK_BYTES,
) -> SampleShardEntry:
    """Write a shard's files; `commit_samples` makes them part of a store.

    The bytes are the same for the same arguments. A shard of the same name is replaced.

    Args:
        store_url: the store's path or URL, or an open blob.
        name: letters, digits, '.', '_', '-'; unique in the store.
        columns: one for each feature, in their order, 1 row or more; see `columns_of_rows`.
        features: types of the columns; the same in all shards of a store.
        codec: none (mapped and read in place; JPEG and PNG are compressed already) | lz4 | zstd.
        block_bytes: a block is closed before the row that would make it longer; it has one row at least.

    Returns:
        The entry to pass to `commit_samples`.

    Raises:
        ConfigError: an argument is out of range.
        SpaceError: the device is full; shards that were complete stay complete.
    """
    where = f"{store_url if isinstance(store_url, str | os.PathLike) else store_url.url}: shard {name}"
    check_shard_name(name, where=where)
    features = check_features(features)
    rows = check_columns(columns, features, where=where)
    if rows == 0:
        raise ConfigError(f"{where}: no rows; a shard has one at least")
    if codec not in CODECS:
        raise ConfigError(f"{where}: codec {codec!r}, expected one of {', '.join(CODECS)}")
    if not 1 <= block_bytes < MAX_BLOCK_BYTES:
        raise ConfigError(f"{where}: block_bytes {block_bytes}, expected 1 to {MAX_BLOCK_BYTES - 1}")
    blob = open_blob(store_url) if isinstance(store_url, str | os.PathLike) else store_url

    fields = tuple(arrow_field(name, feature) for name, feature in features.items())
    parts: list[Bytes] = [writer.head(fields)]
    at = len(parts[0])
    content = xxhash.xxh3_128()
    locations, hashes, counts = [], [], []
    for start, stop in _blocks(row_nbytes(columns), block_bytes, where=where):
        nodes, buffers = buffers_of(slice_columns(columns, start, stop), features)
        for buffer in buffers:
            content.update(len(buffer).to_bytes(8, "little"))
            content.update(buffer)
        pieces = encode_block(nodes, buffers, rows=stop - start, codec=codec, at=at)
        nbytes = sum(map(len, pieces))
        locations.append(writer.BatchLocation(at, len(pieces[0]), nbytes - len(pieces[0])))
        hashes.append(_hash(pieces))
        counts.append(stop - start)
        parts += pieces
        at += nbytes
    parts.append(writer.tail(fields, locations))
    index = _index_file(locations, counts, hashes)
    entry = SampleShardEntry(
        name=name,
        rows=rows,
        blocks=len(counts),
        codec=codec,
        data_nbytes=sum(map(len, parts)),
        data_xxh3=_hash(parts),
        index_nbytes=len(index),
        index_xxh3=xxhash.xxh3_64_intdigest(index),
        content=content.hexdigest(),
    )
    blob.put(data_path(name), parts)
    blob.put(index_path(name), index)
    return entry


def _blocks(nbytes: NDArray[np.int64], block_bytes: int, *, where: str) -> Iterator[tuple[int, int]]:
    """First and last row + 1 of each block."""
    ends = np.cumsum(nbytes)
    start, rows = 0, len(nbytes)
    while start < rows:
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + block_bytes, "right"))
        stop = min(max(stop, start + 1), start + MAX_BLOCK_ROWS)
        if int(ends[stop - 1]) - before >= MAX_BLOCK_BYTES:
            raise ConfigError(f"{where}: row {start} has {nbytes[start]} bytes, expected less than 2**31")
        yield start, stop
        start = stop


def _index_file(locations: list[writer.BatchLocation], counts: list[int], hashes: list[int]) -> bytes:
    values: tuple[NDArray[Any], ...] = (
        np.array([location.offset for location in locations], np.uint64),
        np.array([location.metadata_nbytes + location.body_nbytes for location in locations], np.uint32),
        np.array(counts, np.uint32),
        np.array(hashes, np.uint64),
    )
    return writer.table_bytes(
        {field.name: (field.type, value) for field, value in zip(INDEX_FIELDS, values, strict=True)}
    )


def _hash(parts: list[Bytes]) -> int:
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    return int(digest.intdigest())
