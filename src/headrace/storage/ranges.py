"""Byte ranges of several files -> groups of neighbours, each read by one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

MAX_GAP: Final = 64 << 10
"""Bytes that are read without need rather than by a request of their own."""
MAX_REQUEST: Final = 8 << 20
"""Bytes of one request: a block shuffle's group of 4 MiB and its edges are one."""


class ByteRange(Protocol):
    """Bytes [start, stop) of a file."""

    @property
    def file(self) -> int:
        """Number of the file."""

    @property
    def start(self) -> int:
        """First byte."""

    @property
    def stop(self) -> int:
        """One past the last byte."""


R = TypeVar("R", bound=ByteRange)


def coalesce(ranges: Sequence[R], *, max_gap: int = MAX_GAP, max_request: int = MAX_REQUEST) -> list[list[R]]:
    """Group ranges of one file whose gaps are at most `max_gap`, up to `max_request` bytes a group."""
    groups: list[list[R]] = []
    for one in sorted(ranges, key=lambda r: (r.file, r.start)):
        last = groups[-1] if groups else None
        if (
            last is not None
            and last[-1].file == one.file
            and one.start - last[-1].stop <= max_gap
            and one.stop - last[0].start <= max_request
        ):
            last.append(one)
        else:
            groups.append([one])
    return groups
