"""Texts -> 128-bit hashes; hashes of all documents in order -> which are duplicates of earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

SKETCH = np.dtype((np.uint64, 2))
PARTITION_BYTES = 256 << 20


def sketch(texts: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """XXH3-128 of each text: uint64 [n, 2]. Two different ones of 10^12 texts collide with chance 10^-15."""
    data = b"".join([xxhash.xxh3_128_digest(text) for text in texts])
    return np.frombuffer(data, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def repeats(
    sketches: Sequence[npt.NDArray[np.uint64]], *, partition_bytes: int = PARTITION_BYTES
) -> npt.NDArray[np.bool_]:
    """Which documents are duplicates of earlier ones: bool [documents], in the order of the sketches.

    The hashes are processed in as many partitions as fit into memory one at a time.

    Args:
        sketches: uint64 [n_i, 2] each; may be mapped files.
        partition_bytes: memory for one partition's hashes and numbers.

    >>> repeats([sketch([b"a", b"b"]), sketch([b"b", b"a", b"c"])]).tolist()
    [False, False, True, True, False]
    """
    total = sum(len(part) for part in sketches)
    again = np.zeros(total, dtype=np.bool_)
    partitions = max(1, -(-total * 24 // partition_bytes))
    for partition in range(partitions):
        hashes, numbers = _partition(sketches, partition, partitions)
        order = np.lexsort((numbers, hashes[:, 1], hashes[:, 0]))
        ordered = hashes[order]
        same = (ordered[1:] == ordered[:-1]).all(axis=1)
        again[numbers[order[1:][same]]] = True
    return again


def _partition(
    sketches: Sequence[npt.NDArray[np.uint64]], partition: int, partitions: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    hashes: list[Any] = [np.empty((0, 2), np.uint64)]
    numbers: list[Any] = [np.empty(0, np.int64)]
    first = 0
    for part in sketches:
        chosen = np.flatnonzero(part[:, 0] % np.uint64(partitions) == partition)
        hashes.append(part[chosen])
        numbers.append(chosen + first)
        first += len(part)
    return np.concatenate(hashes), np.concatenate(numbers)
