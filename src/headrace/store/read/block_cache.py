"""Blocks that must be decoded or fetched -> a bounded cache of decoded blocks, shared by threads.

The cache is one array of slots, so that rows of many blocks are gathered in one step. Cached blocks are read without
a lock: rows are copied first, and copied again if a slot has changed its block meanwhile. Of the blocks that are not in
use, the one whose next use is furthest ahead is evicted (Belady) where the uses are announced, and the least recently
used one where they are not.

Source: Belady 1966, A study of replacement algorithms for a virtual-storage computer; Lameter 2005 on seqlocks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.native import Rows
from headrace.storage import INTERRUPT_S, Cancelled
from headrace.store.read.belady import NextUses
from headrace.store.read.mapped import reserved

_NEVER: Final = 1 << 62
"""Score of a block without announced use, less its last use: above the score of every announced one."""
TAIL_TOKENS: Final = 8192
"""Tokens after each block for the beginning of the next one, so that rows across both are contiguous."""
_ALIGNMENT: Final = 32
"""Tokens; slots begin at multiples of it."""
_SLOT: Final = (1 << 32) - 1
EXIT_S: Final = 5.0
"""A thread that the interpreter waits for at exit gives up when no block was loaded for so long."""
_VICTIMS: Final = 16
"""Slots emptied at a time."""

Done: TypeAlias = Callable[[int, Exception | None], None]
"""Called once for each block of a load, from any thread: the block, and the error of its load or None."""
Load: TypeAlias = Callable[[Sequence[int], Sequence[memoryview], Done], None]
"""Loads blocks into these buffers; may return before they are loaded."""


class _Load:
    """Blocks that one call loads."""

    def __init__(self, keep: bool, slots: dict[int, int]) -> None:
        self.keep = keep
        """Whether the blocks are held once they are loaded."""
        self.slots = slots
        """The slot of each block that is not loaded yet."""
        self.held: list[int] = []
        self.errors: dict[int, Exception] = {}


class BlockCache:
    """Decoded blocks, by their number in the store; safe for threads."""

    def __init__(
        self, *, slots: int, blocks: int, block_tokens: int, dtype: np.dtype[Any], load: Load
    ) -> None:
        """Reserve the slots; their pages take memory when they are first used.

        Args:
            slots: decoded blocks held at most.
            blocks: blocks of the store; 8 bytes of address space are reserved for each, and used once it was read.
            block_tokens: tokens of a slot.
            dtype: of the tokens.
            load: decodes missing blocks.
        """
        self.slots = slots
        self.block_tokens = block_tokens
        self.tail = min(block_tokens, TAIL_TOKENS)
        """Tokens of the next block that may follow a block in its slot; its first token always does."""
        self.stride = slot_stride(block_tokens)
        """Tokens from one slot to the next."""
        self.tokens: NDArray[Any] = np.empty(slots * self.stride, dtype)
        self._bytes = self.tokens.view(np.uint8).data
        self._slot_nbytes = self.stride * dtype.itemsize
        self._load = load
        self._changed = threading.Condition(threading.Lock())
        self._tag_of = reserved(blocks, np.int64)
        """Tag of each cached block: a number used once, times 2**32, plus its slot; 0 for the others."""
        self._tags = np.zeros(slots, np.int64)
        """Tag of the block in each slot; 0 for an empty slot."""
        self._block_of = np.full(slots, -1, np.int64)
        self._tagged = 0
        self._used = np.zeros(slots, np.int64)
        self._busy = np.zeros(slots, np.int32)
        """Users of each slot: the load of its block, and threads that hold it until they have copied from it."""
        self._tailed = np.zeros(slots, bool)
        """Whether the beginning of the next block follows in full."""
        self._free = list(range(slots - 1, -1, -1))
        self._loading: dict[int, int] = {}
        self._waiting: list[set[int]] = []
        """For each thread that waits for loads: the blocks that are not loaded yet."""
        self._clock = 0
        self._next_uses = NextUses(blocks)
        self.loads = 0
        """Blocks loaded so far."""
        self._closed = False
        self._changed_at = time.monotonic()

    def close(self) -> None:
        """Raise in all threads that wait for a block; loads that end later are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def gather(
        self,
        blocks: NDArray[np.int64],
        inside: NDArray[np.int64],
        length: int,
        rows: Rows,
        out: NDArray[Any],
        picked: NDArray[np.int64] | None,
    ) -> None:
        """Copy rows, loading the blocks that are missing.

        Args:
            blocks: int64 [N]: block in which each row begins.
            inside: int64 [N]: first token of each row inside its block, at most block_tokens + tail - length.
            length: tokens of a row.
            rows: the result of `rows` for this length; a caller that reads often keeps it.
            out: [M, length] in C order: where rows go.
            picked: int64 [N]: which rows of `out`; None for all, in order.

        Raises:
            Exception: what the load of a block raised.
        """
        if self._next_uses:
            with self._changed:
                if self._next_uses:
                    self._next_uses.take(blocks)
        tags = self._tag_of[blocks]
        if np.minimum.reduce(tags) > 0:
            slots = tags & _SLOT
            whole = self.block_tokens + 1 - length
            tailed = np.maximum.reduce(inside) <= whole or bool(
                (self._tailed[slots] | (inside <= whole)).all()
            )
            if tailed and self._copy(tags, slots, inside, rows, out, picked):
                return
        self._gather_missing(
            blocks, inside, length, rows, out, np.arange(len(blocks)) if picked is None else picked
        )

    def rows(self, length: int) -> Rows:
        """The row that begins at each token of the cache."""
        return Rows(self.tokens, tokens=len(self.tokens), length=length, dtype=self.tokens.dtype)

    def announce(self, blocks: NDArray[np.int64]) -> None:
        """Announce that `gather` will read rows of these blocks, in order, after those announced before.

        Args:
            blocks: int64 [N]: one element for each row.
        """
        with self._changed:
            self._next_uses.announce(blocks)

    def prefetch(self, blocks: Sequence[int]) -> None:
        """Begin to load missing blocks, as far as no announced block is evicted for them."""
        with self._changed:
            missing = [b for b in blocks if not self._tag_of[b] and b not in self._loading]
            taken = self._take(missing, only_unannounced=True)
        if taken:
            self._start(taken, keep=False)

    def next_uses(self) -> dict[int, int]:
        """Announced blocks, and the rank of the next use of each."""
        with self._changed:
            return self._next_uses.first_uses()

    # --- reading without the lock ---

    def _copy(
        self,
        tags: NDArray[np.int64],
        slots: NDArray[np.int64],
        inside: NDArray[np.int64],
        rows: Rows,
        out: NDArray[Any],
        picked: NDArray[np.int64] | None,
    ) -> bool:
        """Copy rows of cached blocks; False if one of the blocks was evicted meanwhile."""
        where = slots * self.stride
        where += inside
        if picked is None:
            rows.take_into(where, out)
        else:
            out[picked] = rows.take(where)
        self._clock += 1
        self._used[slots] = self._clock
        # A slot's tag is cleared before it is reused: a slot that has its tag now had it all the time.
        return bool(self._tags[slots].tobytes() == tags.tobytes())

    def _gather_missing(
        self,
        blocks: NDArray[np.int64],
        inside: NDArray[np.int64],
        length: int,
        rows: Rows,
        out: NDArray[Any],
        picked: NDArray[np.int64],
    ) -> None:
        across = inside > self.block_tokens + 1 - length
        held: list[int] = []
        while len(blocks):
            try:
                tags = self._tag_of[blocks]
                slots = tags & _SLOT
                cached = (tags > 0) & (~across | self._tailed[slots])
                if cached.any() and not self._copy(
                    tags[cached], slots[cached], inside[cached], rows, out, picked[cached]
                ):
                    continue  # one was evicted while it was copied: all of them again
            finally:
                self._release(held)
                held = []
            left = ~cached
            blocks, inside, picked, across = blocks[left], inside[left], picked[left], across[left]
            if len(blocks):
                held = self._acquire(self._needed(blocks, across))

    def _needed(self, blocks: NDArray[np.int64], across: NDArray[np.bool_]) -> list[int]:
        """Blocks for the first of these rows: no more than a quarter of the slots, as several threads hold blocks."""
        needed: dict[int, None] = {}
        most = max(2, self.slots // 4)
        for block, both in zip(blocks.tolist(), across.tolist(), strict=True):
            pair = (block, block + 1) if both else (block,)
            if needed and len(needed) + len(pair) > most:
                break
            needed.update(dict.fromkeys(pair))
        return list(needed)

    # --- changing, under the lock ---

    def _acquire(self, blocks: Sequence[int]) -> list[int]:
        """Hold those blocks that are cached, and load and hold as many of the others as there are free slots."""
        with self._changed:
            while True:
                held = [block for block in blocks if self._tag_of[block]]
                for block in held:
                    self._busy[self._tag_of[block] & _SLOT] += 1
                missing = [block for block in blocks if not self._tag_of[block]]
                taken = self._take([block for block in missing if block not in self._loading])
                if taken or not missing:
                    break
                # Other threads load the blocks, or hold every slot while they copy. Nothing is held while waiting, so
                # that no thread waits for this one.
                self._unhold(held)
                if not self._wait_for(missing):
                    self._wait_for_change()
        if taken:
            try:
                self._start(taken, keep=True)
            except BaseException:
                self._release(held)
                raise
        return held + taken

    def _take(self, blocks: Sequence[int], *, only_unannounced: bool = False) -> list[int]:
        taken = []
        # A quarter of the slots at a time: several threads can load at once, however few slots there are. Half of
        # them ahead: a window's blocks must be requested together, or those left over become one request each.
        for block in blocks[: max(2, self.slots // (2 if only_unannounced else 4))]:
            if not self._free:
                self._evict(only_unannounced=only_unannounced)
            if not self._free:
                break
            slot = self._free.pop()
            self._busy[slot] = 1
            self._loading[block] = slot
            taken.append(block)
        return taken

    def _evict(self, *, only_unannounced: bool) -> None:
        score = _NEVER - self._used
        if self._next_uses:
            last = self._next_uses.last_uses(self._block_of)
            score = np.where(last >= 0, last, score)
            tags = self._tag_of[self._next_uses.soon()]
            uses = np.flatnonzero(tags)[::-1]
            score[tags[uses] & _SLOT] = uses  # from the last use to the first: the first one counts
        score[self._busy > 0] = -1
        score[self._block_of < 0] = -1
        count = max(1, min(_VICTIMS, self.slots // 8))
        for slot in np.argpartition(score, -count)[-count:].tolist():
            if score[slot] < (_NEVER // 2 if only_unannounced else 0):
                continue
            self._tags[slot] = 0
            self._tailed[slot] = False
            self._tag_of[self._block_of[slot]] = 0
            self._block_of[slot] = -1
            self._free.append(slot)

    def _start(self, blocks: list[int], *, keep: bool) -> None:
        """Load blocks into their slots; with `keep` wait for them and hold them."""
        load = _Load(keep, {block: self._loading[block] for block in blocks})

        def done(block: int, error: Exception | None) -> None:
            self._finished(block, error, load)

        outs = [self._bytes[self._loading[b] * self._slot_nbytes :][: self._slot_nbytes] for b in blocks]
        self.loads += len(blocks)
        begun = False
        try:
            try:
                self._load(blocks, outs, done)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is raised in the threads that wait
                for block in list(load.slots):
                    done(block, error)
            begun = True
            if keep:
                self._wait(blocks, load)
        except BaseException:
            self._abandon(load, begun=begun)
            raise

    def _wait(self, blocks: list[int], load: _Load) -> None:
        with self._changed:
            self._wait_for(blocks)
            failures = [load.errors[block] for block in blocks if block in load.errors]
        if failures:
            raise failures[0]

    def _abandon(self, load: _Load, *, begun: bool) -> None:
        """Hold the blocks of a load no longer, after an error or an interrupt."""
        with self._changed:
            load.keep = False
            self._unhold(load.held)
            load.held.clear()
            if not begun:
                # Interrupted (Ctrl-C) where it is unknown whether another thread writes into the slots: they stay
                # unused, unless that thread reports its block.
                for block, slot in load.slots.items():
                    if self._loading.get(block) == slot:
                        del self._loading[block]
                    self._discard_waiting(block)
            self._changed.notify_all()

    def _wait_for(self, blocks: Sequence[int]) -> bool:
        """Wait until none of the blocks is being loaded; False if none is."""
        left = {block for block in blocks if block in self._loading}
        if not left:
            return False
        self._waiting.append(left)
        try:
            while left:
                self._wait_for_change()
        finally:
            # By identity: the set of another thread may be equal.
            self._waiting = [other for other in self._waiting if other is not left]
        return True

    def _wait_for_change(self) -> None:
        if self._closed:
            raise Cancelled("the store was closed while a row was read")
        self._changed.wait(INTERRUPT_S)
        if threading.main_thread().is_alive():
            self._changed_at = time.monotonic()
        elif time.monotonic() - self._changed_at > EXIT_S:
            raise Cancelled(f"the main thread has ended, and no block was loaded for {EXIT_S:g} s")

    def _finished(self, block: int, error: Exception | None, load: _Load) -> None:
        with self._changed:
            slot = load.slots.pop(block, None)
            if slot is None:
                return
            if self._loading.get(block) != slot:  # abandoned meanwhile
                self._busy[slot] = 0
                self._free.append(slot)
            elif error is None:
                del self._loading[block]
                self._tagged += 1
                tag = self._tagged << 32 | slot
                self._tags[slot] = tag
                self._block_of[slot] = block
                self._clock += 1
                self._used[slot] = self._clock
                self._busy[slot] = int(load.keep)
                if load.keep:
                    load.held.append(block)
                self._tag_of[block] = tag
                self._join(block - 1)
                self._join(block)
            else:
                del self._loading[block]
                self._busy[slot] = 0
                self._free.append(slot)
                load.errors[block] = error  # a thread that only waits, or comes later, loads the block itself
            self._changed_at = time.monotonic()
            self._discard_waiting(block)
            # All threads: some wait for a slot, which this block may have freed.
            self._changed.notify_all()

    def _discard_waiting(self, block: int) -> None:
        for left in self._waiting:
            left.discard(block)

    def _join(self, first: int) -> None:
        """Where two neighbouring blocks are cached, copy the beginning of the second one after the first one."""
        if first < 0 or first + 1 >= len(self._tag_of):
            return
        tags = self._tag_of[first], self._tag_of[first + 1]
        if tags[0] and tags[1]:
            one, two = int(tags[0] & _SLOT), int(tags[1] & _SLOT)
            end, begin = one * self.stride + self.block_tokens, two * self.stride
            self.tokens[end : end + self.tail] = self.tokens[begin : begin + self.tail]
            self._tailed[one] = True

    def _release(self, blocks: Sequence[int]) -> None:
        if blocks:
            with self._changed:
                self._unhold(blocks)
                self._changed.notify_all()

    def _unhold(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._busy[self._tag_of[block] & _SLOT] -= 1


def slot_stride(block_tokens: int) -> int:
    """Tokens of a slot, the beginning of the next block included."""
    used = block_tokens + min(block_tokens, TAIL_TOKENS)
    return -(-used // _ALIGNMENT) * _ALIGNMENT
