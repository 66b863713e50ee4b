"""A path or URL -> its decompressed bytes, whatever it is packed with.

Compression is told by the first bytes, not by the name. A name that says .gz while the bytes are not packed
at all is an error, and so is a stream that ends before its end.
"""

from __future__ import annotations

import io
import lzma
import stat
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any

from headrace.errors import SourceError
from headrace.ingestion.read.unpack import Unpacker, skippable_end

SUFFIXES = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".bgz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".xz": "xz",
    ".bz2": "bz2",
    ".lz4": "lz4",
    ".lzma": "lzma",
}
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bz2",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x5d\x00\x00": "lzma",
}
_REFUSED = {
    # first bytes -> what the file is, and what to do
    b"PK\x03\x04": "a zip archive. Unpack it, and give the files in it: unzip FILE",
    b"PK\x05\x06": "an empty zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive. Unpack it, and give the files in it: 7z x FILE",
    b"Rar!\x1a\x07": "a rar archive. Unpack it, and give the files in it",
    b"\x02\x21\x4c\x18": "lz4's legacy format. Write it anew as an lz4 frame: lz4 -dc FILE | lz4 > NEW",
    b"\x1f\x9d": "packed by compress (.Z). Write it anew: zcat FILE | zstd > NEW.zst",
    b"LZIP\x01": "packed by lzip. Write it anew: lzip -dc FILE | zstd > NEW.zst",
    b"\xff\x06\x00\x00sNaPpY": "packed by snappy. Write it anew with zstd",
    b"filedesc:": "an ARC file, the format before WARC. Convert it: warcio recompress FILE NEW.warc.gz",
    b"%PDF-": "a PDF document. Extract its text first",
    b"\x89HDF": "an HDF5 file. Write its texts as Parquet or JSON lines",
    b"SQLite format 3": "an SQLite database. Write its texts as Parquet or JSON lines",
    b"Obj\x01": "an Avro file. Write it as Parquet",
    b"\x80\x04\x95": "a Python pickle, which can run code when it is read. Write it as Parquet or JSON lines",
}
_REFUSED_NAMES = {".br": "brotli", ".sz": "snappy", ".snappy": "snappy", ".lz": "lzip", ".z": "compress"}


def open_raw(url: str) -> io.RawIOBase:
    """The stored bytes of a path or URL, unbuffered and seekable.

    Raises:
        SourceError: there is no such file, or it cannot be read.
    """
    if "://" in url:
        from headrace.storage import ObjectFile

        return ObjectFile(url)
    try:
        if not stat.S_ISREG(Path(url).stat().st_mode):  # opening a pipe would wait for its writer
            raise SourceError(
                f"{url}: not a file but a pipe, a device or a socket. A job that goes on reads its sources "
                f"again: write it to a file, and give that"
            )
        return Path(url).open("rb", buffering=0)
    except OSError as error:
        raise SourceError(f"{url}: {error.strerror or error}") from error


def compression_of(url: str, head: bytes) -> str:
    """none, gzip, zstd, xz, bz2, lz4 or lzma, by the first bytes of a file.

    Raises:
        SourceError: the name says that it is packed, and the bytes are not.
    """
    refuse_unreadable(url, head)
    skipped = skippable_end(head)
    named = SUFFIXES.get(Path(url).suffix.lower())
    if skipped and len(head) < skipped + 4:
        return named if named in ("zstd", "lz4") else "zstd"
    for magic, name in _MAGIC.items():
        if head[skipped:].startswith(magic) and not (name == "bz2" and not head[3:4].isdigit()):
            if name == "lzma" and named != "lzma":  # three bytes are no proof
                continue
            return name
    if named is not None:
        got = head[:4].hex(" ") or "nothing"
        raise SourceError(
            f"{url}: named as {named}, but its first bytes are {got}, which no compression starts with. "
            f"Not compressed? Rename it without {Path(url).suffix}. Damaged? Fetch it again"
        )
    return "none"


def refuse_unreadable(url: str, head: bytes) -> None:
    """Name what a file is, where its first bytes or its name say that it is nothing that can be read.

    Raises:
        SourceError: an archive, another compression, a web archive, a binary format.
    """
    for magic, what in _REFUSED.items():
        if head.startswith(magic):
            raise SourceError(f"{url}: {what}")
    packed = _REFUSED_NAMES.get(Path(url).suffix.lower())
    if packed is not None:
        raise SourceError(
            f"{url}: named as packed by {packed}, which is not read. Write it anew with zstd or gzip"
        )


