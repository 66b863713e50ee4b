"""A buffer of bytes -> where its records end: lines, blank-line blocks, CSV rows, JSON objects, or never.

A cut looks at buffer[lo:hi], where a record starts at `lo`, and says where the last whole record ends, and
where the first one starts at or after a place. Only a record that is known to be whole counts, unless the
file ends at `hi`: what is cut must not depend on how many bytes happened to be read at once.
"""

from __future__ import annotations

import re
from bisect import bisect_left
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


class EndFinder(Protocol):
    """Finds record ends in buffer[lo:hi], where a record starts at `lo`."""

    def __call__(self, buffer: bytearray, lo: int, hi: int, *, final: bool) -> list[int]:
        """Ends that no further bytes can move; `final`: there are none after `hi`."""


class Scanned:
    """Records whose ends are only known when all before them has been read; `find` gives the ends."""

    alignable = False

    def __init__(self, find: EndFinder, *, resumable: bool) -> None:
        self._find = find
        self.resumable = resumable
        self._ends: list[int] = []

    def last_end(self, buffer: bytearray, lo: int, hi: int, *, final: bool) -> int:
        """The last end found; where the file ends, that is one too."""
        self._ends = self._find(buffer, lo, hi, final=final)
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
        ends = self._find(buffer, lo, hi, final=False)
        return ends[0] if ends else None


# The last part makes sure that the run of blank lines is over: the next line has other characters.
_BLANK = re.compile(rb"\n[ \t\r]*\n(?:[ \t\r]*\n)*(?=[ \t\r]*[^ \t\r\n])")
# A string ends at its quote, at the buffer's end, or at a control character, which JSON does not allow in one.
_JSON = re.compile(rb'"[^"\\\x00-\x1f]*(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*)*("?)|[{}\[\]]')
_LINE_OBJECT = re.compile(rb"\n([ \t\r,\[]*)(?={)")
_NEXT_OBJECT = re.compile(rb"[}\]](?=[ \t\r\n]*,?[ \t\r\n]*{)")
_BETWEEN_OBJECTS = b"[], \t\r\n"
_QUOTE, _OPEN, _CLOSE, _OPEN_ARRAY, _CLOSE_ARRAY = b'"{}[]'


def blank_line_ends(buffer: bytearray, lo: int, hi: int, *, final: bool) -> list[int]:
    """Ends of paragraphs: after the blank lines that follow them."""
    del final
    return [match.end() for match in _BLANK.finditer(buffer, lo, hi)]


class CsvRowEnds:
    """Ends of CSV rows: newlines outside quoted fields.

    A quote opens a field only where the field starts, as RFC 4180 and the csv module have it, and a quoted field
    counts as one only if its closing quote is followed by a delimiter or the row's end. An opening quote without
    such an end within `max_field_bytes` is damage: its row ends at the next newline, and the rows after it are read.
    """

    def __init__(self, delimiter: bytes, max_field_bytes: int) -> None:
        escaped = re.escape(delimiter)
        self._opening = re.compile(rb'(?:(?<=%b)|(?<=\n))"' % escaped)
        self._field = re.compile(rb'"[^"]*(?:""[^"]*)*"')
        self._ends_field = (delimiter[0], ord("\r"), ord("\n"))
        self._max_field_bytes = max_field_bytes

    def __call__(self, buffer: bytearray, lo: int, hi: int, *, final: bool) -> list[int]:
        """See `EndFinder`."""
        inside: list[tuple[int, int]] = []  # quoted fields that hold newlines
        known = hi  # no row end behind this place is certain
        at = lo
        while at < hi:
            if at == lo and buffer[lo] == _QUOTE:
                start = lo
            else:
                opening = self._opening.search(buffer, at, hi)
                if opening is None:
                    break
                start = opening.start()
            reach = min(hi, start + self._max_field_bytes)
            field = self._field.match(buffer, start, reach)
            # The last byte may be half of a doubled quote, and what follows the field is not known yet.
            if (field is None or field.end() == hi) and reach == hi and not final:
                known = start
                break
            whole = field is not None and (field.end() == hi or buffer[field.end()] in self._ends_field)
            if field is not None and whole:
                if buffer.find(b"\n", start, field.end()) >= 0:
                    inside.append((start, field.end()))
                at = field.end()
            else:
                newline = buffer.find(b"\n", start, hi)
                if newline < 0:
                    break
                at = newline + 1
                if at < hi and buffer[at] == _QUOTE:
                    at -= 1  # the next row begins with a quote: it is found behind its newline
        return self._newlines(buffer, lo, known, inside)

    @staticmethod
    def _newlines(buffer: bytearray, lo: int, hi: int, inside: list[tuple[int, int]]) -> list[int]:
        newlines = np.flatnonzero(np.frombuffer(buffer, dtype=np.uint8)[lo:hi] == ord("\n")) + lo
        if inside:
            starts, stops = np.array(inside).T
            before = np.searchsorted(starts, newlines, side="right") - 1
            newlines = newlines[(before < 0) | (newlines >= stops[np.maximum(before, 0)])]
        return [int(end) for end in newlines + 1]


