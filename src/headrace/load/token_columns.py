"""Token ids of rows, as values and offsets -> arrays of a batch that models take: padded, masked, labels in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from headrace.store import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORED: Final = -100
"""The label at which losses ignore a place."""


def cut_rows(column: Ragged, max_length: int | None) -> Ragged:
    """Rows of at most this many tokens; a row that is cut keeps its last token, which ends it."""
    lengths = column.lengths()
    if max_length is None or not len(lengths) or int(lengths.max()) <= max_length:
        return column
    kept = np.minimum(lengths, max_length)
    offsets = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(kept, out=offsets[1:])
    starts = column.offsets[:-1].astype(np.int64)
    places = np.repeat(starts - offsets[:-1], kept) + np.arange(offsets[-1])
    is_cut = lengths > max_length
    places[offsets[1:][is_cut] - 1] = column.offsets[1:][is_cut] - 1
    return Ragged(column.values[places], offsets)


def padded(column: Ragged, *, pad_id: int, multiple_of: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Ids int64 [B, longest], and bool [B, longest]: where they are.

    >>> ids, mask = padded(Ragged(np.array([7, 8, 9]), np.array([0, 1, 3])), pad_id=0, multiple_of=4)
    >>> ids.tolist(), mask.sum(axis=1).tolist()
    ([[7, 0, 0, 0], [8, 9, 0, 0]], [1, 2])
    """
    lengths = column.lengths()
    longest = max(1, int(lengths.max(initial=0)))
    width = -(-longest // multiple_of) * multiple_of
    mask = np.arange(width) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = column.values
    return ids, mask


def model_inputs(
    name: str, column: Ragged, *, pad_id: int, multiple_of: int
) -> tuple[dict[str, NDArray[Any]], int, int]:
    """A padded column under the names that models take, and its places: all, and those of padding.

    `source` is what an encoder reads, `target` what a decoder learns; models make the decoder's inputs of the labels.
    """
    ids, mask = padded(column, pad_id=pad_id, multiple_of=multiple_of)
    attention = mask.astype(np.int64)
    places = mask.size, mask.size - len(column.values)
    if name == "source":
        return {"input_ids": ids, "attention_mask": attention}, *places
    if name == "target":
        labels = np.where(mask, ids, IGNORED)
        return {"labels": labels, "decoder_attention_mask": attention}, *places
    return {f"{name}_input_ids": ids, f"{name}_attention_mask": attention}, *places
