"""An index in [0, n) and round keys -> another index in [0, n): a keyed bijection in O(1) memory.

A Feistel network over the grid a x b, the smallest near-square grid with a * b >= n: an index is a pair
(left, right) with left in [0, a) and right in [0, b); eight rounds add a hash of one half to the other,
modulo that half's size. The few pairs beyond n are sent through again until they fall inside (cycle
walking), which keeps it a bijection of [0, n).

Why this grid and not powers of two: with powers of two up to half of the indices walk, and a chunk's cost
depends on n (10 to 45 ns a row measured, 160 where chunks are small). Here a * b exceeds n by less than
a + b, next to nothing walks, and every n costs the same 22 to 30 ns, or 4 to 10 once permute.c is compiled.

The orders of all runs ever recorded depend on the arithmetic in this file and in permute.c; tests/order hold golden
values.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headrace.compiled import Beside
from headrace.errors import OrderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDS = 8
MAX_ROWS = 2**62

# Odd 64-bit constants with evenly spread bits: the golden ratio, and a prime of the xxHash family.
_MULTIPLY_1 = 0x9E3779B97F4A7C15
_MULTIPLY_2 = 0xC2B2AE3D27D4EB4F
_MASK_64 = 2**64 - 1

# The smallest side of the grid. With sides of 1 or 2 a network can only rotate; 16 x 16 and some walking make
# all n! orders of a tiny n equally likely (tests/order/test_permute.py: chi-squared over n = 3, 4, 5).
_MIN_SIDE = 16

# 2**13 indices of 8 bytes: the four arrays in use stay inside a second-level cache of 512 KiB. With twice as
# many they do not, beside what else is in use, and an index costs 39 ns instead of 25.
_CHUNK = 1 << 13

_number, _pointer = ctypes.c_uint64, ctypes.c_void_p
_permute = Beside(
    Path(__file__).with_name("permute.c"),
    "permute",
    (_pointer, _pointer, ctypes.c_int64, _number, _number, _number, _pointer),
    after=1 << 22,  # indices of 22 ns: by then as much was spent as compiling takes
)


def round_keys(*, seed: int, source: str, epoch: int, purpose: str = "rows") -> NDArray[np.uint64]:
    """Round keys of one epoch of one source.

    Hashed, never added: with `seed + epoch` the second epoch of run s would be the first of run s + 1.

    Args:
        seed: any int.
        source: name of the source; keeps the orders of a mixture independent.
        epoch: which pass over the source.
        purpose: keeps the permutations of rows, blocks and quotas apart.

    Returns:
        uint64 [8].
    """
    text = f"headrace order 1\0{purpose}\0{source}\0{seed}\0{epoch}".encode()
    return np.frombuffer(hashlib.blake2b(text, digest_size=8 * ROUNDS).digest(), dtype="<u8")


def permute(index: int, *, n: int, keys: NDArray[np.uint64]) -> int:
    """Where one index goes; equal to `permute_many` of one.

    Args:
        index: in [0, n).
        n: size of the domain, 1 to 2**62.
        keys: uint64 [8] from `round_keys`.

    Returns:
        An index in [0, n); distinct for distinct inputs.

    Raises:
        OrderError: n or index out of range.
    """
    a, b = _grid(n)
    if not 0 <= index < n:
        raise OrderError(f"index {index} is outside of [0, {n})")
    rounds = [int(key) for key in keys]
    while True:
        left, right = divmod(index, b)
        for number, key in enumerate(rounds):
            if number % 2 == 0:
                left = (left + _hash(right, key, a)) % a
            else:
                right = (right + _hash(left, key, b)) % b
        index = left * b + right
        if index < n:
            return index


def permute_many(indices: NDArray[np.int64], *, n: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where many indices go, in chunks that stay in cache: 4 to 10 ns each in C, 22 to 30 in NumPy.

    Args:
        indices: int64 [N], each in [0, n).
        n: size of the domain, 1 to 2**62.
        keys: uint64 [8] from `round_keys`.

    Returns:
        int64 [N], each in [0, n).

    Raises:
        OrderError: n or an index out of range.

    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", generalised Feistel with cycle
    walking (here for order, not for secrecy).
    """
    a, b = _grid(n)
    if indices.size and not (int(indices.min()) >= 0 and int(indices.max()) < n):
        raise OrderError(f"indices {int(indices.min())} to {int(indices.max())} are not inside of [0, {n})")
    x = indices.astype(np.uint64)
    if n < _MIN_SIDE**2:
        return _walk_in_table(x, n, keys)
    out = np.empty_like(x)
    if _permute.function is not None:
        _permute.function(x.ctypes.data, out.ctypes.data, x.size, n, a, b, keys.ctypes.data)
        return out.view(np.int64)
    _permute.done(x.size)
    _encode(x, out, a, b, keys)
    walking = np.flatnonzero(out >= np.uint64(n))
    while walking.size:
        x = out[walking]
        again = np.empty_like(x)
        _encode(x, again, a, b, keys)
        out[walking] = again
        walking = walking[again >= np.uint64(n)]
    return out.view(np.int64)


def _grid(n: int) -> tuple[int, int]:
    if not 1 <= n <= MAX_ROWS:
        raise OrderError(f"a permutation of {n} rows: 1 to 2**62 rows can be ordered")
    a = max(math.isqrt(n), _MIN_SIDE)
    return a, max(-(-n // a), _MIN_SIDE)


def _walk_in_table(x: NDArray[np.uint64], n: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """`permute_many` for a tiny n, where most of the grid is walked over: one pass, then look-ups."""
    table = np.arange(_MIN_SIDE**2, dtype=np.uint64)
    _encode(table.copy(), table, _MIN_SIDE, _MIN_SIDE, keys)
    out = table[x]
    while (walking := out >= np.uint64(n)).any():
        out[walking] = table[out[walking]]
    return out.view(np.int64)


def _hash(half: int, key: int, size: int) -> int:
    x = ((half + key) * _MULTIPLY_1) & _MASK_64
    x ^= x >> 32
    x = ((x * _MULTIPLY_2) & _MASK_64) >> 32
    return (x * size) >> 32


def _encode(x: NDArray[np.uint64], out: NDArray[np.uint64], a: int, b: int, keys: NDArray[np.uint64]) -> None:
    """All rounds over `x` into `out`; the same arithmetic as `permute`, on whole chunks."""
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
