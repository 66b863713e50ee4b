"""Where pieces of documents begin in a batch -> ids of documents and positions, cu_seqlens, label masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """The pieces of documents in B rows of T + 1 tokens. A row begins a piece; padding is its own piece."""

    starts: NDArray[np.bool_]
    """[B, T + 1]: a piece begins here."""
    used: NDArray[np.int64]
    """[B]: tokens of each row before its padding; T + 1 without padding."""

    @property
    def padding(self) -> NDArray[np.bool_]:
        """[B, T + 1]: no token of the store stands here."""
        found: NDArray[np.bool_] = np.arange(self.starts.shape[1]) >= self.used[:, None]
        return found

    @property
    def without_target(self) -> NDArray[np.bool_]:
        """[B, T]: the next token is not this one's continuation: another document's first, or padding."""
        return self.starts[:, 1:] | self.padding[:, 1:]

    def document_ids(self) -> NDArray[np.int32]:
        """int32 [B, T]: 0, 1, ... along each row, one for each piece; -1 for padding."""
        ids = np.cumsum(self.starts[:, :-1], axis=1, dtype=np.int32) - np.int32(1)
        ids[self.padding[:, :-1]] = -1
        return ids

    def position_ids(self) -> NDArray[np.int64]:
        """int64 [B, T]: 0, 1, ... along each piece."""
        places = np.arange(self.starts.shape[1] - 1, dtype=np.int64)
        begins = np.where(self.starts[:, :-1], places, 0)
        return places - np.maximum.accumulate(begins, axis=1)

    def cu_seqlens(self) -> NDArray[np.int32]:
        """int32 [pieces + 1]: where pieces begin in the inputs, row after row; their number, B * T, last."""
        inputs = self.starts[:, :-1]
        return np.append(np.flatnonzero(inputs), inputs.size).astype(np.int32)


def starts_after(tokens: NDArray[Any], eos_id: int) -> NDArray[np.bool_]:
    """[B, T + 1]: pieces begin at each row's first token, and after each end-of-document id."""
    starts = np.empty(tokens.shape, np.bool_)
    starts[:, 0] = True
    np.equal(tokens[:, :-1], eos_id, out=starts[:, 1:])
    return starts


def starts_at(firsts: NDArray[np.int64], width: int, ends: list[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """[B, width]: pieces begin at each row's first token, and where the stream's documents begin.

    Args:
        firsts: int64 [B]: position in the stream of each row's first token.
        width: tokens per row.
        ends: for each row, positions one past the documents' ends inside of it.
    """
    starts = np.zeros((len(firsts), width), np.bool_)
    starts[:, 0] = True
    for row, first in enumerate(firsts.tolist()):
        inside = ends[row] - first
        starts[row, inside[inside < width]] = True
    return starts
