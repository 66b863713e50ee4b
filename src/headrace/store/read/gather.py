"""Positions in the stream -> rows of tokens, from mapped files in one step or from a cache of decoded blocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError, ManifestError, OrderError
from headrace.native import Rows
from headrace.stats import Stats
from headrace.storage import LocalBlob, NodeCache, Retry, RetryingBlob
from headrace.store.read.block_cache import BlockCache, slot_stride
from headrace.store.read.fetch import BLOCK_KEY_FORMAT, FetchedBlocks
from headrace.store.read.lookup import CachedRowLookup, MappedRowLookup, RowLookup
from headrace.store.read.mapped_blocks import NOT_READY, MappedBlocks
from headrace.store.read.source import ShardSource

_MAX_PLANS: Final = 8
_MIN_SLOTS: Final = 4
_MAX_SLOTS: Final = 1 << 16
"""However small the blocks: each slot takes 40 bytes of bookkeeping."""
_READ_AHEAD: Final = 16
"""Blocks of a long read that are loaded together, and as many ahead."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """For one row length: from the first token of a row to its address in the mapping or in the cache.

    `bounds` holds, for each shard, its first token and the first start whose row would leave it. `shift` holds the
    number to add to a start between two bounds, NOT_READY where a row leaves its shard or the shard is not yet open
    and checked.
    """

    bounds: NDArray[np.int64]
    shift: NDArray[np.int64]
    cache_shift: NDArray[np.int64]
    """The same for the cache: the number to add for block * block_tokens + token inside the block."""
    rows: Rows
    """The row at each token of the mapping."""
    cache_rows: Rows
    """The row at each token of the cache."""

    def places(self, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The element of `rows` for each start; outside of it where a row cannot be read from the mapping."""
        places: NDArray[np.int64] = self.shift[self.bounds.searchsorted(starts, "right")]
        places += starts
        return places


@dataclass(frozen=True, slots=True)
class _RowAddresses:
    """Addresses of rows, one element of each array for each row."""

    shards: NDArray[np.int64]
    blocks: NDArray[np.int64]
    """Block of the row's first token, counted over the store."""
    places: NDArray[np.int64]
    """First token inside that block."""
    first: NDArray[np.int64]
    """First and last block, counted inside the shard."""
    last: NDArray[np.int64]
    direct: NDArray[np.bool_]
    """Inside one shard that is mapped as it is."""
    cached: NDArray[np.bool_]
    """In one block of the cache, or in it and the beginning of the next one."""

    @property
    def split(self) -> NDArray[np.bool_]:
        """In several blocks or shards: copied part by part."""
        return ~(self.direct | self.cached)


