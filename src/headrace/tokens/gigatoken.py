"""Bytes of many texts -> ids, by the fast engine, with its cache bounded.

gigatoken keeps every word it has seen and never forgets one: text with many different words (identifiers,
hashes, other scripts) grows a process by gigabytes and slows it down. The engine is therefore rebuilt when
the process has grown by `cache_bytes`; that costs 0.05 to 0.3 s and changes no id.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from headrace.platform import resident_memory_nbytes
from headrace.tokens.flat import SEPARATOR, FlatTexts, lengths_of
from headrace.tokens.protocol import Ids, Offsets, join_ids, offsets_of

CACHE_BYTES = 160 << 20
CHECK_EVERY_BYTES = 8 << 20
_FEW, _LONG = 32, 4096
"""Few or long texts are encoded one by one: as fast, and without loading awkward (0.4 s, once)."""


def resident_bytes() -> int:
    """Memory of this process that is in RAM now; 0 where the system does not say."""
    return resident_memory_nbytes() or 0


class Gigatoken:
    """The fast engine over one definition; `build` makes a fresh backend without special tokens."""

    def __init__(
        self,
        build: Callable[[], Any],
        *,
        first_id: int = 0,
        cache_bytes: int = CACHE_BYTES,
        resident: Callable[[], int] = resident_bytes,
    ) -> None:
        self._build = build
        self._first_id = np.uint32(first_id)  # the backend counts from 0
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
        ids, offsets = self._encode_batch(texts)
        return (ids + self._first_id if self._first_id else ids), offsets

    def _encode_batch(self, texts: Sequence[bytes]) -> tuple[Ids, Offsets]:
        if not len(texts):
            return np.empty(0, dtype=np.uint32), np.zeros(1, dtype=np.int64)
        # parallel=False: workers are processes, and a thread pool does not survive a fork.
        backend: Any = self._backend
        if isinstance(texts, FlatTexts) and _is_slim() and _takes_joined(backend):
            nbytes = len(texts.joined)
            source = _module().BytesSource(texts.joined, SEPARATOR)
            ids, offsets = _flat(backend.encode_batch(source, parallel=False))
            assert len(offsets) == len(texts) + 1, "the engine cut texts otherwise"
            self._forget_if_grown(nbytes)
            return ids, offsets
        nbytes = int(lengths_of(texts).sum())
        if len(texts) < _FEW or (nbytes >= _LONG * len(texts) and not _is_slim()):
            ids, offsets = join_ids([backend.encode(text) for text in texts])
        else:
            ids, offsets = _flat(backend.encode_batch(list(texts), parallel=False))
        self._forget_if_grown(nbytes)
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


def slim_results() -> None:
    """Take batches' ids as two plain arrays, without loading awkward; for processes that are ours alone.

    gigatoken ends a batch with `awkward.unflatten(ids, counts)`. Loading awkward takes 0.4 s and 60 MB, which
    every worker would pay; here a stand-in hands the two arrays through.
    """
    if "awkward" not in sys.modules:
        stand_in = ModuleType("awkward")
        # It asks whether its input is an Array; ours never is.
        vars(stand_in).update(Array=type("Array", (), {}), unflatten=_Flat)
        sys.modules["awkward"] = stand_in


class _Flat(NamedTuple):
    ids: Ids
    counts: Offsets


def _module() -> Any:
    return sys.modules["gigatoken.gigatoken_rs"]


def _takes_joined(backend: Any) -> bool:
    """Its engine for SentencePiece models cuts at valid UTF-8 only, which a text may hold."""
    return isinstance(backend, _module().BPETokenizer)


def _is_slim() -> bool:
    return getattr(sys.modules.get("awkward"), "unflatten", None) is _Flat


def _flat(result: Any) -> tuple[Ids, Offsets]:
    if isinstance(result, _Flat):
        return result.ids, offsets_of(result.counts)
    layout = result.layout
    return np.asarray(layout.content.data), np.asarray(layout.offsets.data)
