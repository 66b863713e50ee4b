"""A file and a range of bytes -> blocks of whole records: those that start inside the range.

Ranges cut a file for several workers, and for a job that goes on after a crash: a record belongs to the range
in which its first byte stands, so that every record is read exactly once, whatever the ranges. A range of a
compressed file is reached by decompressing what stands before, which is several times faster than
tokenizing it; a reader that goes forward keeps its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from headrace.errors import SourceError
from headrace.ingestion.fields import endless_record
from headrace.ingestion.read.cuts import Cut
from headrace.ingestion.read.open import Stream

BLOCK_BYTES = 2 << 20
_SPARE_BYTES = 16 << 10
_BOM = b"\xef\xbb\xbf"
_STRADDLE = 64
"""Bytes kept while passing over a record, so that an end of several bytes is seen whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordBlock:
    """Whole records, or one that is too long to be held."""

    offset: int
    """Of its first byte, in the decompressed file."""
    data: bytes
    final: bool = False
    """Do these records end with the file?"""
    oversized: bool = False
    """A record of more than the limit: `data` is its first bytes only."""
    nbytes: int = 0
    """Bytes of the record passed over, where oversized."""
    newlines: int = 0
    """Newlines among them."""


class Records:
    """Records of one file, read forward; going back opens the file again."""

    def __init__(
        self,
        open_at: Callable[[int], Stream],
        cut: Cut,
        *,
        url: str,
        seekable: bool,
        max_record_bytes: int,
        block_bytes: int = BLOCK_BYTES,
        expected_bytes: int | None = None,
    ) -> None:
        self._open_at = open_at
        self._cut = cut
        self._url = url
        self._seekable = seekable and cut.alignable
        self._limit = max_record_bytes
        self._block_bytes = block_bytes
        # A small file gets a small buffer, since clearing 4 MiB costs more than reading it; the buffer grows if needed.
        size = 2 * block_bytes
        self._buffer = bytearray(size if expected_bytes is None else min(size, expected_bytes + _SPARE_BYTES))
        self._stream: Stream | None = None
        self._lo = self._hi = 0
        self._offset = 0  # of buffer[lo] in the file
        self._ended = False
        self._damage: SourceError | None = None  # raised once the records before it were read
        self._aligned = True  # is buffer[lo] the start of a record?
        # Where the last range ended. The record there may start later: the next range goes on with it.
        self._read_to: int | None = None

    @property
    def at_end(self) -> bool:
        """Was the last byte read?"""
        return self._ended and self._lo == self._hi

    @property
    def _stopped(self) -> bool:
        """Can no more be read?"""
        return self._ended or self._damage is not None

    def stored_position(self) -> int:
        """Stored bytes read so far, in this file."""
        return 0 if self._stream is None else self._stream.stored_position()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[RecordBlock]:
        """Blocks of the records that start in [start, stop).

        Raises:
            SourceError: the file is missing, truncated or damaged.
        """
        if self._stream is None or start != self._read_to:
            self._go_to(start)
        self._read_to = stop
        while not self.at_end and (stop is None or self._offset < stop):
            yield self._next_block(stop)

    def _go_to(self, start: int) -> None:
        far = self._seekable and start - self._offset > len(self._buffer)
        if self._stream is None or start < self._offset or far:
            self._reopen(start)
        if self._aligned and self._offset >= start:
            return
        if self._cut.alignable:
            self._align(start)
        else:
            while self._offset < start and not self.at_end:
                self._next_block(start)

    def _reopen(self, start: int) -> None:
        self.close()
        # One byte before: a record starts at `start` only if the byte before it ends one.
        self._offset = max(start - 1, 0) if self._seekable else 0
        self._aligned = self._offset == 0
        self._stream = self._open_at(self._offset)
        self._lo = self._hi = 0
        self._ended = False
        self._damage = None
        if self._offset == 0:
            while self._hi < len(_BOM) and not self._ended:
                self._fill()
            if self._buffer.startswith(_BOM) and self._hi >= len(_BOM):
                self._drop(len(_BOM))

    def _drop(self, size: int) -> None:
        self._lo += size
        self._offset += size

    def _align(self, start: int) -> None:
        """Drop bytes up to the first record that starts at `start` or later."""
        while self._offset + self._hi - self._lo < start and not self._ended:
            self._drop(self._hi - self._lo)
            self._fill()
        at = min(self._lo + start - 1 - self._offset, self._hi)
        while (end := self._cut.first_end(self._buffer, at, self._hi)) is None and not self._ended:
            self._drop(self._hi - self._lo)
            self._fill()
            at = self._lo
        self._drop((self._hi if end is None else end) - self._lo)
        self._aligned = True

    def _fill(self) -> None:
        """Read once, behind what is in the buffer; move what is in it to its start first."""
        assert self._stream is not None
        if self._damage is not None:
            raise self._damage
        if self._lo:
            size = self._hi - self._lo
            self._buffer[:size] = self._buffer[self._lo : self._hi]
            self._lo, self._hi = 0, size
        if self._hi == len(self._buffer):
            self._buffer.extend(bytes(len(self._buffer)))
        try:
            with memoryview(self._buffer) as view:
                n = self._stream.readinto(view[self._hi :])
        except SourceError as error:
            if self._hi == self._lo:
                raise
            self._damage = error
            return
        self._hi += n
        self._ended = n == 0

    def _next_block(self, stop: int | None) -> RecordBlock:
        while not self._stopped and self._hi - self._lo < self._block_bytes:
            self._fill()
        while True:
            end = self._cut.last_end(self._buffer, self._lo, self._hi, final=self._ended)
            if end > self._lo or self._ended:
                break
            if self._damage is not None:
                raise self._damage
            size = self._hi - self._lo
            if size > self._limit:
                return self._oversized()
            while not self._stopped and self._hi - self._lo < 2 * size:  # one record fills the buffer
                self._fill()
        if stop is not None and self._offset + end - self._lo > stop:
            end = self._cut.first_start(self._buffer, self._lo, end, self._lo + stop - self._offset)
        block = RecordBlock(
            offset=self._offset,
            data=bytes(memoryview(self._buffer)[self._lo : end]),
            final=self._ended and end == self._hi,
        )
        self._drop(end - self._lo)
        return block

    def _oversized(self) -> RecordBlock:
        """Pass over a record that is longer than the limit, holding none of it."""
        offset, head, newlines = self._offset, bytes(self._buffer[self._lo : self._lo + 200]), 0
        if not self._cut.resumable:
            raise endless_record(self._url, offset, self._limit)
        while (end := self._cut.first_end(self._buffer, self._lo, self._hi)) is None and not self._ended:
            passed = max(self._hi - self._lo - _STRADDLE, 0)
            newlines += self._buffer.count(b"\n", self._lo, self._lo + passed)
            self._drop(passed)
            self._fill()
        end = self._hi if end is None else end
        newlines += self._buffer.count(b"\n", self._lo, end)
        self._drop(end - self._lo)
        return RecordBlock(
            offset=offset, data=head, nbytes=self._offset - offset, oversized=True, newlines=newlines
        )
