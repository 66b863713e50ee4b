"""Blocks that must be decoded or fetched -> a bounded pool of decoded blocks, shared by threads.

The pool is one array, so that rows of many blocks are gathered in one step. A block that is used is pinned; of the
others, the one whose next use lies furthest ahead gives way (Belady), where the uses have been announced, and
the least recently used where they have not.

Source: Belady 1966, A study of replacement algorithms for a virtual-storage computer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

_PINNED: Final = -1
_NEVER: Final = 1 << 62
"""Eviction rank of a block without announced use, less its last use: above every announced one."""
_MAX_ANNOUNCED: Final = 1 << 17

Done: TypeAlias = Callable[[int, Exception | None], None]
"""Called once for each block of a load, from any thread: the block, and what went wrong with it."""
Load: TypeAlias = Callable[[Sequence[int], Sequence[memoryview], Done], None]
"""Blocks and where their bytes belong; may return before it is done."""


class BlockPool:
    """Decoded blocks, by their number in the store."""

    def __init__(self, *, slots: int, block_tokens: int, dtype: np.dtype[Any], load: Load) -> None:
        self.slots = slots
        self.block_tokens = block_tokens
        self.tokens: NDArray[Any] = np.empty(slots * block_tokens, dtype)  # pages come with their first use
        self._bytes = memoryview(self.tokens).cast("B")
        self._slot_nbytes = block_tokens * dtype.itemsize
        self._load = load
        self._changed = threading.Condition(threading.Lock())
        self._slot_of: dict[int, int] = {}
        self._block_of = [-1] * slots
        self._pins = [0] * slots
        self._loading = [False] * slots
        self._failed: dict[int, Exception] = {}
        self._rank = np.full(slots, _NEVER, np.int64)
        """Greater goes first; _PINNED stays."""
        self._free = slots
        """Slots that are not pinned."""
        self._uses = 0
        self._announced: deque[tuple[int, int]] = deque()
        self._next: dict[int, deque[int]] = {}
        self._newest_taken = 0

    def acquire(self, blocks: Sequence[int]) -> list[int]:
        """Pin blocks, loading those that are missing; waits until all are there.

        Args:
            blocks: distinct, at most `slots` of them.

        Returns:
            Slot of each block: its tokens begin at slot * block_tokens. `release` them.

        Raises:
            Exception: what the load of a block raised.
        """
        assert len(blocks) <= self.slots
        with self._changed:
            slot_of = self._slot_of
            while True:
                held = [slot for block in blocks if (slot := slot_of.get(block)) is not None]
                missing = len(blocks) - len(held)
                unpinned = sum(1 for slot in held if not self._pins[slot])
                # All or nothing: to hold some while waiting for others is how threads block each other for ever.
                if missing <= self._free - unpinned:
                    break
                self._changed.wait()
            for slot in held:
                self._pin(slot)
            wanted = [block for block in blocks if block not in slot_of] if missing else []
            for block in wanted:
                self._take_slot(block)
            slots = [slot_of[block] for block in blocks]
            self._consume(blocks)
        if wanted:
            self._start(wanted)
        if missing or any(self._loading[slot] for slot in slots):
            self._wait(blocks, slots)
        return slots

    def release(self, slots: Sequence[int]) -> None:
        """Give back what `acquire` returned."""
        with self._changed:
            for slot in slots:
                self._unpin(slot)
            self._changed.notify_all()

    def announce(self, blocks: Sequence[int]) -> None:
        """Say which blocks will be used, in order, after those announced before."""
        with self._changed:
            for block in blocks:
                self._uses += 1
                self._announced.append((self._uses, block))
                uses = self._next.setdefault(block, deque())
                uses.append(self._uses)
                self._rerank(block)
            while len(self._announced) > _MAX_ANNOUNCED:
                self._expire()

    def prefetch(self, blocks: Sequence[int]) -> None:
        """Begin to load blocks that are missing, as far as there are slots whose own next use is later."""
        wanted = []
        with self._changed:
            for block in blocks:
                if block in self._slot_of or not self._free:
                    continue
                victim = int(self._rank.argmax())
                uses = self._next.get(block)
                if self._effective(int(self._rank[victim])) <= (uses[0] if uses else _NEVER - self._uses):
                    break  # what it would push out is needed sooner
                self._take_slot(block)
                wanted.append(block)
        if wanted:
            self._start(wanted, keep=False)

    def upcoming(self) -> dict[int, int]:
        """Announced blocks and the rank of their next use."""
        with self._changed:
            return {block: uses[0] for block, uses in self._next.items() if uses}

    # --- all below is called with the lock held, except _start and _finished ---

    def _pin(self, slot: int) -> None:
        if not self._pins[slot]:
            self._free -= 1
            self._rank[slot] = _PINNED
        self._pins[slot] += 1

    def _unpin(self, slot: int) -> None:
        self._pins[slot] -= 1
        if not self._pins[slot]:
            self._free += 1
            block = self._block_of[slot]
            if slot in self._failed:
                del self._failed[slot]
                self._slot_of.pop(block, None)
                self._block_of[slot] = -1
                self._rank[slot] = _NEVER
            else:
                self._rank[slot] = self._rank_of(block)

    def _rank_of(self, block: int) -> int:
        uses = self._next.get(block)
        return uses[0] if uses else _NEVER - self._uses

    def _rerank(self, block: int) -> None:
        slot = self._slot_of.get(block)
        if slot is not None and not self._pins[slot]:
            self._rank[slot] = self._rank_of(block)

    def _effective(self, rank: int) -> int:
        # An announced use that was passed over long ago will not come: the reader went elsewhere.
        stale = 0 <= rank < self._newest_taken - 4 * self.slots
        return _NEVER if stale else rank

    def _take_slot(self, block: int) -> None:
        limit = self._newest_taken - 4 * self.slots
        rank = self._rank
        slot = int((np.where((rank >= 0) & (rank < limit), _NEVER, rank) if limit > 0 else rank).argmax())
        assert not self._pins[slot]
        old = self._block_of[slot]
        if old >= 0:
            del self._slot_of[old]
        self._block_of[slot] = block
        self._slot_of[block] = slot
        self._loading[slot] = True
        self._pin(slot)

    def _consume(self, blocks: Sequence[int]) -> None:
        self._uses += 1
        if not self._next:
            return
        for block in blocks:
            uses = self._next.get(block)
            if uses:
                self._newest_taken = max(self._newest_taken, uses.popleft())
                if not uses:
                    del self._next[block]
        while self._announced and self._announced[0][0] < self._newest_taken - 8 * self.slots:
            self._expire()

    def _expire(self) -> None:
        use, block = self._announced.popleft()
        uses = self._next.get(block)
        if uses and uses[0] == use:
            uses.popleft()
            if not uses:
                del self._next[block]
            self._rerank(block)

    def _wait(self, blocks: Sequence[int], slots: list[int]) -> None:
        with self._changed:
            while any(self._loading[slot] for slot in slots):
                self._changed.wait()
            failures = [self._failed[slot] for slot in slots if slot in self._failed]
            if failures:
                for slot in slots:
                    self._unpin(slot)
                self._changed.notify_all()
                raise failures[0]

    def _start(self, blocks: Sequence[int], *, keep: bool = True) -> None:
        with self._changed:
            slots = [self._slot_of[block] for block in blocks]
        outs = [self._bytes[slot * self._slot_nbytes : (slot + 1) * self._slot_nbytes] for slot in slots]
        places = dict(zip(blocks, slots, strict=True))

        def done(block: int, error: Exception | None) -> None:
            self._finished(places.pop(block), error, keep=keep)

        try:
            self._load(blocks, outs, done)
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            for block in list(places):
                done(block, error)

    def _finished(self, slot: int, error: Exception | None, *, keep: bool) -> None:
        with self._changed:
            self._loading[slot] = False
            if error is not None:
                self._failed[slot] = error
            if not keep:
                self._unpin(slot)
            self._changed.notify_all()
