"""Keys and values of new tokens -> those of all tokens so far, in memory that is taken once.

Shapes: L layers, B rows, H heads, S slots (tokens a row can hold), D head dimension, T new tokens.
Slot s of a row holds the token at position s, so the row's length describes it. Slots behind the length hold old
values, which a mask hides and the next token overwrites.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headrace.errors import ConfigError

ALIGNMENT = 64
"""Bytes, as torch aligns its own memory."""


class KVCache:
    """Preallocated cache of B rows, each with its own length.

    Call `extend` once per layer, then `advance` once with the number of tokens of each row: rows padded on the
    right grow by their own number.

    >>> kv = KVCache(num_layers=1, num_rows=2, num_heads=1, capacity=4, head_dim=1)
    >>> k, v, mask = kv.extend(0, torch.ones(2, 1, 3, 1), torch.ones(2, 1, 3, 1))
    >>> kv.advance([3, 2])
    >>> kv.positions(1).tolist()
    [[3], [2]]
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_rows: int,
        num_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (num_layers, num_rows, num_heads, capacity, head_dim)
        if min(shape) < 1:
            raise ConfigError(
                f"cache: layers, rows, heads, slots, head dimension are {shape}; each must be >= 1."
            )
        # Zeros, not empty: uninitialised memory may hold NaN, and a masked NaN still spoils the weighted sum.
        self.k_LBHSD = _zeros(shape, dtype=dtype, device=device)
        self.v_LBHSD = _zeros(shape, dtype=dtype, device=device)
        # One pair of views a layer, made once: making them costs as much as a small product.
        self.layers = tuple(zip(self.k_LBHSD.unbind(0), self.v_LBHSD.unbind(0), strict=True))
        self.lengths_B = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self._lengths = [0] * num_rows
        self._mask_key: tuple[tuple[int, ...], int] | None = None
        self._mask: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Rows that the cache holds (B)."""
        return len(self._lengths)

    @property
    def capacity(self) -> int:
        """Tokens that a row can hold (S)."""
        return self.k_LBHSD.shape[3]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens that each row holds."""
        return tuple(self._lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return 2 * self.k_LBHSD.nbytes

    def positions(self, num_tokens: int) -> Tensor:
        """Position of each of the next num_tokens, int64 [B, T]."""
        return self.lengths_B[:, None] + torch.arange(num_tokens, device=self.lengths_B.device)

    def extend(self, layer: int, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store a layer's new keys and values behind each row's length.

        Args:
            layer: in [0, L).
            k_BHTD: keys of T new tokens a row, any float type (stored in the cache's).
            v_BHTD: their values.

        Returns:
            Keys and values up to the longest row, views [B, H, S', D], and a bool mask [B, 1, T, S'],
            True where a new token attends to a slot: none behind itself. No mask means causal when S' = T,
            and all slots when T = 1.

        Raises:
            ConfigError: a row would outgrow the cache.
        """
        T = k_BHTD.shape[2]
        longest, shortest = max(self._lengths), min(self._lengths)
        stop = longest + T
        if stop > self.capacity:
            raise ConfigError(
                f"cache: a row of {longest} tokens and {T} more; the cache holds {self.capacity}."
            )
        k_BHSD, v_BHSD = self.k_LBHSD[layer], self.v_LBHSD[layer]
        if longest == shortest:
            k_BHSD[:, :, longest:stop] = k_BHTD
            v_BHSD[:, :, longest:stop] = v_BHTD
        else:
            rows_B1 = torch.arange(self.num_rows, device=self.lengths_B.device)[:, None]
            slots_BT = self.positions(T)
            # Two index tensors around a slice put their axes in front: [B, T, H, D].
            k_BHSD[rows_B1, :, slots_BT] = k_BHTD.transpose(1, 2).to(k_BHSD.dtype)
            v_BHSD[rows_B1, :, slots_BT] = v_BHTD.transpose(1, 2).to(v_BHSD.dtype)
        return k_BHSD[:, :, :stop], v_BHSD[:, :, :stop], self._seen(T, stop, ragged=longest != shortest)

    def advance(self, counts: int | Sequence[int]) -> None:
        """Count the tokens that `extend` has stored: one number for all rows, or one for each."""
        grown = [counts] * self.num_rows if isinstance(counts, int) else list(counts)
        if len(grown) != self.num_rows or min(grown) < 0:
            raise ConfigError(f"cache: counts {grown} for {self.num_rows} rows; one number >= 0 each.")
        self._lengths = [length + count for length, count in zip(self._lengths, grown, strict=True)]
        self.lengths_B = torch.tensor(self._lengths, dtype=torch.int64, device=self.lengths_B.device)

    def truncate(self, length: int = 0) -> None:
        """Drop every row's tokens from a position on."""
        self._lengths = [min(length, now) for now in self._lengths]
        self.lengths_B = self.lengths_B.clamp(max=length)

    def move(self, source: int, target: int, *, length: int) -> None:
        """Copy the first tokens of one row over another row's."""
        self.k_LBHSD[:, target, :, :length] = self.k_LBHSD[:, source, :, :length]
        self.v_LBHSD[:, target, :, :length] = self.v_LBHSD[:, source, :, :length]

    def copy_tokens(self, slot: int, start: int, stop: int) -> Tensor:
        """A copy of the keys and values of some tokens of a row, [2, L, H, T, D]."""
        return torch.stack((self.k_LBHSD[:, slot, :, start:stop], self.v_LBHSD[:, slot, :, start:stop]))

    def paste_tokens(self, slot: int, start: int, block_2LHTD: Tensor) -> None:
        """Write what `copy_tokens` returned over a row's tokens from a position on."""
        stop = start + block_2LHTD.shape[3]
        self.k_LBHSD[:, slot, :, start:stop] = block_2LHTD[0]
        self.v_LBHSD[:, slot, :, start:stop] = block_2LHTD[1]

    def resized(self, *, num_rows: int, capacity: int, keep_rows: int, keep_tokens: int) -> KVCache:
        """A cache of another size with the first tokens of the first rows copied over."""
        L, _, H, _, D = self.k_LBHSD.shape
        other = KVCache(
            num_layers=L,
            num_rows=num_rows,
            num_heads=H,
            capacity=capacity,
            head_dim=D,
            dtype=self.k_LBHSD.dtype,
            device=self.k_LBHSD.device,
        )
        for mine, theirs in ((self.k_LBHSD, other.k_LBHSD), (self.v_LBHSD, other.v_LBHSD)):
            theirs[:, :keep_rows, :, :keep_tokens] = mine[:, :keep_rows, :, :keep_tokens]
        return other

    def _seen(self, num_tokens: int, stop: int, *, ragged: bool) -> Tensor | None:
        if not ragged and num_tokens in (1, stop):
            return None
        key = (tuple(self._lengths), num_tokens)
        if key != self._mask_key:  # one mask serves all layers of a step
            slots_S = torch.arange(stop, device=self.lengths_B.device)
            self._mask = (slots_S <= self.positions(num_tokens)[:, :, None])[:, None]
            self._mask_key = key
        return self._mask


def _zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Zeros whose pages the kernel gives when they are used: rows that never run cost nothing."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    nbytes = math.prod(shape) * dtype.itemsize
    memory = torch.from_numpy(np.zeros(nbytes + ALIGNMENT, dtype=np.uint8))  # calloc; torch.zeros writes
    start = -memory.data_ptr() % ALIGNMENT
    return memory[start : start + nbytes].view(dtype).view(shape)
