"""Places in a memory -> the rows that begin there, side by side: by a page of C, or by one NumPy index without it.

The page is compiled beside the reading, in a thread of its own, once a process has read so much that it will be worth
it: 6 us instead of 9 for 32 shuffled rows of 2,048 uint16 tokens. Where there is no compiler NumPy goes on.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.compiled import NotCompiledError, compile_c

_SOURCE: Final = Path(__file__).with_name("rowcopy.c")
_WORTH_IT: Final = 64
"""Reads by NumPy, after which compiling begins: a first batch does not wait for a compiler, nor does a short look."""

# ndarray.ctypes.data would be as simple, and takes three times as long.
_byte_of: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer
_address: Final = ctypes.addressof

_copy_rows: Callable[..., int] | None = None
_reads = 0


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
        if _copy_rows is None:
            return self._by_numpy(places).view(self._dtype).reshape(len(places), self._length)
        out = np.empty((len(places), self._length), self._dtype)
        self._by_c(_copy_rows, places, out)
        return out

    def take_into(self, places: NDArray[np.int64], out: NDArray[Any]) -> None:
        """The same into `out`, dtype [N, length] in C order. Raises: IndexError, and nothing is written."""
        if _copy_rows is None:
            np.ndarray((len(places),), self._rows.dtype, out)[...] = self._by_numpy(places)
        else:
            self._by_c(_copy_rows, places, out)

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
        global _reads
        _reads += 1
        if _reads == _WORTH_IT:
            threading.Thread(target=use_compiled, name="headrace-compile", daemon=True).start()
        return self._rows[places]


def use_compiled() -> bool:
    """Compile the page of C, and read with it from now on; False where that cannot be done."""
    global _copy_rows
    try:
        function = compile_c(_SOURCE).copy_rows
    except NotCompiledError:
        return False
    number, address = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [address, number, number, address, number, number, address]
    _copy_rows = function
    return True
