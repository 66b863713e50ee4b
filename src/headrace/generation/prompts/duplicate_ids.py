"""Ids, one by one -> hashes that came more than once, in the memory of one buffer.

    each full buffer, sorted, goes to a temporary file; at the end one 256th of all hashes is looked at a time

10^9 ids take 8 GB of disk and some 40 MB of memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Self

import numpy as np
import numpy.typing as npt
import xxhash

BUFFER = 1 << 17
BUCKETS = 256

Hashes = npt.NDArray[np.uint64]


class DuplicateIds:
    """Finds ids that are given twice; a context, which has a temporary file."""

    def __init__(self) -> None:
        self._buffer: Hashes = np.empty(BUFFER, dtype=np.uint64)
        self._count = 0
        self._edges: list[npt.NDArray[np.int64]] = []
        """Of each written buffer, where its buckets begin and the last one ends."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # __exit__ closes it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, name: str) -> None:
        """One more id."""
        if self._count == BUFFER:
            self._flush()
        self._buffer[self._count] = hash_of(name)
        self._count += 1

    def found(self) -> set[int]:
        """Hashes that came more than once; equal hashes of different ids are among them."""
        self._flush()
        twins: set[int] = set()
        for bucket in range(BUCKETS):
            hashes = np.sort(np.concatenate([*self._read(bucket), np.empty(0, np.uint64)]))
            twins.update(hashes[:-1][hashes[1:] == hashes[:-1]].tolist())
        return twins

    def _flush(self) -> None:
        hashes = np.sort(self._buffer[: self._count])
        starts = np.arange(BUCKETS, dtype=np.uint64) << np.uint64(56)
        self._edges.append(np.append(np.searchsorted(hashes, starts), self._count))
        hashes.resize(BUFFER, refcheck=False)  # each takes the same room, so that its place is known
        self._file.write(hashes.tobytes())
        self._count = 0

    def _read(self, bucket: int) -> Iterator[Hashes]:
        for number, edges in enumerate(self._edges):
            first, last = int(edges[bucket]), int(edges[bucket + 1])
            self._file.seek((number * BUFFER + first) * 8)
            yield np.frombuffer(self._file.read((last - first) * 8), dtype=np.uint64)


def hash_of(name: str) -> int:
    """64 bits of an id."""
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))
