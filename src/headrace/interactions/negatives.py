"""(seed, position, user) -> items that the user does not have: a hash without state."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.errors import OrderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headrace.interactions.positives import UserItems

_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
"""Shifts and factors of SplitMix64's output function (Steele, Lea and Flood 2014)."""


def sample_negatives(
    have: UserItems, users: NDArray[np.int64], positions: NDArray[np.int64], *, seed: int, count: int
) -> NDArray[np.int64]:
    """Items for each row that its user does not have, uniform among those; one may be drawn twice.

    A position of the global order counts all epochs, so that each epoch has other negatives. The same (seed, position,
    user) gives the same items on any rank and after any restart.

    Args:
        have: the items of each user.
        users: int64 [B], number of the user of each row.
        positions: int64 [B], position of each row in the global order.
        seed: any int.
        count: negatives for each row.

    Returns:
        int64 [B, count], each in [0, have.num_items).

    Raises:
        OrderError: no such user.
    """
    if len(users) and not 0 <= int(users.min()) <= int(users.max()) < len(have.offsets) - 1:
        raise OrderError(f"users {users.min()} to {users.max()}; the store has {len(have.offsets) - 1}")
    digest = hashlib.blake2b(f"headrace negatives 1\0{seed}".encode(), digest_size=8).digest()
    key = np.uint64(int.from_bytes(digest, "little"))
    row_hashes = _mixed(_mixed(key ^ positions.astype(np.uint64)) ^ users.astype(np.uint64))
    hashes = _mixed(row_hashes[:, None] ^ np.arange(count, dtype=np.uint64))
    # The top 53 bits as a float in [0, 1), times the number of choices: below 2**31, so the product is below it.
    choices = have.num_negatives(users)
    ranks = ((hashes >> np.uint64(11)) * 2.0**-53 * choices[:, None]).astype(np.int64)
    # The rank-th item that a user does not have = rank + how many of the user's items are below it.
    bases = users * (have.num_items + 1)
    found = np.searchsorted(have.skipped, bases[:, None] + ranks, side="right")
    negatives: NDArray[np.int64] = ranks + found - have.offsets[users][:, None]
    return negatives


def _mixed(values: NDArray[Any]) -> NDArray[np.uint64]:
    """SplitMix64 of each value; multiplication wraps."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in _MIX:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    result: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result
