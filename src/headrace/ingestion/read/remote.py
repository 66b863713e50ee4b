"""s3://, gs://, az://, http(s)://, file:// and memory:// sources -> files that seek and read ahead."""

from __future__ import annotations

import io
from fnmatch import fnmatchcase

from headrace.errors import SourceError, StoreError
from headrace.storage.blob import Blob, Unavailable, open_blob

READ_AHEAD_BYTES = 8 << 20
_GLOB = "*?["


def split_url(url: str) -> tuple[str, str]:
    """URL of the bucket (or host, or container), and the name in it."""
    scheme, _, rest = url.partition("://")
    bucket, _, name = rest.partition("/")
    return f"{scheme}://{bucket}", name


def expand_url(pattern: str) -> list[str]:
    """URLs of the objects that a URL, a pattern with * ? [ or a folder stands for, sorted.

    `*` matches any characters but '/', `**` any.
    """
    bucket, name = split_url(pattern)
    parts = name.split("/")
    fixed = next((i for i, part in enumerate(parts) if any(c in part for c in _GLOB)), None)
    if fixed is None:
        if name and not name.endswith("/") and _exists(bucket, name):
            return [pattern]
        if pattern.startswith("http") and not name.endswith("/"):
            raise SourceError(f"{pattern}: the server has no such file")  # and most HTTP servers cannot list
        folder = name.rstrip("/")
        return [f"{bucket}/{found}" for found in _list(bucket, f"{folder}/" if folder else "")]
    folder = "/".join(parts[:fixed])
    found = _list(bucket, f"{folder}/" if folder else "")
    return [f"{bucket}/{name}" for name in found if _matches(name.split("/"), parts)]


def _matches(name: list[str], pattern: list[str]) -> bool:
    if not pattern or not name:
        return not pattern and not name
    if pattern[0] == "**":
        return _matches(name, pattern[1:]) or _matches(name[1:], pattern)
    return fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def _exists(bucket: str, name: str) -> bool:
    try:
        open_blob(bucket).size(name)
    except FileNotFoundError:
        return False
    except (Unavailable, OSError) as error:
        raise SourceError(f"{bucket}/{name}: {error}") from error
    return True


def _list(bucket: str, prefix: str) -> list[str]:
    try:
        return open_blob(bucket).list(prefix)
    except FileNotFoundError:
        return []
    except (StoreError, Unavailable, OSError) as error:
        raise SourceError(
            f"{bucket}/{prefix}: cannot be listed: {error}. Name the files themselves"
        ) from error


class RemoteFile(io.RawIOBase):
    """An object as a file: reads forward in pieces of 8 MiB, seeks anywhere."""

    def __init__(self, url: str, *, read_ahead_bytes: int = READ_AHEAD_BYTES) -> None:
        self._url = url
        bucket, self._name = split_url(url)
        self._blob: Blob = open_blob(bucket)
        self._ahead_bytes = read_ahead_bytes
        self._position = 0
        self._piece_at = 0
        self._piece = memoryview(b"")
        try:
            self._size = self._blob.size(self._name)
        except (OSError, Unavailable) as error:
            raise SourceError(f"{url}: {error}") from error

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The current byte."""
        return self._position

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a byte; nothing is read."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Fill some of the buffer; 0 at the end."""
        view = memoryview(buffer).cast("B")
        at = self._position - self._piece_at
        if not 0 <= at < len(self._piece):
            if self._position >= self._size or not len(view):
                return 0
            self._piece = memoryview(self._fetch(self._position, max(len(view), self._ahead_bytes)))
            self._piece_at, at = self._position, 0
        n = min(len(view), len(self._piece) - at)
        view[:n] = self._piece[at : at + n]
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
