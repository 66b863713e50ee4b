"""A prompt's token ids -> the keys and values of the longest prefix that was computed before.

Blocks are found by the hash of their tokens and of all before them, see `block_keys`. They are kept in memory, the
least recently used removed first, and in a directory where one is given. A block is never changed.

Shapes: L layers, H key/value heads, T tokens of a block, D head width.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headrace.generation.prefix_cache.directory import BlockDirectory
from headrace.generation.prefix_cache.token_hashes import BLOCK_TOKENS, block_keys, root_key
from headrace.model import KVCache

REFRESH_S = 60.0
"""A block in memory that is used again is marked as used in the directory at most this often."""
MAX_ROOTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixMatch:
    """What is known of a prompt."""

    keys: tuple[str, ...] = ()
    """Of all its whole blocks."""
    blocks: tuple[Tensor, ...] = ()
    """Of the first ones that are known, each [2, L, H, T, D]; at least one token of the prompt is in none of them."""
    num_tokens: int = 0
    """In `blocks`."""

    @property
    def next_key(self) -> str | None:
        """Key of the first block that is not known."""
        return self.keys[len(self.blocks)] if len(self.blocks) < len(self.keys) else None


@dataclass(slots=True)
class MemoryBlock:
    """A block in memory."""

    kv: Tensor
    stored_at: float | None = None
    """When it was last given to the directory."""


@dataclass(slots=True, kw_only=True)
class PrefixCache:
    """Blocks of one model; not safe for threads."""

    model: str
    """Identifies the weights and the arithmetic."""
    dtype: torch.dtype
    shape: tuple[int, ...]
    """Of a block: [2, L, H, T, D]."""
    memory_bytes: int
    """Bound of the blocks in memory."""
    keep_answers: bool = False
    """Keep generated tokens as well, for the next turn of a conversation."""
    directory: BlockDirectory | None = None
    clock: Callable[[], float] = time.monotonic
    _blocks: OrderedDict[str, MemoryBlock] = field(default_factory=OrderedDict)
    _roots: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def shape_for(cls, kv: KVCache, *, block_tokens: int = BLOCK_TOKENS) -> tuple[int, ...]:
        """Shape of a block of a model.

        Args:
            kv: any cache of the model.
            block_tokens: tokens of a block.
        """
        L, _, H, _, D = kv.k_LBHSD.shape
        return 2, L, H, block_tokens, D

    @property
    def block_tokens(self) -> int:
        """Tokens of a block (T)."""
        return self.shape[3]

    @property
    def block_nbytes(self) -> int:
        """Bytes of a block."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    @property
    def max_blocks(self) -> int:
        """Blocks that memory may hold."""
        return self.memory_bytes // self.block_nbytes

    @property
    def num_blocks(self) -> int:
        """Blocks in memory."""
        return len(self._blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks in memory."""
        return len(self._blocks) * self.block_nbytes

    def find(self, token_ids: Sequence[int], *, scope: str = "") -> PrefixMatch:
        """The longest known prefix of a prompt that leaves at least one token to compute.

        Args:
            token_ids: of the prompt.
            scope: only blocks that were inserted with the same scope are found.
        """
        keys = self.keys_of(token_ids, scope=scope)
        found: list[Tensor] = []
        for key in keys[: (len(token_ids) - 1) // self.block_tokens]:
            block = self._get(key)
            if block is None:
                break
            found.append(block)
        self._mark_used(keys[: len(found)])
        return PrefixMatch(keys=tuple(keys), blocks=tuple(found), num_tokens=len(found) * self.block_tokens)

    def keys_of(self, token_ids: Sequence[int], *, scope: str = "") -> list[str]:
        """Keys of the whole blocks of a text."""
        root = self._roots.get(scope)
        if root is None:
            if len(self._roots) >= MAX_ROOTS:
                self._roots.clear()
            dtype = str(self.dtype).removeprefix("torch.")
            root = root_key(model=self.model, dtype=dtype, shape=self.shape, scope=scope)
            self._roots[scope] = root
        return block_keys(token_ids, root=root, block_tokens=self.block_tokens)

    def insert(self, keys: Sequence[str], kv: KVCache, slot: int) -> None:
        """Keep the blocks of a row that are not known.

        Args:
            keys: of the row's first blocks.
            kv: holds them.
            slot: of the row in it.
        """
        T = self.block_tokens
        kept = keys[: self.max_blocks]  # a longer text would remove its own beginning
        for number, key in enumerate(kept):
            if key not in self._blocks:
                self._put(key, MemoryBlock(kv.copy_tokens(slot, number * T, (number + 1) * T)))
        self._mark_used(kept)

    def close(self, timeout_s: float | None = None) -> None:
        """Wait until the directory holds every block, at most so long."""
        if self.directory is not None:
            self.directory.flush(timeout_s)

    def _get(self, key: str) -> Tensor | None:
        known = self._blocks.get(key)
        if known is not None:
            return known.kv
        block = None if self.directory is None else self.directory.read(key)
        if block is not None and self.max_blocks:
            self._put(key, MemoryBlock(block, self.clock()))
        return block

    def _put(self, key: str, block: MemoryBlock) -> None:
        self._blocks[key] = block
        while len(self._blocks) > self.max_blocks:
            self._blocks.popitem(last=False)

    def _mark_used(self, keys: Sequence[str]) -> None:
        """Make a chain the most recently used, its first block last, so that it is removed from its end."""
        known = [key for key in keys if key in self._blocks]
        for key in reversed(known):
            self._blocks.move_to_end(key)
        if self.directory is None:
            return
        now = self.clock()
        due = [
            block
            for block in map(self._blocks.__getitem__, known)
            if block.stored_at is None or now - block.stored_at >= REFRESH_S
        ]
        if due and self.directory.write_later([(key, self._blocks[key].kv) for key in known]):
            for key in known:
                self._blocks[key].stored_at = now
