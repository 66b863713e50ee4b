"""Blocks that must be decoded or fetched -> a bounded pool of decoded blocks, shared by threads.

The pool is one array, so that rows of many blocks are gathered in one step. Blocks that are there are read without
a lock: rows are copied first, and copied again if a slot turns out to have changed its block meanwhile. Of the
blocks that nobody is loading, the one whose next use lies furthest ahead gives way (Belady) where the uses have
been announced, and the least recently used where they have not.

Source: Belady 1966, A study of replacement algorithms for a virtual-storage computer; Lameter 2005 on seqlocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.native import Rows
from headrace.store.mapped import reserved
from headrace.store.upcoming import Upcoming

_NEVER: Final = 1 << 62
"""Score of a block without announced use, less its last use: above the score of every announced one."""
TAIL_TOKENS: Final = 8192
"""Room after each block for the beginning of the next one, so that rows across both need no second look."""
_ALIGNMENT: Final = 32
"""Tokens; slots begin at multiples of it."""
_SLOT: Final = (1 << 32) - 1
_VICTIMS: Final = 16
"""Slots emptied at a time."""

Done: TypeAlias = Callable[[int, Exception | None], None]
"""Called once for each block of a load, from any thread: the block, and what went wrong with it."""
Load: TypeAlias = Callable[[Sequence[int], Sequence[memoryview], Done], None]
"""Blocks and where their bytes belong; may return before it is done."""


class BlockPool:
    """Decoded blocks, by their number in the store."""

    def __init__(
        self, *, slots: int, blocks: int, block_tokens: int, dtype: np.dtype[Any], load: Load
    ) -> None:
        """Reserve the pool; pages are taken as they are first used.

        Args:
            slots: decoded blocks held.
            blocks: blocks of the store; 8 bytes of address are reserved for each, and used once it was read.
            block_tokens: tokens of a slot.
            dtype: of the tokens.
            load: how a missing block is decoded.
        """
        self.slots = slots
        self.block_tokens = block_tokens
        self.tail = min(block_tokens, TAIL_TOKENS)
        """Tokens of the next block that may follow a block in its slot; the first one always does."""
        self.stride = slot_stride(block_tokens)
        """Tokens from one slot to the next."""
        self.tokens: NDArray[Any] = np.empty(slots * self.stride, dtype)
        self._bytes = self.tokens.view(np.uint8).data
        self._slot_nbytes = self.stride * dtype.itemsize
        self._load = load
        self._changed = threading.Condition(threading.Lock())
        self._tag_of = reserved(blocks, np.int64)
        """Tag of each block that is there: a number used once, times 2**32, plus its slot; 0 where it is not."""
        self._tags = np.zeros(slots, np.int64)
        """Tag of the block in each slot; 0 where there is none."""
        self._block_of = np.full(slots, -1, np.int64)
        self._tagged = 0
        self._used = np.zeros(slots, np.int64)
        self._busy = np.zeros(slots, np.int32)
        """How many are loading it, or hold it until they have copied from it."""
        self._tailed = np.zeros(slots, bool)
        """Whether the whole tail is there."""
        self._free = list(range(slots - 1, -1, -1))
        self._loading: dict[int, int] = {}
        self._failed: dict[int, Exception] = {}
        self._awaited: list[set[int]] = []
        """For each thread that waits for blocks under way: those that have not come."""
        self._clock = 0
        self._upcoming = Upcoming(blocks)
        self.loads = 0
        """Blocks loaded so far."""

    def gather(
        self,
        blocks: NDArray[np.int64],
        places: NDArray[np.int64],
        length: int,
        rows: Rows,
        out: NDArray[Any],
        picked: NDArray[np.int64] | None,
    ) -> None:
        """Copy rows, loading the blocks that are missing.

        Args:
            blocks: int64 [N]: block in which each row begins.
            places: int64 [N]: first token of each row inside its block, at most block_tokens + tail - length.
            length: tokens of a row.
            rows: what `rows` says of this length; a caller that asks often keeps it.
            out: [M, length] in C order: where rows go.
            picked: int64 [N]: which rows of `out`; None for all, in order.

        Raises:
            Exception: what the load of a block raised.
        """
        if self._upcoming:
            with self._changed:
                if self._upcoming:
                    self._upcoming.took(blocks)
        tags = self._tag_of[blocks]
        if np.minimum.reduce(tags) > 0:
            slots = tags & _SLOT
            inside = self.block_tokens + 1 - length
            tailed = np.maximum.reduce(places) <= inside or bool(
                (self._tailed[slots] | (places <= inside)).all()
            )
            if tailed and self._copy(tags, slots, places, rows, out, picked):
                return
        self._gather_missing(
            blocks, places, length, rows, out, np.arange(len(blocks)) if picked is None else picked
        )

    def rows(self, length: int) -> Rows:
        """The row that begins at each token of the pool; none where it would leave it."""
        return Rows(self.tokens, tokens=len(self.tokens), length=length, dtype=self.tokens.dtype)

    def announce(self, blocks: NDArray[np.int64]) -> None:
        """Say that `gather` will be asked for rows of these blocks, in order, after those announced before.

        Args:
            blocks: int64 [N]: one element for each row.
        """
        with self._changed:
            self._upcoming.announce(blocks)

    def prefetch(self, blocks: Sequence[int]) -> None:
        """Begin to load blocks that are missing, as far as no announced block gives way for it."""
        with self._changed:
            missing = [b for b in blocks if not self._tag_of[b] and b not in self._loading]
            taken = self._take(missing, only_unannounced=True)
        if taken:
            self._start(taken, keep=False)

    def upcoming(self) -> dict[int, int]:
        """Announced blocks and the rank of their next use."""
        with self._changed:
            return self._upcoming.first_uses()

    # --- reading without the lock ---

    def _copy(
        self,
        tags: NDArray[np.int64],
        slots: NDArray[np.int64],
        places: NDArray[np.int64],
        rows: Rows,
        out: NDArray[Any],
        picked: NDArray[np.int64] | None,
    ) -> bool:
        """Copy rows of blocks that should be there; False if one of them went away meanwhile."""
        where = slots * self.stride
        where += places
        if picked is None:
            rows.take_into(where, out)
        else:
            out[picked] = rows.take(where)
        self._clock += 1
        self._used[slots] = self._clock
        # A slot's tag is cleared before other bytes come into it: what has its tag now had it all along.
        return bool(self._tags[slots].tobytes() == tags.tobytes())

    def _gather_missing(
        self,
        blocks: NDArray[np.int64],
        places: NDArray[np.int64],
        length: int,
        rows: Rows,
        out: NDArray[Any],
        picked: NDArray[np.int64],
    ) -> None:
        across = places > self.block_tokens + 1 - length
        held: list[int] = []
        while len(blocks):
            try:
                tags = self._tag_of[blocks]
                slots = tags & _SLOT
                there = (tags > 0) & (~across | self._tailed[slots])
                if there.any() and not self._copy(
                    tags[there], slots[there], places[there], rows, out, picked[there]
                ):
                    continue  # one was taken away while it was copied: all of them again
            finally:
                self._release(held)
                held = []
            left = ~there
            blocks, places, picked, across = blocks[left], places[left], picked[left], across[left]
            if len(blocks):
                held = self._acquire(self._needed(blocks, across))

    def _needed(self, blocks: NDArray[np.int64], across: NDArray[np.bool_]) -> list[int]:
        """Blocks for the first of these rows: no more than several threads can hold at once."""
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
        """Hold those blocks that are there, and load and hold as many of the others as there is room for."""
        with self._changed:
            while True:
                held = [block for block in blocks if self._tag_of[block]]
                for block in held:
                    self._busy[self._tag_of[block] & _SLOT] += 1
                missing = [block for block in blocks if not self._tag_of[block]]
                taken = self._take([block for block in missing if block not in self._loading])
                if taken or not missing:
                    break
                # Others load what we need, or hold every slot while they copy. Nothing is held while waiting,
                # so nobody waits for us.
                self._let_go(held)
                if not self._await(missing):
                    self._changed.wait()
        if taken:
            try:
                self._start(taken, keep=True)
            except BaseException:
                self._release(held)
                raise
        return held + taken

    def _take(self, blocks: Sequence[int], *, only_unannounced: bool = False) -> list[int]:
        taken = []
        # A quarter at a time: several threads can load at once, however small the pool. Half of it ahead: a
        # window's blocks must be asked for together, or what is left over becomes one request each.
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
        if self._upcoming:
            last = self._upcoming.last_uses(self._block_of)
            score = np.where(last >= 0, last, score)
            tags = self._tag_of[self._upcoming.soon()]
            uses = np.flatnonzero(tags)[::-1]
            score[tags[uses] & _SLOT] = uses  # from the last use to the first: the first one stays
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
        left = set(blocks)
        lock = threading.Lock()

        def done(block: int, error: Exception | None) -> None:
            with lock:
                left.discard(block)
            self._finished(block, error, keep=keep)

        outs = [self._bytes[self._loading[b] * self._slot_nbytes :][: self._slot_nbytes] for b in blocks]
        self.loads += len(blocks)
        try:
            self._load(blocks, outs, done)
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            for block in list(left):
                done(block, error)
        if keep:
            self._wait(blocks)

    def _wait(self, blocks: list[int]) -> None:
        with self._changed:
            self._await(blocks)
            failures = [self._failed.pop(block) for block in blocks if block in self._failed]
        if failures:
            self._release([block for block in blocks if self._tag_of[block]])
            raise failures[0]

    def _await(self, blocks: Sequence[int]) -> bool:
        """Wait until none of the blocks is being loaded; False if none was."""
        left = {block for block in blocks if block in self._loading}
        if not left:
            return False
        self._awaited.append(left)
        try:
            while left:
                self._changed.wait()
        finally:
            # By identity: another thread's set may be equal.
            self._awaited = [other for other in self._awaited if other is not left]
        return True

    def _finished(self, block: int, error: Exception | None, *, keep: bool) -> None:
        with self._changed:
            slot = self._loading.pop(block)
            if error is None:
                self._tagged += 1
                tag = self._tagged << 32 | slot
                self._tags[slot] = tag
                self._block_of[slot] = block
                self._clock += 1
                self._used[slot] = self._clock
                self._busy[slot] = int(keep)
                self._tag_of[block] = tag
                self._join(block - 1)
                self._join(block)
            else:
                self._busy[slot] = 0
                self._free.append(slot)
                if keep:  # who merely waits for it, or comes later, will try for himself
                    self._failed[block] = error
            for left in self._awaited:
                left.discard(block)
            # All of them: others wait for a slot, which this block may have given back.
            self._changed.notify_all()

    def _join(self, first: int) -> None:
        """Where two neighbours are there, the second one's beginning goes behind the first one's end."""
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
                self._let_go(blocks)
                self._changed.notify_all()

    def _let_go(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._busy[self._tag_of[block] & _SLOT] -= 1


def slot_stride(block_tokens: int) -> int:
    """Tokens that a slot takes, the next block's beginning included."""
    used = block_tokens + min(block_tokens, TAIL_TOKENS)
    return -(-used // _ALIGNMENT) * _ALIGNMENT
