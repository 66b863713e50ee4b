"""Many texts in one buffer -> a sequence of them; engines that can take the buffer make no object for each text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from headrace.tokens.protocol import Offsets

SEPARATOR = b"\xff"
"""A byte that no UTF-8 contains."""


class FlatTexts(Sequence[bytes]):
    r"""Texts that are not empty, each followed by SEPARATOR.

    >>> texts = FlatTexts(b"one\xfftwo\xff", np.array([3, 7]))
    >>> list(texts), lengths_of(texts).tolist()
    ([b'one', b'two'], [3, 3])
    """

    __slots__ = ("ends", "joined")

    def __init__(self, joined: bytes, ends: Offsets) -> None:
        self.joined = joined
        self.ends = ends
        """Where each text ends, int64 [texts]."""

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return list(self)[index]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = int(self.ends[index - 1]) + 1 if index else 0
        return self.joined[start : int(self.ends[index])]

    def __iter__(self) -> Iterator[bytes]:
        # Sequence's own goes through __getitem__: 1 us a text, where splitting takes 0.05.
        texts = self.joined.split(SEPARATOR)
        texts.pop()  # what is behind the last separator
        return iter(texts)


def lengths_of(texts: Sequence[bytes]) -> Offsets:
    """Bytes of each text, int64 [texts]."""
    if isinstance(texts, FlatTexts):
        return np.diff(texts.ends, prepend=-1) - 1
    return np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
