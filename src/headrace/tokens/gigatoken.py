"""Bytes of many texts -> ids, by the fast engine, with its cache bounded.

gigatoken keeps every word it has seen and never forgets one: text with many different words (identifiers,
hashes, other scripts) grows a process by gigabytes and slows it down. The engine is therefore rebuilt when
the process has grown by `cache_bytes`; that costs 0.05 to 0.3 s and changes no id.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headrace.tokens.protocol import Ids, Offsets

CACHE_BYTES = 160 << 20
CHECK_EVERY_BYTES = 8 << 20


def resident_bytes() -> int:
    """Memory of this process that is in RAM now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


class Gigatoken:
    """The fast engine over one definition; `build` makes a fresh backend without special tokens."""

    def __init__(
        self,
        build: Callable[[], Any],
        *,
        cache_bytes: int = CACHE_BYTES,
        resident: Callable[[], int] = resident_bytes,
    ) -> None:
        self._build = build
        self._cache_bytes = cache_bytes
        self._resident = resident
        self.rebuilds = 0
        self._start()

    def _start(self) -> None:
        self._backend = None  # free the old cache before the new one grows
        self._backend = self._build()
        self._unchecked_bytes = 0
        self._base_bytes: int | None = None

    def encode_batch(self, texts: Sequence[bytes]) -> tuple[Ids, Offsets]:
        """See `Tokenizer.encode_batch`; on the calling thread, the GIL released."""
        if not texts:
            return np.empty(0, dtype=np.uint32), np.zeros(1, dtype=np.int64)
        # parallel=False: workers are processes, and a thread pool does not survive a fork.
        backend: Any = self._backend
        layout = backend.encode_batch(list(texts), parallel=False).layout
        ids, offsets = np.asarray(layout.content.data), np.asarray(layout.offsets.data)
        self._forget_if_grown(sum(map(len, texts)))
        return ids, offsets

    def _forget_if_grown(self, encoded_bytes: int) -> None:
        self._unchecked_bytes += encoded_bytes
        if self._base_bytes is not None and self._unchecked_bytes < CHECK_EVERY_BYTES:
            return
        self._unchecked_bytes = 0
        resident = self._resident()
        if self._base_bytes is None:
            self._base_bytes = resident
        elif resident - self._base_bytes > self._cache_bytes:
            self.rebuilds += 1
            self._start()
