"""Ids, one by one -> the hashes that occur more than once, in the memory of one buffer.

Each full buffer is sorted and written to a temporary file; at the end, one 256th of all hashes is compared at a time.

10^9 ids take 8 GB of disk and some 40 MB of memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Self

import numpy as np
import numpy.typing as npt
import xxhash

from headrace.storage import disk_errors

BUFFER = 1 << 17
BUCKETS = 256

Hashes = npt.NDArray[np.uint64]


class DuplicateIds:
    """Finds duplicate ids; a context manager, since it has a temporary file."""

    def __init__(self) -> None:
        self._buffer: Hashes = np.empty(BUFFER, dtype=np.uint64)
        self._count = 0
        self._edges: list[npt.NDArray[np.int64]] = []
        """For each written buffer, the beginning of each bucket, and the end of the last one."""
        with disk_errors(tempfile.gettempdir()):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # __exit__ closes it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, name: str) -> None:
        """Add an id."""
        if self._count == BUFFER:
            self._flush()
        self._buffer[self._count] = hash_of(name)
        self._count += 1

    def hashes(self) -> set[int]:
        """Hashes that occur more than once; among them are equal hashes of different ids."""
        self._flush()
        duplicates: set[int] = set()
        for bucket in range(BUCKETS):
            sorted_hashes = np.sort(np.concatenate([*self._read(bucket), np.empty(0, np.uint64)]))
            duplicates.update(sorted_hashes[:-1][sorted_hashes[1:] == sorted_hashes[:-1]].tolist())
        return duplicates

    def _flush(self) -> None:
        hashes = np.sort(self._buffer[: self._count])
        starts = np.arange(BUCKETS, dtype=np.uint64) << np.uint64(56)
        self._edges.append(np.append(np.searchsorted(hashes, starts), self._count))
        hashes.resize(
            BUFFER, refcheck=False
        )  # all buffers have one length, so that the place of each is known
        with disk_errors(tempfile.gettempdir()):
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
