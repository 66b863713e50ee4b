"""Shards behind a URL -> their blocks: neighbouring ranges in one request, many requests under way.

How many requests are under way adapts to the remote (see `ConcurrencyLimit`). A block that arrives damaged is
requested again before it is called damaged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ShardError
from headrace.platform import available_cores
from headrace.stats import Stats
from headrace.storage import Blob, ConcurrencyLimit, DaemonPool, NodeCache, Retry, Unavailable, coalesce
from headrace.store.read.block_cache import Done
from headrace.store.read.decode import decode_block, locate_block
from headrace.store.read.source import ShardSource
from headrace.types import Bytes

_CACHED_GAP: Final = 1 << 10
_PLANNERS: Final = 4
MAX_TRIES_DAMAGED: Final = 3
BLOCK_KEY_FORMAT: Final = r"[0-9a-f]{16}-[0-9a-f]{16}-[0-9a-f]+"
"""Regular expression of a block's key in the node cache: its shard's content hash and checksum, and its number."""
Keep = Callable[["BlockRequest", Bytes], None]
"""Called with each block's stored bytes once they are checked."""


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """One block to fetch: bytes [start, stop) of a file, decoded into `out`."""

    block: int
    file: int
    """Number of the shard."""
    inside: int
    """Number of the block inside the shard."""
    start: int
    stop: int
    out: memoryview


