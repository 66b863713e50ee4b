"""Places in a memory -> the rows that begin there, side by side: by a page of C, or by one NumPy index without it.

32 shuffled rows of 2,048 uint16 tokens take C 6 us, NumPy 9.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.compiled import Beside

_number, _pointer = ctypes.c_int64, ctypes.c_void_p
_copy_rows: Final = Beside(
    Path(__file__).with_name("rowcopy.c"),
    "copy_rows",
    (_pointer, _number, _number, _pointer, _number, _number, _pointer),
    after=5_000,  # batches of 9 us: by then as much was spent as compiling takes
)
# ndarray.ctypes.data would be as simple, and takes three times as long.
_byte_of: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer
_address: Final = ctypes.addressof


class Rows:
    """Rows of one length in a memory that outlives them; safe for threads."""

    __slots__ = ("_address", "_count", "_dtype", "_length", "_nbytes", "_rows", "_stride")

    def __init__(self, memory: Any, *, tokens: int, length: int, dtype: np.dtype[Any]) -> None:
        """See it as rows.

        Args:
            memory: a buffer.
            tokens: that begin in it one after the other, from its beginning.
            length: tokens of a row.
            dtype: of the tokens.
        """
        self._length = length
        self._dtype = dtype
        self._count = max(0, tokens - length + 1)
        self._stride = dtype.itemsize
        self._nbytes = length * dtype.itemsize
        # An element is an opaque value of a row's bytes, and its neighbour begins one token later.
        self._rows = np.ndarray((self._count,), f"V{self._nbytes}", memory, strides=(self._stride,))
        self._rows.flags.writeable = False
        self._address = self._rows.ctypes.data

    def take(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Rows at places, int64 [N] in C order: dtype [N, length], a new array.

        Raises:
            IndexError: a row begins outside of the memory, or so late that it would leave it. (NumPy takes a small
                number below 0 for one from the end; nobody may pass one.)
        """
        copy_rows = _copy_rows.function
        if copy_rows is None:
            return self._by_numpy(places).view(self._dtype).reshape(len(places), self._length)
        out = np.empty((len(places), self._length), self._dtype)
        self._by_c(copy_rows, places, out)
        return out

    def take_into(self, places: NDArray[np.int64], out: NDArray[Any]) -> None:
        """The same into `out`, dtype [N, length] in C order. Raises: IndexError, and nothing is written."""
        copy_rows = _copy_rows.function
        if copy_rows is None:
            np.ndarray((len(places),), self._rows.dtype, out)[...] = self._by_numpy(places)
        else:
            self._by_c(copy_rows, places, out)

    def _by_c(self, copy_rows: Callable[..., int], places: NDArray[np.int64], out: NDArray[Any]) -> None:
        done = copy_rows(
            self._address,
            self._count,
            self._stride,
            _address(_byte_of(places)),
            len(places),
            self._nbytes,
            _address(_byte_of(out)),
        )
        if not done:
            raise IndexError("a row outside of the memory")

    def _by_numpy(self, places: NDArray[np.int64]) -> NDArray[np.void]:
        _copy_rows.done(1)
        return self._rows[places]
