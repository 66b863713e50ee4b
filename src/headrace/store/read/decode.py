"""A block's stored bytes -> its tokens, checked and decoded; a block's number -> its shard."""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash

from headrace.errors import ShardError
from headrace.store.codec import DecodeError, convert_ids, decode_into
from headrace.store.format import CODECS
from headrace.store.index import BlockIndex, check_block
from headrace.store.read.source import ShardSource
from headrace.types import Bytes


def locate_block(source: ShardSource, block: int) -> tuple[int, int]:
    """Number of a block in the store -> its shard, and its number inside the shard."""
    shard = int(source.block_starts.searchsorted(block, "right")) - 1
    return shard, block - int(source.block_starts[shard])


def decode_block(
    source: ShardSource,
    shard: int,
    inside: int,
    index: BlockIndex,
    stored: Bytes,
    out: memoryview,
    *,
    dtype: np.dtype[Any],
    verify: bool,
) -> None:
    """Check and decode one block into the beginning of `out`, followed by the next block's first token.

    `out` holds block_tokens + 1 tokens at least.

    Raises:
        ShardError: the stored bytes are not those that were written, or do not decode to the block.
    """
    if verify and xxhash.xxh3_64_intdigest(stored) != int(index.xxh3[inside]):
        check_block(stored, index, inside, source.entry(shard), url=source.blob.url)
    itemsize = dtype.itemsize
    tokens = int(source.token_starts[shard + 1] - source.token_starts[shard])
    count = min(source.block_tokens, tokens - inside * source.block_tokens)
    codec = CODECS[source.codecs[shard]]
    where = f"{source.blob.url}/{source.path(shard)}: block {inside} of {len(index.offset)}"
    try:
        if source.stored_dtype == dtype:
            decode_into(stored, codec, out[: count * itemsize])
        else:
            convert_ids(stored, source.stored_dtype, np.frombuffer(out, dtype, count))
    except DecodeError as error:
        raise ShardError(
            f"{where}: {codec} data {error}. Damaged or forged: restore the file, or write the shard again."
        ) from error
    if int(np.frombuffer(out, dtype, 1)[0]) != int(index.first[inside]):
        raise ShardError(
            f"{where}: begins with another token than the index says, {index.first[inside]}. "
            "Forged: write the shard again."
        )
    if inside + 1 < len(index.first):
        out[count * itemsize : (count + 1) * itemsize] = index.first[inside + 1].tobytes()[:itemsize]