class FetchedBlocks:
    """Blocks of shards behind a URL; `MappedBlocks` is the counterpart for local files."""

    def __init__(
        self,
        source: ShardSource,
        blob: Blob,
        dtype: np.dtype[Any],
        *,
        verify: bool,
        stats: Stats,
        cache: NodeCache | None = None,
        retry: Retry | None = None,
        limit: ConcurrencyLimit | None = None,
    ) -> None:
        shards = len(source.codecs)
        self.direct: NDArray[np.bool_] = np.zeros(shards, bool)
        """bool [shards]: false, as every block is decoded into the cache of blocks."""
        self._source = source
        self._blob = blob
        self._dtype = dtype
        self._verify = verify and source.has_checksums
        self._stats = stats
        self._cache = cache
        self._retry = retry or Retry()
        self.limit = limit or ConcurrencyLimit()
        self._closed = threading.Event()
        self._planners = DaemonPool(_PLANNERS, name="headrace-plan")
        self._threads = DaemonPool(self.limit.most, name="headrace-fetch")
        # Not the threads that wait for responses: where a huge page of the block cache is first used, each of many
        # threads that decode into it at once would clear a page of its own, and all but one are thrown away.
        self._decoders = DaemonPool(available_cores(), name="headrace-decode")

    def close(self) -> None:
        """End the threads; nothing is waited for, and retries stop."""
        self._closed.set()
        for pool in (self._planners, self._threads, self._decoders):
            pool.shutdown()

    def load(self, blocks: Sequence[int], outs: Sequence[memoryview], done: Done) -> None:
        """Fetch, check and decode blocks by threads; see `block_cache.Load`.

        Nothing is read in the calling thread: it stays interruptible, whatever the remote does.
        """
        self._planners.submit(self._plan, blocks, outs, done)

    def _plan(self, blocks: Sequence[int], outs: Sequence[memoryview], done: Done) -> None:
        try:
            requests = self._requests(blocks, outs)
        except Exception as error:  # noqa: BLE001  # raised in the threads that wait for the blocks
            for block in blocks:
                done(block, error)
            return
        if self._cache is not None:
            self._submit(self._load_cached, requests, done, self._cache)
            return
        for group in coalesce(requests):
            self._submit(self._fetch, group, done)

    def _submit(
        self, function: Callable[..., None], requests: Sequence[BlockRequest], done: Done, *more: Any
    ) -> None:
        try:
            self._threads.submit(function, requests, done, *more)
        except RuntimeError as error:  # closed meanwhile
            for one in requests:
                done(one.block, error)

    def _requests(self, blocks: Sequence[int], outs: Sequence[memoryview]) -> list[BlockRequest]:
        located = [locate_block(self._source, block) for block in blocks]
        shards = list(dict.fromkeys(shard for shard, _ in located))
        if len(shards) > 1:
            self._threads.map(self._source.index, shards)  # all at once: each may be a request
        requests = []
        for block, out, (shard, inside) in zip(blocks, outs, located, strict=True):
            index = self._source.index(shard)
            start = int(index.offset[inside])
            requests.append(BlockRequest(block, shard, inside, start, start + int(index.nbytes[inside]), out))
        return requests

    def block_key(self, block: int) -> str:
        """Name of a block in the node cache."""
        shard, inside = locate_block(self._source, block)
        return self._key(BlockRequest(block, shard, inside, 0, 0, memoryview(b"")))

    def _key(self, one: BlockRequest) -> str:
        entry = self._source.entry(one.file)
        return f"{entry.content[:16]}-{entry.data_xxh3:016x}-{one.inside:x}"

    # --- through the node cache ---

    def _load_cached(self, requests: Sequence[BlockRequest], done: Done, cache: NodeCache) -> None:
        reported: set[int] = set()

        def once(block: int, error: Exception | None) -> None:
            reported.add(block)
            done(block, error)

        try:
            self._load_through_cache(cache, requests, once)
        except Exception as error:  # noqa: BLE001  # whatever it is, no thread may wait for a block without end
            for one in requests:
                if one.block not in reported:
                    done(one.block, error)

    def _load_through_cache(self, cache: NodeCache, requests: Sequence[BlockRequest], done: Done) -> None:
        """Take what another process has fetched or is fetching from the node cache, and fetch the rest."""
        keys = {one.block: self._key(one) for one in requests}
        waiting, claimed = [], []

        def keep(one: BlockRequest, stored: Bytes) -> None:
            cache.put(keys[one.block], stored)

        def finished(block: int, error: Exception | None) -> None:
            cache.release(keys[block])
            done(block, error)

        try:
            for one in requests:
                if self._from_cache(cache, one, keys[one.block], done):
                    continue
                if not cache.claim(keys[one.block]):
                    waiting.append(one)
                elif self._from_cache(cache, one, keys[one.block], finished):
                    continue  # another process finished it between our read and our claim
                else:
                    claimed.append(one)
        finally:
            # No large gaps: another process fetches the blocks in them.
            for group in coalesce(claimed, max_gap=_CACHED_GAP):
                self._submit(self._fetch, group, finished, keep)
        for one in waiting:
            # No claim of ours waits for another process's claim, so two processes cannot wait for each other.
            cache.wait(keys[one.block])
            self._load_through_cache(cache, [one], done)

    def _from_cache(self, cache: NodeCache, one: BlockRequest, key: str, done: Done) -> bool:
        stored = cache.get(key)
        if stored is None:
            return False
        try:
            self._decode(one, stored)
        except ShardError:
            cache.drop(key)  # damaged on this disk: it is fetched again
            return False
        done(one.block, None)
        return True

    # --- from the remote ---

    def _fetch(self, group: Sequence[BlockRequest], done: Done, keep: Keep | None = None) -> None:
        start, path = group[0].start, self._source.path(group[0].file)
        try:
            data = memoryview(self._get(path, start, group[-1].stop))
            self._decoders.submit(self._deliver_group, group, data, done, keep)
        except Exception as error:  # noqa: BLE001  # raised in the threads that wait for the blocks
            for one in group:
                done(one.block, error)

    def _deliver_group(
        self, group: Sequence[BlockRequest], data: memoryview, done: Done, keep: Keep | None
    ) -> None:
        start = group[0].start
        for one in group:
            self._deliver(one, data[one.start - start : one.stop - start], done, keep)

    def _deliver(self, one: BlockRequest, stored: Bytes, done: Done, keep: Keep | None) -> None:
        for attempt in range(1, MAX_TRIES_DAMAGED + 1):
            try:
                try:
                    self._decode(one, stored)
                except ShardError:
                    if attempt == MAX_TRIES_DAMAGED:
                        raise
                    # Perhaps damaged in the transfer, and not where it is stored.
                    stored = self._get(self._source.path(one.file), one.start, one.stop)
                    continue
                if keep is not None:
                    keep(one, stored)
            except Exception as error:  # noqa: BLE001  # as in _fetch
                done(one.block, error)
            else:
                done(one.block, None)
            return

    def _decode(self, one: BlockRequest, stored: Bytes) -> None:
        index = self._source.index(one.file)
        with self._stats.busy("decode", items=1, nbytes=len(one.out)):
            decode_block(
                self._source,
                one.file,
                one.inside,
                index,
                stored,
                one.out,
                dtype=self._dtype,
                verify=self._verify,
            )

    def _get(self, path: str, start: int, stop: int) -> Bytes:
        def once() -> Bytes:
            self.limit.acquire()
            try:
                with self._stats.busy("read", items=1, nbytes=stop - start):
                    data = self._blob.get_range(path, start, stop)
            except FileNotFoundError as error:
                raise ShardError(
                    f"{self._blob.url}/{path}: missing, and the shard table names it. Restore it, or write the "
                    "shard again."
                ) from error
            finally:
                self.limit.release()
            if len(data) != stop - start:
                raise Unavailable(f"{self._blob.url}/{path}: {len(data)} bytes of [{start}, {stop}): cut off")
            self.limit.succeeded()
            return data

        def failed(error: Unavailable) -> None:
            if error.throttled:
                self.limit.refused()

        return self._retry.run(once, what=f"{self._blob.url}/{path}", failed=failed, closed=self._closed)
