"""Positions in the stream -> rows of tokens, from mapped files in one step or from a pool of decoded blocks."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError, OrderError
from headrace.store.blob import LocalBlob
from headrace.store.fetch import FetchedBlocks
from headrace.store.local import NOT_READY, LocalBlocks
from headrace.store.nodecache import NodeCache
from headrace.store.remote import RetryingBlob
from headrace.store.slots import BlockPool
from headrace.store.source import Source

_MAX_PLANS: Final = 8
_MIN_SLOTS: Final = 4


@dataclass(frozen=True, slots=True)
class _Plan:
    """For one row length: where rows may begin that need nothing but one look at the mapping.

    bounds holds, for each shard, its first token and the first start whose row would leave it; shift holds
    what to add to a start between two bounds, NOT_READY where a row leaves its shard or the shard is not yet
    open and checked.
    """

    bounds: NDArray[np.int64]
    shift: NDArray[np.int64]
    rows: NDArray[np.void]
    itemtype: np.dtype[np.void]


class Gather:
    """Reads rows of one source; safe for threads."""

    def __init__(
        self,
        source: Source,
        dtype: np.dtype[Any],
        *,
        verify: bool,
        cache_bytes: int,
        cache_dir: str | None,
        cache_dir_bytes: int,
    ) -> None:
        self._source = source
        self._dtype = dtype
        self._starts = source.token_starts
        self._tokens = int(source.token_starts[-1])
        self._plans: OrderedDict[int, _Plan] = OrderedDict()
        self._local: LocalBlocks | None = None
        self._blocks: LocalBlocks | FetchedBlocks
        if isinstance(source.blob, LocalBlob):
            self._blocks = self._local = LocalBlocks(source, source.blob, dtype, verify=verify)
        else:
            self._blocks = self._fetched(verify, cache_dir, cache_dir_bytes)
        self._direct = self._blocks.direct
        slots = max(_MIN_SLOTS, cache_bytes // (source.block_tokens * dtype.itemsize))
        slots = min(slots, max(_MIN_SLOTS, int(source.block_starts[-1])))
        self._pool = BlockPool(
            slots=slots, block_tokens=source.block_tokens, dtype=dtype, load=self._blocks.load
        )

    def _fetched(self, verify: bool, cache_dir: str | None, cache_dir_bytes: int) -> FetchedBlocks:
        source = self._source
        # The fetcher retries by itself, as it must see each refusal.
        blob = source.blob.inner if isinstance(source.blob, RetryingBlob) else source.blob
        cache = None
        if cache_dir is not None:
            cache = NodeCache(cache_dir, max_bytes=cache_dir_bytes, upcoming=self._upcoming_keys)
        return FetchedBlocks(source, blob, self._dtype, verify=verify, cache=cache)

    def _upcoming_keys(self) -> dict[str, int]:
        blocks = self._blocks
        assert isinstance(blocks, FetchedBlocks)
        return {blocks.block_key(block): use for block, use in self._pool.upcoming().items()}

    def close(self) -> None:
        """Nothing is used afterwards."""
        self._plans.clear()
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
                f"out is {out.dtype} {list(out.shape)}, wanted {self._dtype} [{len(where)}, {length}] in C order"
            )
        shift = plan.shift[plan.bounds.searchsorted(where, "right")]
        if len(where) and shift.min() != NOT_READY:
            shift += where
            if out is None:
                return plan.rows[shift].view(self._dtype).reshape(len(where), length)
            np.ndarray((len(where),), plan.itemtype, out)[...] = plan.rows[shift]
            return out
        if out is None:
            out = np.empty((len(where), length), self._dtype)
        if len(where):
            self._gather_slowly(where, length, out, plan)
        return out

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See `Store.read`."""
        if not 0 <= start <= stop <= self._tokens:
            raise OrderError(
                f"{self._source.blob.url}: tokens [{start}, {stop}), the store has {self._tokens}"
            )
        out = np.empty(stop - start, self._dtype)
        self._copy(start, out)
        return out

    def prefetch(self, starts: NDArray[np.int64] | Sequence[int], length: int) -> None:
        """See `Store.prefetch`."""
        where = np.asarray(starts, np.int64)
        self._check_range(where, length)
        blocks: dict[int, None] = {}
        for start in where.tolist():
            for shard, first, count in self._parts(start, length):
                if not self._direct[shard]:
                    base = int(self._source.block_starts[shard])
                    size = self._source.block_tokens
                    for block in range(base + first // size, base + (first + count - 1) // size + 1):
                        blocks[block] = None
        if blocks:
            self._pool.announce(list(blocks))
            if self._local is None:
                self._pool.prefetch(list(blocks))

    def _plan(self, length: int) -> _Plan:
        if not 1 <= length < (1 << 31) // self._dtype.itemsize:
            raise OrderError(f"rows of {length} tokens: wanted at least 1 and less than 2 GiB")
        starts = self._starts
        bounds = np.empty(2 * (len(starts) - 1), np.int64)
        bounds[0::2] = starts[:-1]
        bounds[1::2] = np.maximum(starts[:-1], starts[1:] - length + 1)
        shift = np.full(len(bounds) + 1, NOT_READY)
        if self._local is None:
            rows = np.empty(0, f"V{length * self._dtype.itemsize}")
        else:
            shift[1::2] = np.where(self._local.ready, self._local.shift, NOT_READY)
            rows = self._local.rows(length)
        plan = _Plan(bounds, shift, rows, rows.dtype)
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

    def _gather_slowly(self, where: NDArray[np.int64], length: int, out: NDArray[Any], plan: _Plan) -> None:
        self._check_range(where, length)
        source, size = self._source, self._source.block_tokens
        shards = self._starts.searchsorted(where, "right") - 1
        inside = where - self._starts[shards]
        whole = where + length <= self._starts[shards + 1]
        first, last = inside // size, (inside + (length - 1)) // size
        mapped = whole & self._direct[shards]
        if self._local is not None and mapped.any():
            picked = np.flatnonzero(mapped)
            self._touch(self._local, shards[picked], first[picked], last[picked])
            places = where[picked] + self._local.shift[shards[picked]]
            np.ndarray((len(where),), plan.itemtype, out)[picked] = plan.rows[places]
        pooled = whole & ~mapped & (first == last)
        if pooled.any():
            picked = np.flatnonzero(pooled)
            blocks = source.block_starts[shards[picked]] + first[picked]
            self._from_pool(picked, blocks, inside[picked] - first[picked] * size, length, out)
        for row in np.flatnonzero(~(mapped | pooled)).tolist():
            self._copy(int(where[row]), out[row])

    def _touch(
        self, local: LocalBlocks, shards: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]
    ) -> None:
        if local.ready[shards].all():
            return
        for shard, low, high in zip(shards.tolist(), first.tolist(), last.tolist(), strict=True):
            if local.ready[shard]:
                continue
            local.open_direct(shard)
            local.touch(shard, low, high)
            if local.ready[shard]:
                for plan in list(self._plans.values()):
                    plan.shift[2 * shard + 1] = local.shift[shard]

    def _from_pool(
        self,
        picked: NDArray[np.int64],
        blocks: NDArray[np.int64],
        inside: NDArray[np.int64],
        length: int,
        out: NDArray[Any],
    ) -> None:
        pool = self._pool
        rows = np.ndarray(
            (len(pool.tokens) - length + 1,),
            f"V{length * self._dtype.itemsize}",
            pool.tokens,
            strides=(self._dtype.itemsize,),
        )
        target = np.ndarray((len(out),), rows.dtype, out)
        numbers = blocks.tolist()
        distinct = list(dict.fromkeys(numbers))
        most = max(1, pool.slots // 2)
        if len(distinct) <= most:
            slots = pool.acquire(distinct)
            try:
                of = dict(zip(distinct, slots, strict=True))
                places = np.array([of[block] for block in numbers]) * pool.block_tokens + inside
                if len(picked) == len(out):
                    target[...] = rows[places]
                else:
                    target[picked] = rows[places]
            finally:
                pool.release(slots)
            return
        for low in range(0, len(distinct), most):
            group = np.isin(blocks, distinct[low : low + most])
            self._from_pool(picked[group], blocks[group], inside[group], length, out)

    def _parts(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(shard, first token inside it, tokens) of each shard that a row touches."""
        shard = int(self._starts.searchsorted(start, "right")) - 1
        while length > 0:
            inside = start - int(self._starts[shard])
            count = min(length, int(self._starts[shard + 1]) - start)
            if count > 0:
                yield shard, inside, count
            start, length, shard = start + count, length - count, shard + 1

    def _copy(self, start: int, out: NDArray[Any]) -> None:
        """Any tokens, part by part."""
        source, size, done = self._source, self._source.block_tokens, 0
        for shard, inside, count in self._parts(start, len(out)):
            first, last = inside // size, (inside + count - 1) // size
            if self._local is not None and self._direct[shard]:
                self._touch(self._local, np.array([shard]), np.array([first]), np.array([last]))
                place = int(self._starts[shard]) + inside + int(self._local.shift[shard])
                out[done : done + count] = self._local.rows(1)[place : place + count].view(self._dtype)
                done += count
                continue
            base = int(source.block_starts[shard])
            for block in range(first, last + 1):
                low = max(inside, block * size)
                high = min(inside + count, (block + 1) * size)
                slots = self._pool.acquire([base + block])
                try:
                    begin = slots[0] * size + low - block * size
                    out[done : done + high - low] = self._pool.tokens[begin : begin + high - low]
                finally:
                    self._pool.release(slots)
                done += high - low
