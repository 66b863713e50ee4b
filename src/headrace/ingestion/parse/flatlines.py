"""Whole JSON lines -> their texts in one piece of memory, by a page of C that is compiled where that is worth it.

On one core it reads 2.5 GB/s, where a parser that makes an object of each line reads 0.7; compiling takes 0.1 s.
Without a compiler nothing is different but the time.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

import numpy as np

from headrace.compiled import Beside
from headrace.tokens.flat import SEPARATOR, FlatTexts

_WIDE = 32
_number, _pointer = ctypes.c_int64, ctypes.c_void_p
page: Final = Beside(
    Path(__file__).with_name("flatlines.c"),
    "json_texts",
    (_pointer, _number, ctypes.c_char_p, _number, _number, _pointer, _pointer, _pointer),
    after=128 << 20,  # bytes; see also `run.COMPILED_BYTES`
)


def is_plain(name: str) -> bool:
    """Does a field's name stand in JSON as it is?"""
    return not any(char in '"\\' or char < " " for char in name)


class Texts:
    """Texts of one block of lines as they come; its memory is used again for the next block."""

    def __init__(self, name: str, *, max_line_bytes: int) -> None:
        self._name = name.encode()
        self._max_line_bytes = max_line_bytes
        self._room = np.empty(0, np.uint8)
        self._ends = np.empty(0, np.int64)
        self._count = np.zeros(3, np.int64)  # lines, texts, bytes of the room

    def start(self, lines: bytes) -> None:
        """Begin a block."""
        if len(self._room) < len(lines) + _WIDE:
            self._room = np.empty(2 * len(lines) + _WIDE, np.uint8)
            # The shortest line with a text is {"name":"x"}.
            self._ends = np.empty(len(self._room) // (len(self._name) + 8) + 1, np.int64)
        self._lines = np.frombuffer(lines, np.uint8)
        self._count[:] = 0

    def read(self, at: int) -> int:
        """Read lines from a place on; returns the place of the first one in doubt, or the end."""
        assert page.function is not None
        return at + page.function(
            self._lines.ctypes.data + at,
            len(self._lines) - at,
            self._name,
            len(self._name),
            self._max_line_bytes,
            self._room.ctypes.data,
            self._ends.ctypes.data,
            self._count.ctypes.data,
        )

    @property
    def lines_read(self) -> int:
        """Newlines that `read` has passed, and lines that were added."""
        return int(self._count[0])

    def add(self, texts: list[bytes]) -> None:
        """Add what another parser found in the line in doubt: a text, or none."""
        self._count[0] += 1
        for text in texts:
            _, number, used = self._count
            end = used + len(text)
            self._room[used : end + 1] = np.frombuffer(text + SEPARATOR, np.uint8)
            self._ends[number] = end
            self._count[1:] = number + 1, end + 1

    def all(self) -> FlatTexts:
        """All texts of the block."""
        return FlatTexts(self._room[: self._count[2]].tobytes(), self._ends[: self._count[1]].copy())
