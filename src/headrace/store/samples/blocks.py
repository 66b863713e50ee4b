"""Numbers of blocks -> the blocks: mapped on a local disk, else fetched and decoded; checked before their first use."""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xxhash

from headrace.errors import ShardError, StoreError
from headrace.stats import Stats
from headrace.storage import INTERRUPT_S, Blob, DaemonPool, LocalBlob, coalesce
from headrace.store.codec import DecodeError
from headrace.store.format import data_path
from headrace.store.read.lru import LruCache
from headrace.store.read.mapped import reserved
from headrace.store.samples.block import SampleBlock, decode_block
from headrace.store.samples.features import Features
from headrace.store.samples.index import SampleIndex, load_sample_index
from headrace.store.samples.table import SampleTable
from headrace.types import Bytes

MAX_INDEXES: Final = 4096
"""Block indexes held in memory: 12 kB each for a shard of 128 MiB in blocks of 256 KiB."""
MAX_MAPPED: Final = 8192
"""Mapped shard files; those used least recently are unmapped once nothing refers to them."""
_VIEW_NBYTES: Final = 4096
"""What a block that is read in place takes of the cache: its arrays' headers."""
_FETCHES: Final = 16
"""Requests to a remote at a time."""
_READS: Final = 3
"""Reads of a remote's damaged block: the transfer may be at fault."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a block is stored: see `headrace.storage.coalesce`."""

    file: int
    start: int
    stop: int
    block: int
    inside: int


