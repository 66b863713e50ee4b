"""Where documents begin in a batch -> document ids, position ids, cu_seqlens, label masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentBoundaries:
    """Where documents begin in B rows of T + 1 tokens.

    A document that is cut by a row's end has a piece in each row: here, each row's first token begins a document,
    and so does its padding.
    """

    starts: NDArray[np.bool_]
    """[B, T + 1]: a document begins here."""
    used: NDArray[np.int64]
    """[B]: tokens of each row before its padding; T + 1 without padding."""

    @property
    def padding(self) -> NDArray[np.bool_]:
        """[B, T + 1]: places behind a row's last token."""
        padding: NDArray[np.bool_] = np.arange(self.starts.shape[1]) >= self.used[:, None]
        return padding

    @property
    def without_target(self) -> NDArray[np.bool_]:
        """[B, T]: places whose next token is another document's first, or padding."""
        return self.starts[:, 1:] | self.padding[:, 1:]

    def document_ids(self) -> NDArray[np.int32]:
        """int32 [B, T]: 0, 1, ... along each row, counting documents; -1 for padding."""
        ids = np.cumsum(self.starts[:, :-1], axis=1, dtype=np.int32) - np.int32(1)
        ids[self.padding[:, :-1]] = -1
        return ids

    def position_ids(self) -> NDArray[np.int64]:
        """int64 [B, T]: 0, 1, ... along each document."""
        places = np.arange(self.starts.shape[1] - 1, dtype=np.int64)
        begins = np.where(self.starts[:, :-1], places, 0)
        return places - np.maximum.accumulate(begins, axis=1)

    def cu_seqlens(self) -> NDArray[np.int32]:
        """int32 [documents + 1]: where documents begin in the flattened inputs; the inputs' number, B * T, last."""
        inputs = self.starts[:, :-1]
        return np.append(np.flatnonzero(inputs), inputs.size).astype(np.int32)


def starts_after(tokens: NDArray[Any], eos_id: int) -> NDArray[np.bool_]:
    """[B, T + 1]: documents begin at each row's first token, and after each end-of-document id."""
    starts = np.empty(tokens.shape, np.bool_)
    starts[:, 0] = True
    np.equal(tokens[:, :-1], eos_id, out=starts[:, 1:])
    return starts


def starts_at(firsts: NDArray[np.int64], width: int, ends: list[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """[B, width]: documents begin at each row's first token, and where the stream's documents begin.

    Args:
        firsts: int64 [B]: position in the stream of each row's first token.
        width: tokens per row.
        ends: for each row, positions one past the end of each document that ends in it.
    """
    starts = np.zeros((len(firsts), width), np.bool_)
    starts[:, 0] = True
    for row, first in enumerate(firsts.tolist()):
        inside = ends[row] - first
        starts[row, inside[inside < width]] = True
    return starts