class Stream:
    """Decompressed bytes of one file, from the start on (or from `start` where it can be reached)."""

    def __init__(
        self,
        url: str,
        compression: str,
        *,
        start: int = 0,
        seek_points: bytes | None = None,
        raw: io.RawIOBase | None = None,
    ) -> None:
        """Open a file; `raw` is one that is open already, such as a member of an archive."""
        assert start == 0 or compression == "none" or seek_points is not None
        self.url = url
        self._compression = compression
        self._raw = open_raw(url) if raw is None else raw
        self._out = start
        if start and seek_points is None:
            self._raw.seek(start)
        self._leaps = False
        self._reader: Any
        if start and seek_points is not None:
            self._leaps = True
            self._reader = _leaping(url, seek_points, start)
        else:
            self._reader = _reader(self._raw, compression)

    def readinto(self, buffer: memoryview) -> int:
        """Fill some of the buffer; 0 only at the end.

        Raises:
            SourceError: the file is truncated or damaged.
        """
        try:
            n = int(self._reader.readinto(buffer) or 0)
        except EOFError as error:
            raise self._truncated() from error
        except (OSError, zlib.error, lzma.LZMAError, ValueError, RuntimeError, MemoryError) as error:
            if "memory" in str(error).lower() or isinstance(error, MemoryError):
                raise SourceError(
                    f"{self.url}: its {self._compression} window needs more memory: {error}"
                ) from error
            if "runcated" in str(error) or "ended before" in str(error):
                raise self._truncated() from error
            raise SourceError(
                f"{self.url}: damaged {self._compression} data after {self._out} decompressed bytes: "
                f"{error}. Fetch it again"
            ) from error
        self._out += n
        return n

    def _truncated(self) -> SourceError:
        return SourceError(
            f"{self.url}: truncated: the {self._compression} data ends too early, after {self._out} "
            f"decompressed bytes. Fetch it again"
        )

    def stored_position(self) -> int:
        """Stored bytes read so far."""
        return int(self._reader.tell_compressed()) // 8 if self._leaps else self._raw.tell()

    def close(self) -> None:
        """Close the file."""
        if self._leaps:
            self._reader.close()  # it has a thread
        self._raw.close()


class _GzipFile:
    """isal's gzip file, its own errors as ValueErrors."""

    def __init__(self, file: Any) -> None:
        from isal.igzip_lib import IsalError

        self._file = file
        self._fault: Any = IsalError

    def readinto(self, buffer: memoryview) -> int:
        try:
            return int(self._file.readinto(buffer))
        except self._fault as error:
            raise ValueError(str(error)) from error


def _leaping(url: str, seek_points: bytes, start: int) -> Any:
    """A .gz read from a place in its middle; see `seekpoints`."""
    import rapidgzip

    file: Any = rapidgzip.open(url, parallelization=1)
    file.import_index(io.BytesIO(seek_points))
    file.seek(start)
    return file


def _reader(raw: io.RawIOBase, compression: str) -> Any:
    if compression == "none":
        return raw
    if compression == "gzip":
        from isal import igzip

        opened: Any = igzip.IGzipFile
        return _GzipFile(opened(fileobj=io.BufferedReader(raw, 1 << 18), mode="rb"))
    return Unpacker(raw, compression)


def read_head(url: str, compression: str, size: int) -> bytes:
    """The first bytes of a file, decompressed."""
    stream = Stream(url, compression)
    try:
        buffer = memoryview(bytearray(size))
        filled = 0
        while filled < size and (n := stream.readinto(buffer[filled:])):
            filled += n
        return bytes(buffer[:filled])
    finally:
        stream.close()


def open_seekable(url: str, compression: str) -> IO[bytes] | io.RawIOBase:
    """A file that can be read anywhere, decompressed: a packed one is unpacked to a temporary file first."""
    if compression == "none":
        return open_raw(url)
    stream = Stream(url, compression)
    unpacked = tempfile.TemporaryFile(prefix="headrace-unpacked-")  # noqa: SIM115 - the caller closes it
    try:
        buffer = memoryview(bytearray(1 << 20))
        while n := stream.readinto(buffer):
            unpacked.write(buffer[:n])
    except BaseException:
        unpacked.close()
        raise
    finally:
        stream.close()
    unpacked.seek(0)
    return unpacked
