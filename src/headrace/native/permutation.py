"""Indices in [0, n) and round keys -> a permutation of them; in C, or in NumPy with the same arithmetic.

A Feistel network over the grid a x b with a * b >= n: an index is a pair (left, right) with left in [0, a) and right
in [0, b); eight rounds add a hash of one half to the other, modulo that half's size. The few pairs beyond n are
encoded again until they fall inside (cycle walking), which keeps it a bijection of [0, n). order/permutation.py chooses
the grid and derives the keys.

The orders of all runs ever recorded depend on this arithmetic, here and in c/permute.h; tests/order hold golden values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from headrace.native.load import kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDS: Final = 8

# Odd 64-bit constants with evenly spread bits: the golden ratio, and a prime of the xxHash family.
_MULTIPLY_1 = 0x9E3779B97F4A7C15
_MULTIPLY_2 = 0xC2B2AE3D27D4EB4F
_MASK_64 = 2**64 - 1

# 2**13 indices of 8 bytes: the four arrays in use stay inside a second-level cache of 512 KiB. With twice as
# many they do not, beside what else is in use, and an index costs 39 ns instead of 25.
_CHUNK = 1 << 13


def permute_index(index: int, *, n: int, a: int, b: int, keys: Sequence[int]) -> int:
    """Where one index goes, in Python's integers; equal to `permute_array` of one."""
    while True:
        left, right = divmod(index, b)
        for number, key in enumerate(keys):
            if number % 2 == 0:
                left = (left + _hash(right, key, a)) % a
            else:
                right = (right + _hash(left, key, b)) % b
        index = left * b + right
        if index < n:
            return index


def permute_array(
    x: NDArray[np.uint64], *, n: int, a: int, b: int, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Where indices go: 5 ns each in C, 22 to 30 in NumPy.

    Args:
        x: uint64 [N], each in [0, n), C order.
        n: size of the domain, 1 to 2**62.
        a: rows of the grid.
        b: columns of the grid; a * b >= n.
        keys: uint64 [8].

    Returns:
        uint64 [N], each in [0, n).
    """
    out = np.empty_like(x)
    if (native := kernels()) is not None:
        native.permute(x, out, n, a, b, keys)
        return out
    _encode(x, out, a, b, keys)
    walking = np.flatnonzero(out >= np.uint64(n))
    while walking.size:
        x = out[walking]
        again = np.empty_like(x)
        _encode(x, again, a, b, keys)
        out[walking] = again
        walking = walking[again >= np.uint64(n)]
    return out


def _hash(half: int, key: int, size: int) -> int:
    x = ((half + key) * _MULTIPLY_1) & _MASK_64
    x ^= x >> 32
    x = ((x * _MULTIPLY_2) & _MASK_64) >> 32
    return (x * size) >> 32


def _encode(x: NDArray[np.uint64], out: NDArray[np.uint64], a: int, b: int, keys: NDArray[np.uint64]) -> None:
    """All rounds over `x` into `out`, in NumPy; a result may be beyond n."""
    shift = np.uint64(32)
    sizes = np.uint64(a), np.uint64(b)
    multiply_1, multiply_2 = np.uint64(_MULTIPLY_1), np.uint64(_MULTIPLY_2)
    scratch = np.empty((2, min(_CHUNK, x.size)), np.uint64)
    for begin in range(0, x.size, _CHUNK):
        end = min(begin + _CHUNK, x.size)
        h, t = scratch[:, : end - begin]
        halves = np.divmod(x[begin:end], sizes[1])
        for number in range(ROUNDS):
            changed, other, size = halves[number % 2], halves[1 - number % 2], sizes[number % 2]
            np.add(other, keys[number], out=h)
            np.multiply(h, multiply_1, out=h)
            np.right_shift(h, shift, out=t)
            np.bitwise_xor(h, t, out=h)
            np.multiply(h, multiply_2, out=h)
            np.right_shift(h, shift, out=h)
            np.multiply(h, size, out=h)
            np.right_shift(h, shift, out=h)
            np.add(changed, h, out=changed)
            # Both summands are below `size`. Where the sum is not, the smaller of (sum, sum - size) is the
            # remainder; where it is, sum - size wraps to a huge number and the sum itself is the smaller.
            np.subtract(changed, size, out=t)
            np.minimum(changed, t, out=changed)
        np.multiply(halves[0], sizes[1], out=out[begin:end])
        np.add(out[begin:end], halves[1], out=out[begin:end])
