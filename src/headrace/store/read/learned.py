"""Learned spans of shards and pieces of the stream -> which tokens of the pieces are learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Runs of learned tokens in a shard, counted from its first token; ascending, and apart from each other."""

    begins: NDArray[np.uint32]
    """First token of each run."""
    ends: NDArray[np.uint32]
    """One past the last token of each run."""

    def mask(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which tokens of pieces of the shard are learned: bool [sum of the lengths], piece after piece."""
        total = int(lengths.sum())
        steps = np.zeros(total + 1, np.int8)
        first = self.ends.searchsorted(starts, "right")
        counts = self.begins.searchsorted(starts + lengths, "left") - first
        # The spans that each piece overlaps, and where they begin and end in the result.
        piece = np.repeat(np.arange(len(starts)), counts)
        span = np.arange(len(piece)) - np.repeat(np.cumsum(counts) - counts - first, counts)
        base = (np.cumsum(lengths) - lengths)[piece]
        begins = np.maximum(self.begins[span].astype(np.int64) - starts[piece], 0)
        ends = np.minimum(self.ends[span].astype(np.int64) - starts[piece], lengths[piece])
        np.add.at(steps, base + begins, 1)
        np.subtract.at(steps, base + ends, 1)
        return np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)


def learned_mask(
    spans: Callable[[int], Spans | None],
    token_starts: NDArray[np.int64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Which tokens of pieces of the stream are learned.

    Args:
        spans: a shard's spans; None where all its tokens are learned.
        token_starts: int64 [shards + 1], tokens before each shard.
        starts: int64 [N], first token of each piece.
        lengths: int64 [N], tokens of each piece.

    Returns:
        bool [sum of the lengths], piece after piece.
    """
    out = np.ones(int(lengths.sum()), np.bool_)
    offsets = np.cumsum(lengths) - lengths
    stops = starts + lengths
    first = token_starts.searchsorted(starts, "right") - 1
    last = token_starts.searchsorted(stops, "left") - 1
    for shard in np.unique(np.concatenate((first, *(first + k for k in range(1, _most(first, last) + 1))))):
        if not 0 <= shard < len(token_starts) - 1:
            continue
        inside = np.flatnonzero((first <= shard) & (shard <= last))
        shard_spans = spans(int(shard)) if len(inside) else None
        if shard_spans is None:
            continue
        low = np.maximum(starts[inside], token_starts[shard])
        high = np.minimum(stops[inside], token_starts[shard + 1])
        places = _ranges(offsets[inside] + low - starts[inside], high - low)
        out[places] = shard_spans.mask(low - token_starts[shard], high - low)
    return out


def _most(first: NDArray[np.int64], last: NDArray[np.int64]) -> int:
    """Most shard borders inside one piece."""
    return int((last - first).max(initial=0))


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of several ranges, one range after the other."""
    ends = np.cumsum(lengths)
    return np.arange(int(lengths.sum())) - np.repeat(ends - lengths - starts, lengths)