class _Load:
    """A block that a thread loads, and for which others wait."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.block: SampleBlock | None = None
        self.error: Exception | None = None


class BlockReader:
    """Blocks of a store by their number; safe for threads, each block loaded once while it is in the cache."""

    def __init__(
        self,
        blob: Blob,
        table: SampleTable,
        features: Features,
        *,
        verify: bool,
        cache_bytes: int,
        stats: Stats,
    ) -> None:
        self._blob = blob
        self._table = table
        self._features = features
        self._verify = verify
        self._cache_bytes = cache_bytes
        self._stats = stats
        self._local = blob if isinstance(blob, LocalBlob) else None
        self._indexes = LruCache[SampleIndex](
            MAX_INDEXES, lambda shard: load_sample_index(blob, table[shard])
        )
        self._maps = LruCache[Any](MAX_MAPPED, self._map)
        self._checked = reserved(int(table.block_starts[-1]), np.bool_)
        """bool [blocks]: of the mapped ones, those that were checked since the store was opened."""
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, SampleBlock] = OrderedDict()
        self._cached = 0
        self._loading: dict[int, _Load] = {}
        self._pool = DaemonPool(_FETCHES, name="headrace-samples")
        self._closed = False

    @property
    def url(self) -> str:
        """Of the store."""
        return self._blob.url

    def close(self) -> None:
        """End the threads, and raise in those that wait for a block."""
        self._closed = True
        self._pool.shutdown()

    def index(self, shard: int) -> SampleIndex:
        """A shard's index, checked. Raises: ShardError."""
        return self._indexes.get(shard)

    def load_indexes(self, shards: Sequence[int]) -> None:
        """Read the indexes of shards, those of a remote all at once."""
        if self._local is None and len(shards) > 1:
            self._pool.map(self.index, shards)

    def get(self, numbers: Sequence[int]) -> dict[int, SampleBlock]:
        """Blocks by their number in the store.

        Raises:
            ShardError: one is damaged or missing.
            StoreError: the reader was closed meanwhile.
        """
        found, claimed, waiting = self._claim(numbers)
        try:
            self._load(claimed)
        finally:
            self._release(claimed)
        for number, load in [*claimed.items(), *waiting.items()]:
            while not load.done.wait(INTERRUPT_S):
                if self._closed:
                    raise StoreError(f"{self._blob.url}: the store was closed; open it again")
            if load.error is not None:
                raise load.error
            assert load.block is not None
            found[number] = load.block
        return found

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Begin to fetch blocks of a remote that are not in the cache."""
        if self._local is not None:
            return
        with self._lock:
            numbers = [number for number in numbers if number not in self._cache]
        _, claimed, _ = self._claim(numbers)
        if claimed:
            self._pool.submit(self._load_all, claimed)

    def _load_all(self, claimed: dict[int, _Load]) -> None:
        try:
            self._load(claimed)
        except Exception as error:  # noqa: BLE001  # raised where the blocks are awaited
            for load in claimed.values():
                load.error = load.error or error
        finally:
            self._release(claimed)

    def _claim(
        self, numbers: Sequence[int]
    ) -> tuple[dict[int, SampleBlock], dict[int, _Load], dict[int, _Load]]:
        """Blocks that are cached, those that this thread must load, and those that others load."""
        found, claimed, waiting = {}, {}, {}
        with self._lock:
            for number in numbers:
                block = self._cache.get(number)
                if block is not None:
                    self._cache.move_to_end(number)
                    found[number] = block
                elif number in self._loading:
                    waiting[number] = self._loading[number]
                elif number not in claimed:
                    claimed[number] = _Load()
            self._loading.update(claimed)
        return found, claimed, waiting

    def _release(self, claimed: Mapping[int, _Load]) -> None:
        with self._lock:
            for number, load in claimed.items():
                self._loading.pop(number, None)
                if load.block is not None:
                    self._cache[number] = load.block
                    self._cached += load.block.nbytes
                elif load.error is None:
                    load.error = StoreError(f"{self._blob.url}: block {number}: its load was interrupted")
                load.done.set()
            while self._cached > self._cache_bytes and len(self._cache) > 1:
                _, dropped = self._cache.popitem(last=False)
                self._cached -= dropped.nbytes

    # --- loading ---

    def _load(self, claimed: Mapping[int, _Load]) -> None:
        if not claimed:
            return
        shards = np.searchsorted(self._table.block_starts, list(claimed), "right") - 1
        self.load_indexes(sorted({int(shard) for shard in shards}))
        stored = []
        for number, shard in zip(claimed, shards.tolist(), strict=True):
            inside = number - int(self._table.block_starts[shard])
            index = self.index(shard)
            start = int(index.offset[inside])
            stored.append(_Stored(shard, start, start + int(index.nbytes[inside]), number, inside))
        if self._local is not None:
            for one in stored:
                data = memoryview(self._maps.get(one.file))[one.start : one.stop]
                claimed[one.block].block = self._decode(one, data)
            return
        groups = coalesce(stored)
        if len(groups) == 1 or threading.current_thread().name.startswith("headrace-samples"):
            for group in groups:
                self._fetch(group, claimed)
        else:
            self._pool.map(lambda group: self._fetch(group, claimed), groups)

    def _fetch(self, group: Sequence[_Stored], claimed: Mapping[int, _Load]) -> None:
        data = memoryview(self._get_range(group[0].file, group[0].start, group[-1].stop))
        for one in group:
            stored: Bytes = data[one.start - group[0].start : one.stop - group[0].start]
            for read in range(_READS):
                try:
                    claimed[one.block].block = self._decode(one, stored)
                    break
                except ShardError:
                    if read == _READS - 1:
                        raise
                    stored = self._get_range(one.file, one.start, one.stop)

    def _get_range(self, shard: int, start: int, stop: int) -> Bytes:
        path = data_path(self._table.name(shard))
        with self._stats.busy("read", items=1, nbytes=stop - start):
            try:
                return self._blob.get_range(path, start, stop)
            except FileNotFoundError as error:
                raise _missing(f"{self._blob.url}/{path}") from error

    def _decode(self, one: _Stored, data: Bytes) -> SampleBlock:
        index, codec = self.index(one.file), int(self._table.codecs[one.file])
        entry_name = self._table.name(one.file)
        with self._stats.busy("decode", items=1, nbytes=len(data)):
            if self._verify and not self._checked[one.block]:
                actual, expected = xxhash.xxh3_64_intdigest(data), int(index.xxh3[one.inside])
                if actual != expected:
                    raise ShardError(
                        f"{self._blob.url}/{data_path(entry_name)}: block {one.inside} of {len(index.xxh3)} "
                        f"({len(data)} bytes at {one.start}): xxh3 0x{actual:016x}, the index says "
                        f"0x{expected:016x}. Damaged: restore the file, or write the shard again. All damage is "
                        f"listed by: headrace inspect --verify {self._blob.url}"
                    )
                if self._local is not None:
                    self._checked[one.block] = True
            rows = int(index.row_starts[one.inside + 1] - index.row_starts[one.inside])
            try:
                block = decode_block(data, self._features, rows=rows)
            except DecodeError as error:
                raise ShardError(
                    f"{self._blob.url}/{data_path(entry_name)}: block {one.inside}: {error}. Forged, or written by "
                    "another program: write the shard again"
                ) from error
        if self._local is not None and codec == 0:
            block.nbytes = _VIEW_NBYTES
        return block

    def _map(self, shard: int) -> mmap.mmap:
        assert self._local is not None
        entry = self._table[shard]
        path = data_path(entry.name)
        where = f"{self._blob.url}/{path}"
        try:
            handle = os.open(self._local.path(path), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as error:
            raise _missing(where) from error
        except OSError as error:
            raise StoreError(f"{where}: cannot be opened: {error.strerror}") from error
        try:
            actual = os.fstat(handle).st_size
            if actual != entry.data_nbytes:
                raise ShardError(
                    f"{where}: {actual} bytes, the shard table says {entry.data_nbytes}. Truncated or replaced: "
                    "restore it, or write the shard again."
                )
            return mmap.mmap(handle, actual, access=mmap.ACCESS_READ)
        except OSError as error:
            raise StoreError(f"{where}: cannot be mapped: {error.strerror}") from error
        finally:
            os.close(handle)


def _missing(where: str) -> ShardError:
    return ShardError(
        f"{where}: missing, and the shard table names it. Restore it, or write the shard again."
    )
