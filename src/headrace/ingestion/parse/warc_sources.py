"""A WARC file's address -> its decompressed bytes, in chunks that end where gzip members do."""

from __future__ import annotations

from typing import Final

from headrace.ingestion.read.members import Chunk, GzipMembers
from headrace.ingestion.read.open import Stream, open_raw
from headrace.ingestion.read.sources import WARC

_READ_BYTES: Final = 256 << 10


class StreamSource:
    """Chunks of a file of no members: not compressed, or by another compression than gzip."""

    def __init__(self, url: str, compression: str) -> None:
        self._stream = Stream(url, compression)
        self._buffer = memoryview(bytearray(_READ_BYTES))

    def more(self) -> Chunk | None:
        """The next bytes; None at the end of the file."""
        size = self._stream.readinto(self._buffer)
        return Chunk(data=bytes(self._buffer[:size])) if size else None

    def stored_position(self) -> int:
        """Stored bytes read so far."""
        return self._stream.stored_position()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class PlainSource:
    """Chunks of a file that is not compressed; it can be read from any byte."""

    def __init__(self, url: str) -> None:
        self._raw = open_raw(url)
        self.nbytes = self._raw.seek(0, 2)
        self._raw.seek(0)

    def more(self) -> Chunk | None:
        """The next bytes; None at the end of the file."""
        data = self._raw.read(_READ_BYTES)
        return Chunk(data=data) if data else None

    def seek(self, offset: int) -> None:
        """Go to a byte of the file."""
        self._raw.seek(offset)

    def stored_position(self) -> int:
        """Stored bytes read so far."""
        return self._raw.tell()

    def close(self) -> None:
        """Close the file."""
        self._raw.close()


class MemberSource(GzipMembers):
    """Chunks of a .gz."""

    def __init__(self, url: str) -> None:
        self._file = open_raw(url)
        super().__init__(self._file, begins=WARC)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_source(url: str, compression: str) -> StreamSource | PlainSource | MemberSource:
    """The bytes of a file.

    Raises:
        SourceError: it is missing.
    """
    if compression == "none":
        return PlainSource(url)
    return MemberSource(url) if compression == "gzip" else StreamSource(url, compression)
