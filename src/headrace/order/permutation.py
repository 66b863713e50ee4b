"""An index in [0, n) and round keys -> another index in [0, n): a keyed bijection in O(1) memory.

A Feistel network over the grid a x b, the smallest near-square grid with a * b >= n: an index is a pair
(left, right) with left in [0, a) and right in [0, b); eight rounds add a hash of one half to the other,
modulo that half's size. The few pairs beyond n are permuted again until they are inside (cycle walking), so that the
result is a bijection of [0, n).

Why this grid and not powers of two: with powers of two up to half of the indices have to walk, and the cost of a
chunk depends on n (10 to 45 ns a row measured, 160 where chunks are small). Here a * b exceeds n by less than
a + b, almost no index walks, and every n costs the same: 4 to 10 ns in C, 22 to 30 in NumPy (headrace.native).

The orders of all recorded runs depend on the arithmetic in this file and in native/permutation.py; tests/order has
golden values.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

from headrace.errors import OrderError
from headrace.native import ROUNDS, permute_array, permute_index

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ROWS = 2**62

# The smallest side of the grid. With sides of 1 or 2 a network can only rotate; 16 x 16 and some walking make
# all n! orders of a tiny n equally likely (tests/order/test_permute.py: chi-squared over n = 3, 4, 5).
_MIN_SIDE = 16


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
    return permute_index(index, n=n, a=a, b=b, keys=[int(key) for key in keys])


def permute_many(indices: NDArray[np.int64], *, n: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where many indices go: 4 to 10 ns each in C, 22 to 30 in NumPy.

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
    return permute_array(x, n=n, a=a, b=b, keys=keys).view(np.int64)


def _grid(n: int) -> tuple[int, int]:
    if not 1 <= n <= MAX_ROWS:
        raise OrderError(f"a permutation of {n} rows: 1 to 2**62 rows can be ordered")
    a = max(math.isqrt(n), _MIN_SIDE)
    return a, max(-(-n // a), _MIN_SIDE)


def _walk_in_table(x: NDArray[np.uint64], n: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """`permute_many` for a tiny n, where most of the grid is walked over: one pass, then look-ups."""
    grid = np.arange(_MIN_SIDE**2, dtype=np.uint64)
    table = permute_array(grid, n=_MIN_SIDE**2, a=_MIN_SIDE, b=_MIN_SIDE, keys=keys)
    out = table[x]
    while (walking := out >= np.uint64(n)).any():
        out[walking] = table[out[walking]]
    return out.view(np.int64)
