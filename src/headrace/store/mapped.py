"""Shard files on a local disk -> one span of addresses in which all of them are mapped.

Every file has its place in one reserved span and is mapped there when it is first touched, so that rows of any
shards are gathered in one step (see `headrace.native.Rows`): 6 to 9 us for 32 rows of 2,048 uint16 tokens, where
NumPy slices joined row by row take 31. A file stays mapped until the store is closed: nothing that another
thread is reading goes away, and no descriptor is held.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ShardError
from headrace.native import Rows
from headrace.storage import LocalBlob

_PAGE: Final = mmap.PAGESIZE
_HUGE: Final = 2 << 20
"""Files begin at multiples of this, so that where the page cache holds a file in huge pages (ext4 and XFS do, with
large folios), the kernel maps them as such: touching 80 MB for the first time takes 0.4 ms instead of 8."""
_MAP_FIXED: Final = 0x10  # Linux and macOS; Python's mmap module does not offer it
_NO_RESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_longlong,
]


def reserved(count: int, dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros of which only the pages that are touched take memory, however many they are.

    Raises:
        OSError: more than the process may address.
    """
    nbytes = count * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, max(_PAGE, nbytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    return np.frombuffer(memory, dtype, count)


class MappedFiles:
    """Files of known sizes in one span of addresses."""

    def __init__(self, sizes: NDArray[np.int64]) -> None:
        """Reserve addresses; nothing is read.

        Args:
            sizes: int64 [files], bytes; 0 where a file is never mapped.

        Raises:
            OSError: the span is larger than the process may address.
        """
        spans = -(-sizes // _HUGE) * _HUGE
        self.starts = np.zeros(len(sizes) + 1, np.int64)
        """int64 [files + 1]: first byte of each file in the span."""
        np.cumsum(spans, out=self.starts[1:])
        self._sizes = sizes
        # No access and no reservation: addresses only, whatever the size. The mmap object owns them all, files
        # mapped inside included, and gives them back when the last array on it is gone.
        self.memory = mmap.mmap(
            -1,
            _HUGE + int(self.starts[-1]),
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE,
            prot=0,
        )
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
        """Map a file, unless it is.

        Raises:
            ShardError: it is missing or has another size.
            OSError: the kernel allows no more mappings.
        """
        size = int(self._sizes[file])
        try:
            handle = os.open(blob.path(path), os.O_RDONLY)
        except FileNotFoundError as error:
            raise ShardError(
                f"{blob.url}/{path}: missing, and the shard table names it. Restore it, or write the shard again."
            ) from error
        try:
            got = os.fstat(handle).st_size
            if got != size:
                raise ShardError(
                    f"{blob.url}/{path}: {got} bytes, the shard table says {size}. Truncated or replaced: restore it, "
                    "or write the shard again."
                )
            with self._lock:
                if self._mapped[file]:
                    return
                address = self._address + int(self.starts[file])
                done = _libc.mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, handle, 0)
                if done != address:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), f"{blob.url}/{path}")
                self._mapped[file] = True
        finally:
            os.close(handle)

    def bytes(self, file: int, start: int, stop: int) -> memoryview:
        """Bytes of a mapped file, not copied."""
        at = int(self.starts[file])
        return self._view[at + start : at + stop]

    def rows(self, length: int, dtype: np.dtype[Any]) -> Rows:
        """The row that begins at each token's address in the span; only those inside mapped files may be taken."""
        return Rows(self.memory, tokens=len(self._bytes) // dtype.itemsize, length=length, dtype=dtype)
