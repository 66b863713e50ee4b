"""A shape -> an array to fill; its memory is used again only when no array, view or tensor of it is alive."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

# References to a buffer that only the pool holds, counted inside take(): the pool's list, the loop variable,
# and getrefcount's own argument.
_FREE_REFERENCES = 3


class BufferPool:
    """Arrays of one shape, given out again when their last view, tensor or batch is gone.

    The first write to fresh memory costs more than the copy itself (1.3 GB/s against 10), so buffers are used
    again. A buffer to which anything else refers (a view, a tensor over it, a batch in a list) is left alone, and
    a new one is allocated. The pool keeps at most `keep` buffers; Python frees the others.
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
                if sys.getrefcount(buffer) == _FREE_REFERENCES:
                    # A view: it, and everything made of it, refers to the buffer.
                    return buffer[:]
            buffer = np.empty(self._shape, self._dtype)
            if len(self._buffers) < self._keep:
                self._buffers.append(buffer)
            return buffer[:]
