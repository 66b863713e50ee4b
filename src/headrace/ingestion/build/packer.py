"""Ids of texts -> one array of tokens in the stored type, the end-of-document id after each document."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.tokens import Ids, Offsets


class TokenPacker:
    """Collects the tokens of one shard; its buffers are reused for the next shard.

    Newly allocated memory costs more than the copy itself (page faults run at 1.3 GB/s), so no token buffer is
    allocated per batch.

    >>> packer = TokenPacker(np.dtype("uint16"), eos_id=256)
    >>> packer.add(np.array([7, 8, 9], np.uint32), np.array([0, 1, 3]))
    >>> packer.tokens.tolist(), packer.document_ends.tolist()
    ([7, 256, 8, 9, 256], [2, 5])
    """

    def __init__(
        self, dtype: np.dtype[np.unsignedinteger[Any]], *, eos_id: int, capacity: int = 1 << 20
    ) -> None:
        self._eos_id = eos_id
        self._tokens = np.empty(capacity, dtype=dtype)
        self._mask = np.empty(capacity, dtype=np.bool_)
        self._size = 0
        self._ends: list[npt.NDArray[np.int64]] = []
        self._learned: list[npt.NDArray[np.bool_] | int] = []
        """Masks of the texts that were added, or how many tokens of texts that are learned whole."""
        self._has_given = False

    @property
    def tokens(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Tokens so far, 1-D, in the stored type; valid until the next call."""
        return self._tokens[: self._size]

    @property
    def document_ends(self) -> npt.NDArray[np.int64]:
        """One past each end-of-document, int64 [documents]."""
        return np.concatenate(self._ends) if self._ends else np.empty(0, dtype=np.int64)

    @property
    def learned(self) -> npt.NDArray[np.bool_] | None:
        """Which tokens are learned, bool [tokens]; None where no text was added with a mask."""
        if not self._has_given:
            return None
        return np.concatenate([np.ones(part, np.bool_) if isinstance(part, int) else part for part in self._learned])

    def add(
        self,
        ids: Ids,
        offsets: Offsets,
        learned: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None = None,
    ) -> None:
        """Append texts.

        Args:
            ids: uint32 [total], none of them the end of document, all below the vocabulary's size.
            offsets: int64 [documents + 1].
            learned: which ids are learned, [total], and which ends of documents, [documents]; None: all.
        """
        documents = len(offsets) - 1
        size = len(ids) + documents
        self._reserve(size)
        out = self._tokens[self._size : self._size + size]
        ends = offsets[1:] + np.arange(1, documents + 1)
        mask = self._mask[:size]
        mask.fill(True)
        mask[ends - 1] = False
        out[mask] = ids
        out[ends - 1] = self._eos_id
        if learned is None:
            self._learned.append(size)
        else:
            self._has_given = True
            both = np.empty(size, np.bool_)
            both[mask], both[ends - 1] = learned
            self._learned.append(both)
        self._ends.append(ends + self._size)
        self._size += size

    def clear(self) -> None:
        """Begin the next shard."""
        self._size = 0
        self._ends.clear()
        self._learned.clear()
        self._has_given = False

    def _reserve(self, size: int) -> None:
        if len(self._mask) < size:
            self._mask = np.empty(2 * size, dtype=np.bool_)
        if len(self._tokens) < self._size + size:
            grown = np.empty(max(2 * len(self._tokens), self._size + size), dtype=self._tokens.dtype)
            grown[: self._size] = self._tokens[: self._size]
            self._tokens = grown
