"""A compressed file -> its decompressed bytes: of every stream in it, and an error where one is damaged or cut off.

Python's bz2 and lzma files take an error in a second stream for the end of the file, and zstandard's and lz4's readers
end quietly in the middle of a frame. Here each stream is decompressed by an object of its own: what follows a stream
is another one, padding that the format allows, or an error.
"""

from __future__ import annotations

import bz2
import io
import lzma
from collections.abc import Callable
from typing import Any, Protocol

_CHUNK = 128 << 10
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
"""Magic numbers of frames without data, in zstd and lz4 files alike."""
MAX_WINDOW_BYTES = 1 << 31
"""The largest window of a zstd frame; `zstd --long=31` writes it."""


class Decompressor(Protocol):
    """Decompresses one stream."""

    @property
    def eof(self) -> bool:
        """Was the stream's end reached?"""

    @property
    def unused_data(self) -> bytes:
        """What was given behind it."""

    def decompress(self, data: bytes) -> bytes:
        """Decompressed bytes of the next compressed ones."""


class TruncatedStreamError(EOFError):
    """The file ends inside a compressed stream."""


class Unpacker:
    """Decompressed bytes of a file of several streams, read forward."""

    def __init__(self, raw: io.RawIOBase | io.BytesIO, compression: str) -> None:
        self._raw = raw
        self._new, self._padding = _FORMATS[compression]
        self._stream: Any = None
        self._input = b""
        self._output = memoryview(b"")
        self._ended = False
        self._skips = compression in ("zstd", "lz4")
        self._skip = 0

    def readinto(self, buffer: memoryview) -> int:
        """Fill some of the buffer; 0 only at the end.

        Raises:
            TruncatedStreamError: the file ends inside a stream.
            OSError, ValueError, lzma.LZMAError, RuntimeError: the library's own, for damaged data.
        """
        while not self._output and not self._ended:
            self._output = memoryview(self._more())
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size

    def _read(self) -> bool:
        more = self._raw.read(_CHUNK) or b""
        self._input += more
        return bool(more)

    def _more(self) -> bytes:
        """Decompress once; b"" says nothing about the end."""
        if self._stream is None and not self._begin():
            return b""
        if not self._input and not self._read():
            raise TruncatedStreamError
        data, self._input = self._input, b""
        found: bytes = self._stream.decompress(data)
        if self._stream.eof:
            self._input = bytes(self._stream.unused_data or b"")
            self._stream = None
        return found

    def _begin(self) -> bool:
        """Pass over padding and skippable frames; begin the next stream, if there is one."""
        while True:
            while len(self._input) < 8 and self._read():
                pass
            if self._padding:
                rest = self._input.lstrip(b"\0")
                if rest != self._input and len(rest) < 8 and self._read():
                    continue
                self._input = rest
            if not self._input:
                self._ended = True
                return False
            if not self._skips or int.from_bytes(self._input[:4], "little") not in _SKIPPABLE:
                break
            self._pass_over(8 + int.from_bytes(self._input[4:8], "little"))
        self._stream = self._new()
        return True

    def _pass_over(self, size: int) -> None:
        while size > len(self._input):
            size -= len(self._input)
            self._input = b""
            if not self._read():
                raise TruncatedStreamError
        self._input = self._input[size:]


def _zstd() -> Decompressor:
    import zstandard

    stream: Any = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
    return _Checked(stream)


class _Checked:
    """zstandard's object, which takes no further bytes once its frame has ended."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._stream.unused_data or b"")

    def decompress(self, data: bytes) -> bytes:
        import zstandard

        try:
            return bytes(self._stream.decompress(data))
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error


def _lz4() -> Decompressor:
    import lz4.frame

    stream: Decompressor = lz4.frame.LZ4FrameDecompressor()
    return stream


_FORMATS: dict[str, tuple[Callable[[], Any], bool]] = {
    # constructor of one stream's decompressor; may zero bytes stand behind a stream?
    "bz2": (bz2.BZ2Decompressor, False),
    "xz": (lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ), True),
    "lzma": (lambda: lzma.LZMADecompressor(format=lzma.FORMAT_ALONE), False),
    "zstd": (_zstd, False),
    "lz4": (_lz4, False),
}


def skippable_end(head: bytes) -> int:
    """Bytes of the skippable frames that a file begins with; beyond `head` where they go on there."""
    at = 0
    while int.from_bytes(head[at : at + 4], "little") in _SKIPPABLE and len(head) >= at + 8:
        at += 8 + int.from_bytes(head[at + 4 : at + 8], "little")
    return at
