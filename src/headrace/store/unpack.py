"""A block's stored bytes -> its tokens, checked; and where in the source those bytes stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash

from headrace.errors import ShardError
from headrace.store.codec import DecodeError, decode_into
from headrace.store.format import CODECS
from headrace.store.index import BlockIndex, check_block
from headrace.store.source import Source
from headrace.types import Bytes


def locate(source: Source, block: int) -> tuple[int, int]:
    """Number of a block in the store -> its shard, and its number inside the shard."""
    shard = int(source.block_starts.searchsorted(block, "right")) - 1
    return shard, block - int(source.block_starts[shard])


def unpack(
    source: Source,
    shard: int,
    inside: int,
    index: BlockIndex,
    stored: Bytes,
    out: memoryview,
    *,
    dtype: np.dtype[Any],
    verify: bool,
) -> None:
    """Check and decode one block into the beginning of `out`, and after it the next block's first token.

    `out` has room for block_tokens + 1 tokens at least.

    Raises:
        ShardError: the stored bytes are not those that were written, or do not decode to the block.
    """
    if verify and xxhash.xxh3_64_intdigest(stored) != int(index.xxh3[inside]):
        check_block(stored, index, inside, source.entry(shard), url=source.blob.url)
    itemsize = dtype.itemsize
    tokens = int(source.token_starts[shard + 1] - source.token_starts[shard])
    count = min(source.block_tokens, tokens - inside * source.block_tokens)
    codec = CODECS[source.codecs[shard]]
    try:
        decode_into(stored, codec, out[: count * itemsize])
    except DecodeError as error:
        raise ShardError(
            f"{source.blob.url}/{source.path(shard)}: block {inside} of {len(index.offset)}: {codec} data {error}. "
            "Damaged or forged: restore the file, or write the shard again."
        ) from error
    if int(np.frombuffer(out, dtype, 1)[0]) != int(index.first[inside]):
        raise ShardError(
            f"{source.blob.url}/{source.path(shard)}: block {inside} of {len(index.offset)} begins with another token "
            f"than the index says, {index.first[inside]}. Forged: write the shard again."
        )
    if inside + 1 < len(index.first):
        out[count * itemsize : (count + 1) * itemsize] = index.first[inside + 1].tobytes()[:itemsize]
