"""Bytes of a WARC file -> its records, each whole; what is none is named by its byte, and passed over.

A record's end is what its Content-Length says, and is believed only if another record, or the end of its gzip member or
of the file, follows. So a wrong length costs one record, and a page that quotes a record's first line is no record.

Source: ISO 28500:2017 (WARC 1.1), sections 4 to 6, and annex D on records as gzip members.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from headrace.errors import SourceError
from headrace.ingestion.parse.warc_sources import MemberSource, PlainSource, StreamSource
from headrace.ingestion.read.members import DamagedMemberError
from headrace.ingestion.read.sources import WARC

HEADER_BYTES = 1 << 20
"""Longer headers are damage."""
HEAD_BYTES = 64 << 10
"""What is held of a block that is too long."""
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_FIRST_LINE = re.compile(rb"WARC/[01]\.\d+\r?\n")
_NEXT_RECORD = re.compile(rb"\n(?=WARC/[01]\.\d+\r?\n)")
_STRADDLE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class WarcRecord:
    """One record."""

    offset: int
    """Of its first byte, in the decompressed file."""
    headers: Mapping[str, str]
    """By lowercase name; the first one of several."""
    length: int
    """Bytes of its block."""
    block: bytes = b""
    """The block; its first bytes where it is longer than the limit, nothing for records that are not needed."""

    @property
    def is_whole(self) -> bool:
        """Is the whole block there?"""
        return len(self.block) == self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenRecord:
    """Bytes that are no whole record."""

    offset: int
    detail: str


class _NoRecordError(Exception):
    """What is read is no whole record; says why."""


class _EndOfFileError(_NoRecordError):
    """The file ends inside what is read."""


class WarcRecords:
    """Records of one file, read forward from its start.

    Args:
        source: the file's bytes.
        url: of the file, for errors.
        max_block_bytes: of longer blocks the first bytes are held.
        is_needed: whether the record at an offset is needed with its block; others are passed over.
    """

    def __init__(
        self,
        source: StreamSource | PlainSource | MemberSource,
        *,
        url: str,
        max_block_bytes: int,
        is_needed: Callable[[int], bool],
    ) -> None:
        self._source = source
        self._url = url
        self._limit = max_block_bytes
        self._is_needed = is_needed
        self._buffer = bytearray()
        self._lo = 0
        self._offset = 0  # of buffer[lo] in the file
        self._ended = False
        self._starts: list[int] = []  # offsets at which members start, from the current record on
        self._ends = -1  # where the last member ended
        self._record_at = 0
        self._at_start = False  # does the current record begin a member?
        # Is each record a member of its own? None until one was seen whole.
        self._per_record: bool | None = None

    def __iter__(self) -> Iterator[WarcRecord | BrokenRecord]:
        """All records.

        Raises:
            SourceError: the file is truncated, or no record can be found behind a damaged one.
        """
        while True:
            try:
                if not self._to_record():
                    return
                item: WarcRecord | BrokenRecord = self._record()
            except DamagedMemberError as fault:
                item = self._after_damage(fault)
            except _NoRecordError as error:
                item = self._after_broken(error)
            yield item

    def _to_record(self) -> bool:
        """Pass over line ends; False at the end of the file."""
        self._record_at = self._offset
        while True:
            while self._lo < len(self._buffer) and self._buffer[self._lo] in b"\r\n":
                self._drop(1)
            if self._lo < len(self._buffer):
                break
            if not self._more():
                return False
        # Line ends behind the last record may belong to this record's member.
        self._at_start = any(self._record_at <= start <= self._offset for start in self._starts)
        self._starts = [start for start in self._starts if start > self._offset]
        self._record_at = self._offset
        return True

    def _record(self) -> WarcRecord:
        headers = self._headers()
        length = _length_of(headers)
        needed = self._is_needed(self._record_at)
        if length <= self._limit and (needed or not isinstance(self._source, PlainSource)):
            self._need(length)
            self._check_end(length)
            block = self._take(length)
        else:
            block_at = self._offset
            head = min(length, HEAD_BYTES) if needed else 0
            self._need(head)
            block = self._take(head)
            self._pass_over(length - head)
            try:
                self._check_end(0)
            except _NoRecordError as error:
                if not isinstance(self._source, PlainSource):
                    raise self._lost(error) from None
                self._go_to(block_at)  # the next record may be in what was passed over
                raise
        self._see_member()
        return WarcRecord(offset=self._record_at, headers=headers, length=length, block=block)

    def _headers(self) -> dict[str, str]:
        """Read and drop the header."""
        self._need(len(WARC))
        if not self._buffer.startswith(WARC, self._lo):
            raise _NoRecordError("no record begins here")
        at = self._lo
        while (end := _HEADER_END.search(self._buffer, at)) is None:
            size = len(self._buffer) - self._lo
            if size > HEADER_BYTES:
                raise _NoRecordError(f"its header has no end within {HEADER_BYTES:,} bytes")
            at = max(self._lo, len(self._buffer) - 4) - self._lo
            self._need(size + 1)
            at += self._lo
        data = bytes(memoryview(self._buffer)[self._lo : end.start()])
        self._drop(end.end() - self._lo)
        return parse_headers(data.partition(b"\n")[2])

    def _check_end(self, ahead: int) -> None:
        """Check that a record, or the end of a member or of the file, follows `ahead` bytes on."""
        while True:
            while self._lo + ahead < len(self._buffer) and self._buffer[self._lo + ahead] in b"\r\n":
                ahead += 1
            rest = len(self._buffer) - self._lo - ahead
            if rest == 0 and self._ends == self._offset + ahead:
                return
            if rest >= len(WARC) or not self._more():
                break
        found = bytes(self._buffer[self._lo + ahead : self._lo + ahead + len(WARC)])
        if found and WARC.startswith(found) and found != WARC:
            raise _EndOfFileError("the file ends at the beginning of the record behind it")
        if found and found != WARC:
            raise _NoRecordError(
                f"its Content-Length is wrong: {found!r} follows it, expected another record"
            )

    def _see_member(self) -> None:
        """After a whole record: was it a member of its own?"""
        if isinstance(self._source, MemberSource) and self._per_record is not False:
            while self._lo < len(self._buffer) and self._buffer[self._lo] in b"\r\n":
                self._drop(1)
            self._per_record = self._at_start and self._ends == self._offset

    @property
    def _is_member(self) -> bool:
        """May the current record be a gzip member of its own?"""
        return self._per_record is not False and self._at_start

    def _need(self, size: int) -> None:
        """Have `size` bytes in the buffer."""
        while len(self._buffer) - self._lo < size:
            at_end = self._offset + len(self._buffer) - self._lo
            member_ended = self._is_member and self._ends == at_end and at_end > self._record_at
            if not self._more():
                raise _EndOfFileError("the file ends inside it")
            begins = bytes(self._buffer[self._lo + at_end - self._offset :][: len(WARC)])
            if member_ended and begins == WARC:
                raise _NoRecordError("its gzip member ends inside it")

    def _more(self) -> bool:
        """Read once, behind what is in the buffer; False at the end of the file."""
        if self._ended:
            return False
        chunk = self._source.more()
        if chunk is None:
            self._ended = True
            return False
        if self._lo > len(self._buffer) // 2:
            del self._buffer[: self._lo]
            self._lo = 0
        end = self._offset + len(self._buffer) - self._lo
        if chunk.starts:
            self._starts.append(end)
        self._buffer += chunk.data
        if chunk.ends:
            self._ends = end + len(chunk.data)
        return True

    def _drop(self, size: int) -> None:
        self._lo += size
        self._offset += size

    def _take(self, size: int) -> bytes:
        data = bytes(memoryview(self._buffer)[self._lo : self._lo + size])
        self._drop(size)
        return data

    def _pass_over(self, size: int) -> None:
        """Drop bytes that need not be in the buffer."""
        if isinstance(self._source, PlainSource) and size > len(self._buffer) - self._lo:
            if self._offset + size > self._source.nbytes:
                raise _EndOfFileError("the file ends inside it")
            self._go_to(self._offset + size)
            return
        while size:
            self._need(1)
            part = min(size, len(self._buffer) - self._lo)
            self._drop(part)
            size -= part

    def _go_to(self, offset: int) -> None:
        assert isinstance(self._source, PlainSource)
        self._source.seek(offset)
        self._buffer.clear()
        self._lo, self._offset, self._ended = 0, offset, False

    def _after_damage(self, fault: DamagedMemberError) -> BrokenRecord:
        """Go on behind a damaged member, where that loses no more than the record that begins it."""
        is_open = self._record_at < self._offset + len(self._buffer) - self._lo
        loses_one = self._is_member if is_open else self._per_record is not False
        if fault.truncated or not fault.resumed or not loses_one:
            raise self._lost_member(fault) from fault
        self._drop(len(self._buffer) - self._lo)
        self._starts.clear()
        return BrokenRecord(offset=self._record_at, detail=str(fault))

    def _after_broken(self, error: _NoRecordError) -> BrokenRecord:
        """Go to the next record.

        Raises:
            SourceError: there is none.
        """
        broken = BrokenRecord(offset=self._record_at, detail=str(error))
        if self._is_member:
            self._to_next_member()
        else:
            if isinstance(error, _EndOfFileError) and isinstance(self._source, PlainSource):
                self._go_to(self._record_at + len(WARC))
            self._search(error)
        return broken

    def _to_next_member(self) -> None:
        while not self._starts:
            self._drop(len(self._buffer) - self._lo)
            try:
                if not self._more():
                    return
            except DamagedMemberError as fault:
                self._after_damage(fault)
                return
        self._drop(self._starts[0] - self._offset)

    def _search(self, error: _NoRecordError) -> None:
        """Go to the next line that begins a record."""
        if self._offset > self._record_at and _FIRST_LINE.match(self._buffer, self._lo):
            return  # it follows the broken record's header
        while (found := _NEXT_RECORD.search(self._buffer, self._lo)) is None:
            self._drop(max(len(self._buffer) - self._lo - _STRADDLE, 0))
            try:
                if not self._more():
                    raise self._lost(error)
            except DamagedMemberError as fault:
                raise self._lost_member(fault) from fault
        self._drop(found.end() - self._lo)

    def _lost_member(self, fault: DamagedMemberError) -> SourceError:
        what = "truncated" if fault.truncated else "damaged"
        return SourceError(
            f"{self._url}: {what}: {fault}; byte {self._record_at:,} of its records. Fetch it again"
        )

    def _lost(self, error: _NoRecordError) -> SourceError:
        what = "truncated" if isinstance(error, _EndOfFileError) else "damaged"
        return SourceError(
            f"{self._url}: {what}: the record at byte {self._record_at:,}: {error}, and no other record is found "
            f"behind it. Fetch it again"
        )


def parse_headers(data: bytes) -> dict[str, str]:
    r"""Lines of `Name: value` -> values by lowercase name, the first of several; folded lines are joined.

    >>> parse_headers(b"Host: a\r\nX: 1\r\n 2\r\nx: 3")
    {'host': 'a', 'x': '1 2'}
    """
    headers: dict[str, str] = {}
    name = ""
    for line in data.decode(errors="replace").split("\n"):
        stripped = line.strip()
        if line[:1] in (" ", "\t") and name:
            headers[name] += f" {stripped}"
            continue
        key, colon, value = stripped.partition(":")
        name = key.rstrip().lower() if colon else ""
        if name in headers:
            name = ""
        elif name:
            headers[name] = value.strip()
    return headers


def _length_of(headers: Mapping[str, str]) -> int:
    value = headers.get("content-length")
    if value is None:
        raise _NoRecordError("it has no Content-Length")
    if not (value.isascii() and value.isdecimal()):
        raise _NoRecordError(f"its Content-Length is {value[:40]!r}; expected a number")
    return int(value[:20])
