"""A .gz of members, as web archives have one for each record -> its bytes, member by member; damaged members named.

Other readers of gzip stop at damage. Here the next member after a damaged one is looked for, so that one flipped bit
costs one record. A member is found by its magic number, and by what it begins with once it is decompressed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from isal import igzip_lib

_READ_BYTES = 256 << 10
_OUTPUT_BYTES = 1 << 20
_MAGIC = b"\x1f\x8b\x08"
_PROBE_BYTES = 4096
_FAULTS: Any = (igzip_lib.IsalError, EOFError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some bytes of one member."""

    data: bytes
    starts: bool = False
    """Does the member begin with them?"""
    ends: bool = False
    """Does it end with them, its checksum right?"""


class DamagedMemberError(Exception):
    """A member that cannot be decompressed to its end, or has a wrong checksum."""

    def __init__(self, offset: int, reason: str, *, resumed: bool, truncated: bool, yielded: bool) -> None:
        super().__init__(f"{reason} (gzip member at stored byte {offset:,})")
        self.resumed = resumed
        """Was another member found behind it?"""
        self.truncated = truncated
        """Does the file end inside it?"""
        self.yielded = yielded
        """Were bytes of it given out before?"""


class GzipMembers:
    """Bytes of all members of a file, read forward.

    Args:
        raw: the stored bytes, at their start.
        begins: what a member that is looked for after damage begins with.
    """

    def __init__(self, raw: io.RawIOBase, *, begins: bytes) -> None:
        self._raw = raw
        self._begins = begins
        self._input = b""
        self._read_bytes = 0
        self._member: Any = None
        self._member_at = 0
        self._yielded = False

    def more(self) -> Chunk | None:
        """Bytes of the current member or the next one; None at the end of the file.

        Raises:
            DamagedMemberError: `more` then goes on behind the damage, where that could be found.
        """
        if self._member is None and not self._begin():
            return None
        starts = not self._yielded
        while True:
            if self._member.needs_input and not self._input and not self._fill():
                raise self._damaged("the file ends inside it", truncated=True)
            data, self._input = self._input, b""
            try:
                found: bytes = self._member.decompress(data, _OUTPUT_BYTES)
            except _FAULTS as error:
                raise self._damaged(f"it cannot be decompressed: {error}", truncated=False) from None
            ended = bool(self._member.eof)
            if ended:
                self._input = bytes(self._member.unused_data)
                self._member = None
            if found or ended:
                self._yielded = True
                return Chunk(data=found, starts=starts, ends=ended)

    def stored_position(self) -> int:
        """Stored bytes read so far."""
        return self._read_bytes

    def _fill(self) -> bool:
        more = self._raw.read(_READ_BYTES) or b""
        self._read_bytes += len(more)
        self._input += more
        return bool(more)

    def _begin(self) -> bool:
        """Begin the next member; zeros may stand between and behind members."""
        while True:
            self._input = self._input.lstrip(b"\0")
            if len(self._input) >= len(_MAGIC) or not self._fill():
                break
        if not self._input:
            return False
        self._start_member()
        if not self._input.startswith(_MAGIC):
            raise self._damaged("no gzip member begins here", truncated=False)
        return True

    def _start_member(self) -> None:
        self._member_at = self._read_bytes - len(self._input)
        self._member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self._yielded = False

    def _damaged(self, reason: str, *, truncated: bool) -> DamagedMemberError:
        """The error; the input then begins at the next member, if there is one."""
        offset, yielded = self._member_at, self._yielded
        self._member = None
        resumed = self._find_next(offset)
        return DamagedMemberError(
            offset, reason, resumed=resumed, truncated=truncated and not resumed, yielded=yielded
        )

    def _find_next(self, damaged_at: int) -> bool:
        """Go to the first member behind `damaged_at` that begins as it should."""
        self._raw.seek(damaged_at + 1)
        self._read_bytes, self._input = damaged_at + 1, b""
        while True:
            at = self._input.find(_MAGIC)
            if at < 0:
                self._input = self._input[-len(_MAGIC) + 1 :]
                if not self._fill():
                    self._input = b""
                    return False
                continue
            self._input = self._input[at:]
            while len(self._input) < _PROBE_BYTES and self._fill():
                pass
            if member_begins(self._input[:_PROBE_BYTES], self._begins):
                return True
            self._input = self._input[1:]


def member_begins(data: bytes, begins: bytes) -> bool:
    """Do these stored bytes start a member with such a beginning?"""
    probe = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    try:
        found: bytes = probe.decompress(data, len(begins))
    except _FAULTS:
        return False
    return found == begins
