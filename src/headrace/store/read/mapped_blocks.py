"""Shards on a local disk -> their blocks: mapped, each checked before its bytes are first used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from headrace.errors import ShardError
from headrace.native import Rows
from headrace.stats import Stats
from headrace.storage import LocalBlob
from headrace.store.format import CODECS
from headrace.store.index import BlockIndex, check_block
from headrace.store.read.block_cache import Done
from headrace.store.read.decode import decode_block, locate_block
from headrace.store.read.mapped import MappedFiles, reserved
from headrace.store.read.source import ShardSource
from headrace.types import Bytes

NOT_READY: Final = 1 << 62
"""Added to any start >= 0 it is an index of no array, whether or not the sum overflows; less it, to one < 0."""
_UNCOMPRESSED: Final = CODECS.index("none")


class MappedBlocks:
    """Blocks of shards whose files can be mapped; read from the files where they are too many to map."""

    def __init__(
        self, source: ShardSource, blob: LocalBlob, dtype: np.dtype[Any], *, verify: bool, stats: Stats
    ) -> None:
        self._source = source
        self._stats = stats
        self._blob = blob
        self._dtype = dtype
        self._verify = verify and source.has_checksums
        sizes = np.asarray(source.data_nbytes)
        shards = len(sizes)
        # A forged size must not reserve more addresses than the tokens could ever need.
        tokens, counts = np.diff(source.token_starts), np.diff(source.block_starts)
        most = tokens * source.stored_dtype.itemsize + 8 * counts
        slack = 4096 + 4096 * counts
        if (wrong := np.flatnonzero(sizes.astype(np.float64) > most.astype(np.float64) + slack)).size:
            shard = int(wrong[0])
            raise ShardError(
                f"{blob.url}/{source.path(shard)}: the shard table says {sizes[shard]} bytes for "
                f"{int(tokens[shard])} tokens. The table is forged."
            )
        self._files: MappedFiles | None = None
        try:
            self._files = MappedFiles(sizes.astype(np.int64))
        except (OSError, OverflowError, ValueError):
            self._files = None  # more than can be addressed or mapped: blocks are read instead
        direct = self._files is not None and source.stored_dtype == dtype
        self.direct: NDArray[np.bool_] = (np.asarray(source.codecs) == _UNCOMPRESSED) & direct
        """bool [shards]: rows can be gathered from the mapping itself."""
        self.shift: NDArray[np.int64] = np.full(shards, NOT_READY)
        """int64 [shards]: from a token's position in the store to its address in the mapping; NOT_READY before."""
        self.ready: NDArray[np.bool_] = np.zeros(shards, bool)
        """bool [shards]: mapped, and every block checked."""
        blocks = int(source.block_starts[-1])
        self.checked: NDArray[np.bool_] = reserved(
            blocks if self._verify and self.direct.any() else 0, np.bool_
        )
        """bool [blocks]: checked since the store was opened."""

    def rows(self, length: int) -> Rows:
        """See `MappedFiles.rows`; none where nothing can be mapped."""
        if self._files is None:
            return Rows(b"", tokens=0, length=length, dtype=self._dtype)
        return self._files.rows(length, self._dtype)

    def tokens(self, shard: int, start: int, stop: int) -> NDArray[Any]:
        """Tokens [start, stop) of an open uncompressed shard, not copied."""
        assert self._files is not None
        body, size = int(self._source.index(shard).offset[0]), self._dtype.itemsize
        return np.frombuffer(self._files.bytes(shard, body + start * size, body + stop * size), self._dtype)

    def open_direct(self, shard: int) -> None:
        """Map an uncompressed shard.

        Raises:
            ShardError: its file or index is missing or damaged.
        """
        assert self._files is not None
        if self.shift[shard] != NOT_READY:
            return
        source = self._source
        body = int(source.index(shard).offset[0])
        self._map(shard)
        itemsize = self._dtype.itemsize
        address = (int(self._files.starts[shard]) + body) // itemsize
        self.shift[shard] = address - int(source.token_starts[shard])
        if not self._verify:
            self.ready[shard] = True

    def check(self, shard: int, first: int, last: int) -> None:
        """Check those of the blocks [first, last] of an open uncompressed shard that were not checked yet.

        Raises:
            ShardError: a block's bytes are not those that were written.
        """
        if not self._verify or self.ready[shard]:
            return
        base = int(self._source.block_starts[shard])
        self._check(shard, base, range(first, last + 1))
        blocks = int(self._source.block_starts[shard + 1]) - base
        left = blocks - int(np.count_nonzero(self.checked[base : base + blocks]))
        # Half of it has been read in single blocks: the rest is checked at once, and the shard is ready.
        if 0 < left <= blocks // 2:
            self._check(shard, base, range(blocks))
            left = 0
        if left == 0:
            self.ready[shard] = True

    def _check(self, shard: int, base: int, blocks: range) -> None:
        assert self._files is not None
        index = self._source.index(shard)
        for block in blocks:
            if self.checked[base + block]:
                continue
            start = int(index.offset[block])
            stored = self._files.bytes(shard, start, start + int(index.nbytes[block]))
            if xxhash.xxh3_64_intdigest(stored) != int(index.xxh3[block]):
                check_block(stored, index, block, self._source.entry(shard), url=self._blob.url)
            self.checked[base + block] = True

    def load(self, blocks: Sequence[int], outs: Sequence[memoryview], done: Done) -> None:
        """Decode blocks of the store, one after the other, in this thread; see `block_cache.Load`."""
        for block, out in zip(blocks, outs, strict=True):
            try:
                self.decode(block, out)
            except Exception as error:  # noqa: BLE001  # raised in the threads that wait for the block
                done(block, error)
            else:
                done(block, None)

    def decode(self, block: int, out: memoryview) -> None:
        """Check and decode one block of the store into the beginning of `out`.

        Raises:
            ShardError: it is damaged.
        """
        source = self._source
        shard, inside = locate_block(source, block)
        index = source.index(shard)
        stored = self._stored(shard, index, inside)
        began = time.perf_counter()
        decode_block(source, shard, inside, index, stored, out, dtype=self._dtype, verify=self._verify)
        self._stats.add("decode", items=1, nbytes=len(out), busy_s=time.perf_counter() - began)

    def close(self) -> None:
        """Do nothing: the files are unmapped with the last array on them."""

    def _stored(self, shard: int, index: BlockIndex, inside: int) -> Bytes:
        start = int(index.offset[inside])
        stop = start + int(index.nbytes[inside])
        if self._files is None:
            path = self._source.path(shard)
            try:
                return self._blob.get_range(path, start, stop)
            except FileNotFoundError as error:
                raise ShardError(
                    f"{self._blob.url}/{path}: missing, and the shard table names it. Restore it, or write the "
                    "shard again."
                ) from error
        self._map(shard)
        return self._files.bytes(shard, start, stop)

    def _map(self, shard: int) -> None:
        assert self._files is not None
        if not self._files.is_mapped(shard):
            self._files.map(shard, self._blob, self._source.path(shard))
