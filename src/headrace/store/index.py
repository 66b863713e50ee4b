"""A shard's index file -> the position of each of its blocks, checked before any of it is used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from headrace.errors import ShardError
from headrace.storage import Blob, read_verified
from headrace.store.arrow.reader import ArrowFileError, read_numbers
from headrace.store.codec import max_stored_nbytes
from headrace.store.format import INDEX_FIELDS, ShardEntry, data_path, docs_path, index_path, spans_path
from headrace.types import Bytes

# Upper bound on magic, schema, batch, footer and padding of a file of these columns.
_FRAME_NBYTES = 8192


@dataclass(frozen=True, slots=True)
class BlockIndex:
    """Positions, lengths and checksums of a shard's blocks in its data file."""

    offset: NDArray[np.uint64]
    nbytes: NDArray[np.uint32]
    xxh3: NDArray[np.uint64]
    first: NDArray[np.uint32]
    """Each block's first token: the lookahead of a row that ends with the block before."""


def load_index(blob: Blob, entry: ShardEntry) -> BlockIndex:
    """Read and check a shard's index.

    Raises:
        ShardError: missing, damaged, or with blocks that overlap, leave the file, or do not fit the shard.
    """
    where = f"{blob.url}/{index_path(entry.name)}"
    itemsize = int(entry.dtype == "uint32") * 2 + 2
    blocks = entry.num_blocks
    if not 28 * blocks <= entry.index_nbytes <= 28 * blocks + _FRAME_NBYTES:
        raise ShardError(
            f"{where}: the shard table says {entry.index_nbytes} bytes, {blocks} blocks take {28 * blocks} to "
            f"{28 * blocks + _FRAME_NBYTES}. The table is forged."
        )
    data = read_checked(blob, index_path(entry.name), entry.index_nbytes, entry.index_xxh3)
    try:
        columns = read_numbers(data, INDEX_FIELDS, blocks)
    except ArrowFileError as error:
        raise ShardError(f"{where}: not a block index: {error}") from error
    offset, nbytes = columns["offset"].astype(np.uint64), columns["nbytes"].astype(np.uint32)
    tokens, xxh3 = columns["tokens"].astype(np.int64), columns["xxh3"].astype(np.uint64)

    def invalid(what: str) -> ShardError:
        return ShardError(
            f"{where}: {what}. The index is forged, or of another shard: write the shard again."
        )

    if len(offset) != blocks:
        raise invalid(
            f"{len(offset)} blocks, {entry.tokens} tokens in blocks of {entry.block_tokens} make {blocks}"
        )
    counts = np.minimum(
        entry.block_tokens, entry.tokens - np.arange(blocks, dtype=np.int64) * entry.block_tokens
    )
    if (wrong := np.flatnonzero(tokens != counts)).size:
        i = int(wrong[0])
        raise invalid(f"block {i} of {blocks} has {tokens[i]} tokens, expected {counts[i]}")
    if int(offset.max()) > entry.data_nbytes:
        i = int(offset.argmax())
        raise invalid(
            f"block {i} of {blocks} begins at {offset[i]}, the data file has {entry.data_nbytes} bytes"
        )
    ends = offset + nbytes  # no overflow: offsets are below the file's size
    if (wrong := np.flatnonzero(ends[:-1] > offset[1:])).size:
        i = int(wrong[0])
        raise invalid(
            f"block {i} of {blocks} ends at {ends[i]}, block {i + 1} begins at {offset[i + 1]}: they overlap"
        )
    if int(ends[-1]) > entry.data_nbytes:
        raise invalid(
            f"block {blocks - 1} of {blocks} ends at {ends[-1]}, the data file has {entry.data_nbytes} bytes"
        )
    raw = counts * itemsize
    limit = np.array([max_stored_nbytes(int(n), entry.codec) for n in (raw[0], raw[-1])])
    if int(nbytes[0]) > limit[0] or int(nbytes.max()) > limit[0] or int(nbytes[-1]) > limit[1]:
        raise invalid(f"a block of {nbytes.max()} stored bytes, {entry.codec} takes at most {limit[0]}")
    if entry.codec == "none":
        contiguous = bool((nbytes == raw).all()) and bool((ends[:-1] == offset[1:]).all())
        if not contiguous or int(offset[0]) % itemsize:
            raise invalid(
                "blocks of an uncompressed shard must follow each other without a gap, aligned to a token"
            )
    return BlockIndex(offset, nbytes, xxh3, columns["first"].astype(np.uint32))


def load_docs(blob: Blob, entry: ShardEntry) -> Bytes:
    """Read a shard's document file and check its checksum.

    Raises:
        ShardError: missing or damaged.
    """
    return read_checked(blob, docs_path(entry.name), entry.docs_nbytes, entry.docs_xxh3)


def load_spans(blob: Blob, entry: ShardEntry) -> Bytes:
    """Read a shard's file of learned spans and check its checksum.

    Raises:
        ShardError: missing or damaged.
    """
    return read_checked(blob, spans_path(entry.name), entry.spans_nbytes, entry.spans_xxh3)


def read_checked(blob: Blob, path: str, nbytes: int, xxh3: int) -> Bytes:
    """Read a small file, whose length and checksum are in the shard table.

    Raises:
        ShardError: missing, or with other bytes.
    """
    return read_verified(blob, lambda: _read_checked(blob, path, nbytes, xxh3), ShardError)


def _read_checked(blob: Blob, path: str, nbytes: int, xxh3: int) -> Bytes:
    where = f"{blob.url}/{path}"
    try:
        data = blob.get_range(path, 0, nbytes + 1)
    except FileNotFoundError as error:
        raise ShardError(
            f"{where}: missing, and the shard table names it. Restore it, or write it again."
        ) from error
    if len(data) != nbytes:
        raise ShardError(
            f"{where}: {'more than ' if len(data) > nbytes else ''}{min(len(data), nbytes)} bytes, the shard table "
            f"says {nbytes}. Truncated or replaced: restore it, or write the shard again."
        )
    actual = xxhash.xxh3_64_intdigest(data)
    if actual != xxh3:
        raise ShardError(
            f"{where}: xxh3 0x{actual:016x}, the shard table says 0x{xxh3:016x}. "
            f"Damaged: restore it. All damage is listed by: headrace inspect --verify {blob.url}"
        )
    return data


def check_block(stored: Bytes, index: BlockIndex, block: int, entry: ShardEntry, *, url: str) -> None:
    """Check that a block's stored bytes are those that were written.

    Raises:
        ShardError: length or checksum differ.
    """
    actual, expected = xxhash.xxh3_64_intdigest(stored), int(index.xxh3[block])
    if actual != expected or len(stored) != int(index.nbytes[block]):
        raise ShardError(
            f"{url}/{data_path(entry.name)}: block {block} of {len(index.xxh3)} ({len(stored)} bytes at "
            f"{index.offset[block]}): xxh3 0x{actual:016x}, the index says 0x{expected:016x}. Damaged: restore the "
            f"file, or write the shard again. All damage is listed by: headrace inspect --verify {url}"
        )
