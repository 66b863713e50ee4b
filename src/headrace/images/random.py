"""A seed and a position -> uniform numbers: a hash of both, without state."""

from __future__ import annotations

import hashlib
import struct

_NUMBERS = struct.Struct("<8Q")


class PositionRandom:
    """Uniform numbers of one row at one position of the global order; always the same ones, in the same order.

    >>> PositionRandom(1, 7).uniform() == PositionRandom(1, 7).uniform()
    True
    """

    __slots__ = ("_calls", "_numbers", "_text")

    def __init__(self, seed: int, position: int) -> None:
        self._text = f"headrace image 1\0{seed}\0{position}".encode()
        self._calls = 0
        self._numbers: list[int] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        if not self._numbers:
            digest = hashlib.blake2b(self._text, digest_size=64, salt=self._calls.to_bytes(16, "little"))
            self._numbers = list(_NUMBERS.unpack(digest.digest()))
            self._calls += 1
        return low + (high - low) * ((self._numbers.pop() >> 11) * 2.0**-53)

    def integer(self, stop: int) -> int:
        """An integer in [0, stop)."""
        return min(int(self.uniform() * stop), stop - 1)
