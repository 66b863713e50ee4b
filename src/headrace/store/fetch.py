"""Shards behind a URL -> their blocks: neighbouring ranges fetched together, many requests in flight.

How many is found out: each answer allows a little more, a refusal (503, 429) halves it, and it grows again when
the remote recovers. A block that arrives damaged is asked for again before it is called damaged.
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
from headrace.storage import (
    Blob,
    ConcurrencyLimit,
    DaemonPool,
    NodeCache,
    Retry,
    Unavailable,
    coalesce,
)
from headrace.store.slots import Done
from headrace.store.source import Source
from headrace.store.unpack import locate, unpack
from headrace.types import Bytes

_CACHED_GAP: Final = 1 << 10
DAMAGED_TRIES: Final = 3


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
    """Blocks of shards that cannot be mapped; the local directory's counterpart is `local.LocalBlocks`."""

    def __init__(
        self,
        source: Source,
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
        """bool [shards]: none can be gathered without the pool."""
        self._source = source
        self._blob = blob
        self._dtype = dtype
        self._verify = verify and source.checked
        self._stats = stats
        self._cache = cache
        self._retry = retry or Retry()
        self.limit = limit or ConcurrencyLimit()
        self._closed = threading.Event()
        self._threads = DaemonPool(self.limit.most, name="headrace-fetch")
        # Not those that wait for answers: where a huge page of the pool is first used, each of many threads that
        # decode into it at once would clear one of its own, and all but one are thrown away.
        self._decoders = DaemonPool(available_cores(), name="headrace-decode")

    def close(self) -> None:
        """End the threads; requests under way are not waited for, and what has arrived is delivered."""
        self._closed.set()
        self._threads.shutdown()
        self._decoders.shutdown()

    def load(self, blocks: Sequence[int], outs: Sequence[memoryview], done: Done) -> None:
        """Fetch, check and decode blocks by threads; see `slots.Load`."""
        places = [locate(self._source, block) for block in blocks]
        shards = list(dict.fromkeys(shard for shard, _ in places))
        if len(shards) > 1:
            self._threads.map(self._source.index, shards)  # all at once: each may be a request
        wanted = []
        for block, out, (shard, inside) in zip(blocks, outs, places, strict=True):
            index = self._source.index(shard)
            start = int(index.offset[inside])
            wanted.append(BlockRequest(block, shard, inside, start, start + int(index.nbytes[inside]), out))
        if self._cache is not None:
            self._threads.submit(self._guarded, self._cache, wanted, done)
            return
        for run in coalesce(wanted):
            self._threads.submit(self._fetch_run, run, done)

    def _load_through_cache(self, cache: NodeCache, wanted: Sequence[BlockRequest], done: Done) -> None:
        """One fetch per machine: what another process has fetched or is fetching is taken from the directory."""
        keys = {one.block: self._key(one) for one in wanted}
        waiting, mine = [], []

        def keep(one: BlockRequest, stored: Bytes) -> None:
            cache.put(keys[one.block], stored)

        def finished(block: int, error: Exception | None) -> None:
            cache.release(keys[block])
            done(block, error)

        try:
            for one in wanted:
                if self._from_cache(cache, one, keys[one.block], done):
                    continue
                if not cache.claim(keys[one.block]):
                    waiting.append(one)
                elif self._from_cache(cache, one, keys[one.block], finished):
                    continue  # another process finished it between our look and our claim
                else:
                    mine.append(one)
        finally:
            # No large gaps: what lies in them is another's to fetch.
            for run in coalesce(mine, max_gap=_CACHED_GAP):
                self._threads.submit(self._fetch_run, run, finished, keep)
        for one in waiting:
            # Our own claims never wait for another's, so two processes cannot wait for each other.
            cache.wait(keys[one.block])
            self._load_through_cache(cache, [one], done)

    def _guarded(self, cache: NodeCache, wanted: Sequence[BlockRequest], done: Done) -> None:
        told: set[int] = set()

        def once(block: int, error: Exception | None) -> None:
            told.add(block)
            done(block, error)

        try:
            self._load_through_cache(cache, wanted, once)
        except Exception as error:  # noqa: BLE001  # a full or unwritable directory must not leave anyone waiting
            for one in wanted:
                if one.block not in told:
                    done(one.block, error)

    def _from_cache(self, cache: NodeCache, one: BlockRequest, key: str, done: Done) -> bool:
        stored = cache.get(key)
        if stored is None:
            return False
        try:
            self._unpack(one, stored)
        except ShardError:
            cache.drop(key)  # damaged on this disk; the remote's copy decides
            return False
        done(one.block, None)
        return True

    def _key(self, one: BlockRequest) -> str:
        entry = self._source.entry(one.file)
        return f"{entry.content[:16]}-{entry.data_xxh3:016x}-{one.inside:x}"

    def block_key(self, block: int) -> str:
        """Name of a block in the machine's cache."""
        shard, inside = locate(self._source, block)
        return self._key(BlockRequest(block, shard, inside, 0, 0, memoryview(b"")))

    def _fetch_run(
        self,
        run: Sequence[BlockRequest],
        done: Done,
        keep: Callable[[BlockRequest, Bytes], None] | None = None,
    ) -> None:
        start, path = run[0].start, self._source.path(run[0].file)
        try:
            data = memoryview(self._get(path, start, run[-1].stop))
            self._decoders.submit(self._deliver_run, run, data, done, keep)
        except Exception as error:  # noqa: BLE001  # it belongs to those who wait for the blocks
            for one in run:
                done(one.block, error)

    def _deliver_run(
        self,
        run: Sequence[BlockRequest],
        data: memoryview,
        done: Done,
        keep: Callable[[BlockRequest, Bytes], None] | None,
    ) -> None:
        start = run[0].start
        for one in run:
            self._deliver(one, data[one.start - start : one.stop - start], done, keep)

    def _deliver(
        self, one: BlockRequest, stored: Bytes, done: Done, keep: Callable[[BlockRequest, Bytes], None] | None
    ) -> None:
        for attempt in range(1, DAMAGED_TRIES + 1):
            try:
                try:
                    self._unpack(one, stored)
                except ShardError:
                    if attempt == DAMAGED_TRIES:
                        raise
                    # On its way, perhaps, and not where it is stored.
                    stored = self._get(self._source.path(one.file), one.start, one.stop)
                    continue
                if keep is not None:
                    keep(one, stored)
            except Exception as error:  # noqa: BLE001  # as above
                done(one.block, error)
            else:
                done(one.block, None)
            return

    def _unpack(self, one: BlockRequest, stored: Bytes) -> None:
        index = self._source.index(one.file)
        with self._stats.busy("decode", items=1, nbytes=len(one.out)):
            unpack(
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
