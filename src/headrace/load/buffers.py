"""A shape -> an array to fill, reused only when nothing that was made from it is alive."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

# References to a buffer that nobody else holds, seen from inside take(): the pool's list, the loop variable,
# and getrefcount's own argument.
_FREE = 3


class BufferPool:
    """Arrays of one shape, handed out again when their last view, tensor or batch is gone.

    Touching fresh pages costs more than filling them (1.3 GB/s against 10), so buffers are reused; a buffer
    that is still seen by anyone (a view, a tensor over it, a batch in a list) has references and is left
    alone, and a fresh one is made instead. At most `keep` buffers are remembered; others are garbage.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, *, keep: int = 8) -> None:
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._keep = keep
        self._buffers: list[NDArray[Any]] = []
        self._lock = threading.Lock()

    def take(self) -> NDArray[Any]:
        """An array of the pool's shape; its content is undefined."""
        with self._lock:
            for buffer in self._buffers:
                if sys.getrefcount(buffer) == _FREE:
                    # A view, not the buffer itself: whoever holds it holds a reference to the buffer.
                    return buffer[:]
            buffer = np.empty(self._shape, self._dtype)
            if len(self._buffers) < self._keep:
                self._buffers.append(buffer)
            return buffer[:]
