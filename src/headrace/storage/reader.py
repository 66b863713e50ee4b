"""A URL of one object -> a file object that seeks anywhere and reads ahead."""

from __future__ import annotations

import io
from typing import Final

from headrace.errors import SourceError, StoreError
from headrace.storage.opener import open_blob
from headrace.storage.protocol import Blob, Unavailable

READ_AHEAD_BYTES: Final = 8 << 20


def split_url(url: str) -> tuple[str, str]:
    """Split a URL into that of the bucket (or host, or container), and the name in it."""
    scheme, _, rest = url.partition("://")
    bucket, _, name = rest.partition("/")
    return f"{scheme}://{bucket}", name


class ObjectFile(io.RawIOBase):
    """An object as a binary file: reads forward in requests of 8 MiB, seeks anywhere.

    Raises:
        SourceError: the object is missing, cannot be read in ranges, or became shorter.
    """

    def __init__(self, url: str, *, read_ahead_bytes: int = READ_AHEAD_BYTES) -> None:
        self._url = url
        bucket, self._name = split_url(url)
        self._blob: Blob = open_blob(bucket)
        self._ahead_bytes = read_ahead_bytes
        self._position = 0
        self._buffer_start = 0
        self._buffer = memoryview(b"")
        try:
            self._size = self._blob.size(self._name)
        except (OSError, Unavailable) as error:
            raise SourceError(f"{url}: {error}") from error

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Set the position; nothing is read."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Fill some of the buffer; returns the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        at = self._position - self._buffer_start
        if not 0 <= at < len(self._buffer):
            if self._position >= self._size or not len(view):
                return 0
            self._buffer = memoryview(self._fetch(self._position, max(len(view), self._ahead_bytes)))
            self._buffer_start, at = self._position, 0
        n = min(len(view), len(self._buffer) - at)
        view[:n] = self._buffer[at : at + n]
        self._position += n
        return n

    def _fetch(self, start: int, size: int) -> bytes:
        stop = min(start + size, self._size)
        try:
            data = bytes(self._blob.get_range(self._name, start, stop))
        except StoreError as error:
            raise SourceError(
                f"{error}. Ranges of bytes are needed: fetch the file, and give its path"
            ) from error
        except (OSError, Unavailable) as error:
            raise SourceError(f"{self._url}: bytes {start} to {stop}: {error}") from error
        if not data:
            raise SourceError(
                f"{self._url}: is shorter than it was: no byte at {start}, its size was {self._size}"
            )
        return data
