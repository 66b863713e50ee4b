"""Shard files on a local disk -> one span of addresses in which all of them are mapped.

Every file has its place in one reserved span and is mapped there at its first use, so that rows of any shards are
gathered in one step (see `headrace.native.Rows`): 6 to 9 us for 32 rows of 2,048 uint16 tokens, where NumPy slices
joined row by row take 31. A file stays mapped until the store is closed: no memory that another thread is reading goes
away, and no descriptor is held.

Linux limits the memory maps of a process (vm.max_map_count, 65,530 by default), and a mapped file takes two: the file
and the gap after it. All stores of the process share the limit; a store with more shards than are left is not mapped,
and its blocks are read instead.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import weakref
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ShardError, StoreError
from headrace.native import Rows
from headrace.platform import map_file_at, max_memory_maps, reserve_addresses
from headrace.storage import LocalBlob

_HUGE: Final = 2 << 20
"""Files begin at multiples of this, so that where the page cache holds a file in huge pages (ext4 and XFS do, with
large folios), the kernel maps them as such: touching 80 MB for the first time takes 0.4 ms instead of 8."""
_OTHER_MAPS: Final = 8192
"""Memory maps left to libraries, threads and the rest of the process."""
_MAPS_PER_FILE: Final = 2

_reserved_maps = 0
_reserved_lock = threading.Lock()


def reserved(count: int, dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros that take memory only for the pages that are written, however many they are.

    Raises:
        OSError: more than the process may address.
    """
    nbytes = count * np.dtype(dtype).itemsize
    try:
        memory = reserve_addresses(max(mmap.PAGESIZE, nbytes), writable=True)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return np.zeros(count, dtype)  # a system that cannot reserve addresses
    return np.frombuffer(memory, dtype, count)


def _reserve_maps(count: int) -> None:
    """Count memory maps against the process's limit.

    Raises:
        OSError: they would not leave enough to the rest of the process.
    """
    global _reserved_maps
    limit = max_memory_maps()
    with _reserved_lock:
        if limit is not None and _reserved_maps + count > max(limit - _OTHER_MAPS, limit // 2):
            raise OSError(f"{count} memory maps, of {limit} (vm.max_map_count) {_reserved_maps} are taken")
        _reserved_maps += count


def _release_maps(count: int) -> None:
    global _reserved_maps
    with _reserved_lock:
        _reserved_maps -= count


class MappedFiles:
    """Files of known sizes in one span of addresses."""

    def __init__(self, sizes: NDArray[np.int64]) -> None:
        """Reserve addresses; nothing is read.

        Args:
            sizes: int64 [files], bytes; 0 where a file is never mapped.

        Raises:
            OSError: the span is larger than the process may address, or the files take more memory maps than it has.
        """
        spans = -(-sizes // _HUGE) * _HUGE
        self.starts = np.zeros(len(sizes) + 1, np.int64)
        """int64 [files + 1]: first byte of each file in the span."""
        np.cumsum(spans, out=self.starts[1:])
        self._sizes = sizes
        maps = _MAPS_PER_FILE * int(np.count_nonzero(sizes))
        _reserve_maps(maps)
        try:
            # Addresses only, without access, whatever the size. The mmap object owns them all, mapped files included,
            # and gives them back when the last array on it is gone.
            self.memory = reserve_addresses(_HUGE + int(self.starts[-1]), writable=False)
        except BaseException:
            _release_maps(maps)
            raise
        weakref.finalize(self, _release_maps, maps)
        self._bytes = np.frombuffer(self.memory, np.uint8)
        self._bytes.flags.writeable = False
        self._address = self._bytes.ctypes.data
        self.starts += -self._address % _HUGE
        self._view = memoryview(self.memory)
        self._mapped = np.zeros(len(sizes), bool)
        self._lock = threading.Lock()

    def is_mapped(self, file: int) -> bool:
        """Whether `map` has been called for the file."""
        return bool(self._mapped[file])

    def map(self, file: int, blob: LocalBlob, path: str) -> None:
        """Map a file, unless it is mapped.

        Raises:
            ShardError: it is missing or has another size.
            StoreError: it cannot be opened, or the system allows no more memory maps.
        """
        size = int(self._sizes[file])
        try:
            handle = os.open(blob.path(path), os.O_RDONLY)
        except FileNotFoundError as error:
            raise ShardError(
                f"{blob.url}/{path}: missing, and the shard table names it. Restore it, or write the shard again."
            ) from error
        except OSError as error:
            raise StoreError(f"{blob.url}/{path}: cannot be opened: {error.strerror}") from error
        try:
            actual = os.fstat(handle).st_size
            if actual != size:
                raise ShardError(
                    f"{blob.url}/{path}: {actual} bytes, the shard table says {size}. Truncated or replaced: restore "
                    "it, or write the shard again."
                )
            with self._lock:
                if self._mapped[file]:
                    return
                try:
                    map_file_at(self._address + int(self.starts[file]), size, handle)
                except OSError as error:
                    raise StoreError(
                        f"{blob.url}/{path}: cannot be mapped: {error.strerror}. The process may hold "
                        f"{max_memory_maps()} memory maps (vm.max_map_count); raise the limit, or open fewer stores"
                    ) from error
                self._mapped[file] = True
        finally:
            os.close(handle)

    def bytes(self, file: int, start: int, stop: int) -> memoryview:
        """Bytes of a mapped file, not copied."""
        at = int(self.starts[file])
        return self._view[at + start : at + stop]

    def rows(self, length: int, dtype: np.dtype[Any]) -> Rows:
        """The row at each token's address in the span; only those inside mapped files may be taken."""
        return Rows(self.memory, tokens=len(self._bytes) // dtype.itemsize, length=length, dtype=dtype)
