"""A buffer of bytes -> where its records end: lines, blank-line blocks, CSV rows, JSON objects, or never.

A cut looks at buffer[lo:hi], where a record starts at `lo`, and says where the last whole record ends, and
where the first one starts at or after a place. Only a record that is known to be whole counts, unless the
file ends at `hi`: what is cut must not depend on how many bytes happened to be read at once.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from typing import Protocol

import numpy as np


class Cut(Protocol):
    """Where records end."""

    alignable: bool
    """Can the first record after any byte be found without reading what stands before?"""
    resumable: bool
    """Can the next record be found after one that is too long to be held?"""

    def last_end(self, buffer: bytearray, lo: int, hi: int, *, final: bool) -> int:
        """End of the last whole record in buffer[lo:hi]; `lo` when there is none."""

    def first_start(self, buffer: bytearray, lo: int, hi: int, at: int) -> int:
        """First record start >= at in (lo, hi], after last_end said `hi` about the same bytes."""

    def first_end(self, buffer: bytearray, lo: int, hi: int) -> int | None:
        """End of the first record in buffer[lo:hi]; None when there is none."""


class Lines:
    """A record is a line."""

    alignable = True
    resumable = True

    def last_end(self, buffer: bytearray, lo: int, hi: int, *, final: bool) -> int:
        """One past the last newline."""
        return hi if final else max(lo, buffer.rfind(b"\n", lo, hi) + 1)

    def first_start(self, buffer: bytearray, lo: int, hi: int, at: int) -> int:
        """One past the first newline that leads to `at` or later."""
        newline = buffer.find(b"\n", max(lo, at - 1), hi)
        return hi if newline < 0 else newline + 1

    def first_end(self, buffer: bytearray, lo: int, hi: int) -> int | None:
        """One past the first newline."""
        newline = buffer.find(b"\n", lo, hi)
        return None if newline < 0 else newline + 1


class Whole:
    """The file is one record."""

    alignable = False
    resumable = True

    def last_end(self, buffer: bytearray, lo: int, hi: int, *, final: bool) -> int:
        """The end of the file."""
        del buffer
        return hi if final else lo

    def first_start(self, buffer: bytearray, lo: int, hi: int, at: int) -> int:
        """There is no second record."""
        del buffer, lo, at
        return hi

    def first_end(self, buffer: bytearray, lo: int, hi: int) -> int | None:
        """Not before the file's end."""
        del buffer, lo, hi
        return None


class Scanned:
    """Records whose ends are only known when all before them has been read; `find` gives the ends."""

    alignable = False

    def __init__(self, find: Callable[[bytearray, int, int], list[int]], *, resumable: bool) -> None:
        self._find = find
        self.resumable = resumable
        self._ends: list[int] = []

    def last_end(self, buffer: bytearray, lo: int, hi: int, *, final: bool) -> int:
        """The last end found; where the file ends, that is one too."""
        self._ends = self._find(buffer, lo, hi)
        if final and (not self._ends or self._ends[-1] != hi):
            self._ends.append(hi)
        return self._ends[-1] if self._ends else lo

    def first_start(self, buffer: bytearray, lo: int, hi: int, at: int) -> int:
        """The first end found at `at` or later is the next record's start."""
        del buffer, lo
        i = bisect_left(self._ends, at)
        return self._ends[i] if i < len(self._ends) else hi

    def first_end(self, buffer: bytearray, lo: int, hi: int) -> int | None:
        """The first end found."""
        ends = self._find(buffer, lo, hi)
        return ends[0] if ends else None


# The last part makes sure that the run of blank lines is over: something stands on the next line.
_BLANK = re.compile(rb"\n[ \t\r]*\n(?:[ \t\r]*\n)*(?=[ \t\r]*[^ \t\r\n])")
# The closing quote is optional: a string that the buffer's end cuts off hides its braces all the same.
_JSON = re.compile(rb'"(?:[^"\\]|\\.)*"?|[{}]', re.DOTALL)
_OPEN, _CLOSE = ord("{"), ord("}")


def blank_line_ends(buffer: bytearray, lo: int, hi: int) -> list[int]:
    """Ends of paragraphs: after the blank lines that follow them."""
    return [match.end() for match in _BLANK.finditer(buffer, lo, hi)]


def csv_row_ends(buffer: bytearray, lo: int, hi: int) -> list[int]:
    """Newlines with an even number of quotes before them (RFC 4180: a quote inside quotes is doubled)."""
    data = np.frombuffer(buffer, dtype=np.uint8)[lo:hi]
    newlines = np.flatnonzero(data == ord("\n"))
    quotes_before = np.searchsorted(np.flatnonzero(data == ord('"')), newlines)
    return [int(i) for i in newlines[quotes_before % 2 == 0] + (lo + 1)]


def json_object_ends(buffer: bytearray, lo: int, hi: int) -> list[int]:
    """Ends of outermost objects; brackets and commas between them belong to the next one."""
    ends, depth = [], 0
    for match in _JSON.finditer(buffer, lo, hi):
        char = buffer[match.start()]
        if char == _OPEN:
            depth += 1
        elif char == _CLOSE and depth > 0:
            depth -= 1
            if depth == 0:
                ends.append(match.end())
    return ends