class Gather:
    """Reads rows of one source; safe for threads."""

    def __init__(
        self,
        source: ShardSource,
        dtype: np.dtype[Any],
        *,
        verify: bool,
        cache_bytes: int,
        cache_dir: str | None,
        cache_dir_bytes: int,
        stats: Stats,
    ) -> None:
        self._source = source
        self._dtype = dtype
        self._starts = source.token_starts
        self._tokens = int(source.token_starts[-1])
        self._num_blocks = int(source.block_starts[-1])
        self._plans: OrderedDict[int, _Plan] = OrderedDict()
        self._ready_shards = [0]
        """How often a shard became ready: rows that could not be located are located again. Empty once closed."""
        self._opened = False
        self._local: MappedBlocks | None = None
        self._blocks: MappedBlocks | FetchedBlocks
        if isinstance(source.blob, LocalBlob):
            self._blocks = self._local = MappedBlocks(source, source.blob, dtype, verify=verify, stats=stats)
        else:
            self._blocks = self._fetched(verify, cache_dir, cache_dir_bytes, stats)
        self._direct = self._blocks.direct
        self._some_direct = bool(self._direct.any())
        self._some_cached = not self._direct.all()
        slots = max(_MIN_SLOTS, cache_bytes // (slot_stride(source.block_tokens) * dtype.itemsize))
        slots = min(slots, _MAX_SLOTS, max(_MIN_SLOTS, int(source.block_starts[-1])))
        try:
            self._cache = BlockCache(
                slots=slots,
                blocks=self._num_blocks,
                block_tokens=source.block_tokens,
                dtype=dtype,
                load=self._blocks.load,
            )
        except OSError as error:
            raise ManifestError(
                f"{source.blob.url}: {self._num_blocks} blocks, more than can be addressed ({error}). Forged?"
            ) from error
        self._opened = True

    def _fetched(
        self, verify: bool, cache_dir: str | None, cache_dir_bytes: int, stats: Stats
    ) -> FetchedBlocks:
        source = self._source
        # FetchedBlocks retries by itself, as its limiter must see each refusal.
        blob, retry = source.blob, Retry()
        if isinstance(source.blob, RetryingBlob):
            blob, retry = source.blob.inner, source.blob.retry
        cache = None
        if cache_dir is not None:
            cache = NodeCache(
                cache_dir, max_bytes=cache_dir_bytes, next_uses=self._next_uses, key_format=BLOCK_KEY_FORMAT
            )
        return FetchedBlocks(source, blob, self._dtype, verify=verify, stats=stats, cache=cache, retry=retry)

    def _next_uses(self) -> dict[str, int]:
        if not self._opened:
            return {}
        blocks = self._blocks
        assert isinstance(blocks, FetchedBlocks)
        return {blocks.block_key(block): use for block, use in self._cache.next_uses().items()}

    @property
    def cached_tokens(self) -> int:
        """Tokens of decoded blocks that the cache holds at most."""
        return self._cache.slots * self._source.block_tokens

    def close(self) -> None:
        """End the threads and raise in those that wait; nothing is used afterwards."""
        self._plans.clear()
        self._ready_shards.clear()
        self._cache.close()
        self._blocks.close()

    def gather(
        self, starts: NDArray[np.int64] | Sequence[int], length: int, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        """See `Store.gather`."""
        where = np.asarray(starts, np.int64)
        plan = self._plans.get(length) or self._plan(length)
        if out is not None and (
            out.shape != (len(where), length) or out.dtype != self._dtype or not out.flags.c_contiguous
        ):
            raise ConfigError(
                f"out is {out.dtype} {list(out.shape)}, expected {self._dtype} [{len(where)}, {length}] in C order"
            )
        if not len(where):
            return np.empty((0, length), self._dtype) if out is None else out
        between = plan.bounds.searchsorted(where, "right")
        if self._some_direct:
            places = plan.shift[between]
            places += where
            try:
                if out is None:
                    return plan.rows.take(places)
                plan.rows.take_into(places, out)
            except IndexError:
                pass  # NOT_READY is outside of every buffer: some row cannot be read this way
            else:
                return out
        if out is None:
            out = np.empty((len(where), length), self._dtype)
        if not (self._some_cached and self._gather_cached(where, between, length, out, plan)):
            self._gather_any(where, length, out, plan)
        return out

    def lookup(self, starts: NDArray[np.int64], length: int) -> RowLookup:
        """See `Store.lookup`."""
        plan = self._plans.get(length) or self._plan(length)
        if not self._some_direct:
            blocks, places = self._cached_places(starts, plan.bounds.searchsorted(starts, "right"), plan)
            known = self._inside_cache(blocks, places, length, axis=1)
            return CachedRowLookup(
                blocks, places, known, length, self._cache, plan.cache_rows, self._ready_shards
            )
        return MappedRowLookup(starts, rows=plan.rows, locate=plan.places, versions=self._ready_shards)

    def _gather_cached(
        self, where: NDArray[np.int64], between: NDArray[np.intp], length: int, out: NDArray[Any], plan: _Plan
    ) -> bool:
        """Gather rows that are all inside single blocks of the cache; False, and nothing done, if some are not."""
        blocks, places = self._cached_places(where, between, plan)
        if not self._inside_cache(blocks, places, length, axis=0):
            return False
        self._cache.gather(blocks, places, length, plan.cache_rows, out, None)
        return True

    def _cached_places(
        self, where: NDArray[np.int64], between: NDArray[np.intp], plan: _Plan
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        places = plan.cache_shift[between]
        places += where
        blocks = places // self._source.block_tokens
        places -= blocks * self._source.block_tokens
        return blocks, places

    def _inside_cache(
        self, blocks: NDArray[np.int64], places: NDArray[np.int64], length: int, *, axis: int
    ) -> Any:
        """Whether all rows along an axis are in one block of the cache each, or in it and its tail."""
        # As unsigned numbers, negative ones are the greatest.
        real = np.maximum.reduce(blocks.view(np.uint64), axis=axis) < self._num_blocks
        most = self._source.block_tokens + self._cache.tail - length
        return real & (np.maximum.reduce(places, axis=axis) <= most)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See `Store.read`."""
        if not 0 <= start <= stop <= self._tokens:
            raise OrderError(
                f"{self._source.blob.url}: tokens [{start}, {stop}), the store has {self._tokens}"
            )
        out = np.empty(stop - start, self._dtype)
        self._copy(start, out)
        return out

    def prefetch(self, starts: NDArray[np.int64] | Sequence[int], length: int, *, ordered: bool) -> None:
        """See `Store.prefetch`."""
        where = np.asarray(starts, np.int64)
        self._check_range(where, length)
        if not len(where) or self._direct.all():
            return
        rows = self._locate(where, length)
        blocks = rows.blocks[rows.cached]
        if ordered and len(blocks):
            self._cache.announce(blocks)
        if self._local is None:
            self._cache.prefetch(self._blocks_of_rows(where, rows, length))

    def _plan(self, length: int) -> _Plan:
        if not 1 <= length < (1 << 31) // self._dtype.itemsize:
            raise OrderError(f"rows of {length} tokens: expected at least 1 and less than 2 GiB")
        starts = self._starts
        bounds = np.empty(2 * (len(starts) - 1), np.int64)
        bounds[0::2] = starts[:-1]
        bounds[1::2] = np.maximum(starts[:-1], starts[1:] - length + 1)
        shift = np.full(len(bounds) + 1, NOT_READY)
        rows = cached = self._cache.rows(length)
        if self._local is not None:
            shift[1::2] = np.where(self._local.ready, self._local.shift, NOT_READY)
            rows = self._local.rows(length)
        cache_shift = np.full(len(bounds) + 1, NOT_READY)
        first_blocks = self._source.block_starts[:-1] * self._source.block_tokens
        shift[0] = cache_shift[0] = -NOT_READY
        cache_shift[1::2] = np.where(self._direct, NOT_READY, first_blocks - starts[:-1])
        plan = _Plan(bounds, shift, cache_shift, rows, cached)
        self._plans[length] = plan
        while len(self._plans) > _MAX_PLANS:
            self._plans.popitem(last=False)
        return plan

    def _check_range(self, where: NDArray[np.int64], length: int) -> None:
        if length < 1 or (len(where) and (int(where.min()) < 0 or int(where.max()) > self._tokens - length)):
            bad = where[(where < 0) | (where > self._tokens - length)]
            first = int(bad[0]) if len(bad) else 0
            raise OrderError(
                f"{self._source.blob.url}: row of {length} tokens at {first}, the store has {self._tokens} tokens"
            )

    def _locate(self, where: NDArray[np.int64], length: int) -> _RowAddresses:
        source, size = self._source, self._source.block_tokens
        shards = self._starts.searchsorted(where, "right") - 1
        inside = where - self._starts[shards]
        whole = where + length <= self._starts[shards + 1]
        first = inside // size
        last = (inside + (length - 1)) // size
        places = inside - first * size
        direct = whole & self._direct[shards]
        cached = whole & ~direct & (places + length <= size + self._cache.tail)
        return _RowAddresses(shards, source.block_starts[shards] + first, places, first, last, direct, cached)

    def _gather_any(self, where: NDArray[np.int64], length: int, out: NDArray[Any], plan: _Plan) -> None:
        self._check_range(where, length)
        rows = self._locate(where, length)
        if self._local is not None and rows.direct.any():
            picked = np.flatnonzero(rows.direct)
            shards = rows.shards[picked]
            self._check_shards(self._local, shards, rows.first[picked], rows.last[picked])
            out[picked] = plan.rows.take(where[picked] + self._local.shift[shards])
        split = np.flatnonzero(rows.split).tolist()
        if split and self._local is None:
            # All at once, and together with the other rows: each may be a request.
            needed = [block for row in split for block in self._blocks_of(int(where[row]), length)]
            self._cache.prefetch(list(dict.fromkeys(needed)))
        if rows.cached.any():
            picked = np.flatnonzero(rows.cached)
            self._cache.gather(rows.blocks[picked], rows.places[picked], length, plan.cache_rows, out, picked)
        for row in split:
            self._copy(int(where[row]), out[row])

    def _check_shards(
        self,
        local: MappedBlocks,
        shards: NDArray[np.int64],
        first: NDArray[np.int64],
        last: NDArray[np.int64],
    ) -> None:
        if local.ready[shards].all():
            return
        for shard, low, high in zip(shards.tolist(), first.tolist(), last.tolist(), strict=True):
            if local.ready[shard]:
                continue
            local.open_direct(shard)
            local.check(shard, low, high)
            if local.ready[shard]:
                for plan in list(self._plans.values()):
                    plan.shift[2 * shard + 1] = local.shift[shard]
                self._ready_shards[0] += 1

    def _blocks_of_rows(self, where: NDArray[np.int64], rows: _RowAddresses, length: int) -> list[int]:
        """Blocks that rows need, each once, in order of first use."""
        simple = rows.cached  # at most two blocks, both of one shard
        ends = rows.blocks + (rows.last - rows.first)
        pairs = np.stack((rows.blocks[simple], ends[simple]), axis=1).ravel()
        others = [b for start in where[rows.split].tolist() for b in self._blocks_of(start, length)]
        blocks, first_use = np.unique(np.append(pairs, np.array(others, np.int64)), return_index=True)
        needed: list[int] = blocks[np.argsort(first_use)].tolist()
        return needed

    def _blocks_of(self, start: int, length: int) -> list[int]:
        """Blocks of the cache that a row needs."""
        size = self._source.block_tokens
        blocks: list[int] = []
        for shard, inside, count in self._parts(start, length):
            if not self._direct[shard]:
                base = int(self._source.block_starts[shard])
                blocks += range(base + inside // size, base + (inside + count - 1) // size + 1)
        return blocks

    def _parts(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(shard, first token inside it, tokens) of each shard that a row needs."""
        shard = int(self._starts.searchsorted(start, "right")) - 1
        while length > 0:
            inside = start - int(self._starts[shard])
            count = min(length, int(self._starts[shard + 1]) - start)
            if count > 0:
                yield shard, inside, count
            start, length, shard = start + count, length - count, shard + 1

    def _copy(self, start: int, out: NDArray[Any]) -> None:
        """Copy any tokens, part by part."""
        source, size, done = self._source, self._source.block_tokens, 0
        for shard, inside, count in self._parts(start, len(out)):
            first, last = inside // size, (inside + count - 1) // size
            if self._local is not None and self._direct[shard]:
                self._check_shards(self._local, np.array([shard]), np.array([first]), np.array([last]))
                out[done : done + count] = self._local.tokens(shard, inside, inside + count)
                done += count
                continue
            base = int(source.block_starts[shard])
            for block in range(first, last + 1):
                low = max(inside, block * size)
                high = min(inside + count, (block + 1) * size)
                part = out[done : done + high - low]
                if self._local is None and (block - first) % _READ_AHEAD == 0:
                    ahead = range(base + block, base + min(last + 1, block + 2 * _READ_AHEAD))
                    self._cache.prefetch(ahead)
                where = np.array([base + block]), np.array([low - block * size])
                self._cache.gather(*where, high - low, self._cache.rows(high - low), part[None], None)
                done += high - low
