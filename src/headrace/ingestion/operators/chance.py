"""A text and a purpose -> a number in [0, 1) that is always the same for it, and looks random."""

from __future__ import annotations

import xxhash


def chance(text: bytes, purpose: str, seed: int = 0) -> float:
    """Uniform over texts, independent between purposes and seeds; equal texts have equal numbers.

    >>> chance(b"a", "sample") == chance(b"a", "sample") != chance(b"a", "validation")
    True
    """
    key = xxhash.xxh3_64_intdigest(f"{purpose}/{seed}".encode())
    return float(xxhash.xxh3_64_intdigest(text, seed=key) >> 11) / (1 << 53)