def json_object_ends(buffer: bytearray, lo: int, hi: int, *, final: bool) -> list[int]:
    """Ends of outermost objects; brackets and commas between them belong to the next one.

    What cannot be JSON (a line's end inside a string, brackets that do not match, an object where a key or comma
    belongs, anything but brackets and commas between objects) ends with the line before the next one that begins
    with an object, not deeper indented; in a file of one line, before the next object. So one damaged record is one,
    and the records after it are read.
    """
    ends: list[int] = []
    at = last = lo
    while True:
        broken = _scan_objects(buffer, last, at, hi, ends)
        if broken is None:
            return ends
        last = ends[-1] if ends else lo
        if broken >= hi - 1 and not final:  # the bytes that follow decide
            return ends
        at = _restart(buffer, last, broken, hi, final=final)
        if at < 0:
            return ends
        if at > last:
            ends.append(at)
        last = at


def _scan_objects(buffer: bytearray, last: int, at: int, hi: int, ends: list[int]) -> int | None:
    """Add the ends from `at` on; where what cannot be JSON stands (`hi`: an object is open), or None: nothing does."""
    stack: list[int] = []
    for match in _JSON.finditer(buffer, at, hi):
        place = match.start()
        char = buffer[place]
        if char == _QUOTE:
            if not match.group(1):
                return match.end()
        elif char == _OPEN:
            if not stack:
                if buffer[last:place].strip(_BETWEEN_OBJECTS):
                    ends.append(place)
            elif not _value_may_start(buffer, place, stack[-1]):
                return place - 1
            stack.append(char)
        elif char == _OPEN_ARRAY:
            if stack:
                stack.append(char)
        elif stack:
            if stack.pop() != (_OPEN if char == _CLOSE else _OPEN_ARRAY):
                return place
            if not stack:
                last = match.end()
                ends.append(last)
    return hi if stack else None


def _value_may_start(buffer: bytearray, place: int, within: int) -> bool:
    """May an object begin here: after a colon, or in an array after a bracket or comma?"""
    before = place - 1
    while buffer[before] in b" \t\r\n":
        before -= 1
    return buffer[before] == ord(":") or (within == _OPEN_ARRAY and buffer[before] in b"[,")


def _restart(buffer: bytearray, start: int, broken: int, hi: int, *, final: bool) -> int:
    """Where reading can go on after damage at `broken` in the record from `start` on; -1 if that is not known."""
    head = len(buffer[start:broken]) - len(buffer[start:broken].lstrip(_BETWEEN_OBJECTS))
    depth = len(bytes(buffer[start : start + head]).rpartition(b"\n")[2].expandtabs(8).replace(b"[", b""))
    # From the damaged record's first line on: `{"id":` and a whole record on the next line look like one.
    for line in _LINE_OBJECT.finditer(buffer, start + head + 1, hi):
        if len(line.group(1).expandtabs(8).replace(b"[", b"")) <= depth:
            return line.start() + 1
    if not final:
        return -1
    following = _NEXT_OBJECT.search(buffer, broken, hi)
    return -1 if following is None else following.end()
