"""A position of a mixture -> its source, and an index into the stream of that source; weights as integer quotas.

Weights become integer counts in a period of some thousand positions; a permutation of its own shuffles each
period. The rows of source k before position i are then a closed form: whole periods times its quota, plus its
rows in the unfinished period. Every source is therefore read from its own stream without a gap, and has its own
epochs.

Changed weights are a new segment with its first position; the rows before it stay the same.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from headrace.errors import OrderError
from headrace.order.permutation import permute_many, round_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# A table of 4,096 costs 0.2 ms once per 4,096 rows. Longer only where a weight is too small for it.
PERIOD = 4096
MAX_PERIOD = 65536


def quotas_from_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Integer counts per period, as near to the weights as the period allows.

    Exact where the shares have a common denominator up to 4,096; otherwise off by less than one row per period.

    >>> quotas_from_weights([0.7, 0.3])
    (2863, 1227)

    Args:
        weights: one per source, finite, >= 0, not all 0; they need not add up to 1.

    Returns:
        One count per source; 0 only where the weight is 0.

    Raises:
        OrderError: a weight is negative, not finite, all are 0, or one is too small for the longest period.
    """
    shares = np.asarray(weights, np.float64)
    if shares.size == 0 or not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise OrderError(f"weights {list(weights)}: every weight must be finite and >= 0, and one above 0")
    shares = shares / shares.sum()
    smallest = float(shares[shares > 0].min())
    denominators = np.arange(1, PERIOD + 1)
    products = denominators[:, None] * shares
    exact = np.flatnonzero(
        (np.abs(products - np.rint(products)) < 1e-6).all(axis=1)
        & (products[:, shares > 0] > 0.5).all(axis=1)
    )
    if exact.size:
        denominator = int(denominators[exact[0]])
        unit = np.rint(shares * denominator).astype(np.int64)
        return tuple(int(count) for count in unit * (PERIOD // denominator))
    period = PERIOD
    while smallest * period < 0.5:
        period *= 2
        if period > MAX_PERIOD:
            raise OrderError(
                f"a weight of {smallest:.3g} of the whole is below one row in {2 * MAX_PERIOD}: raise it, or "
                "merge that source with another"
            )
    counts = np.maximum(np.floor(shares * period), shares > 0).astype(np.int64)
    missing = period - int(counts.sum())
    # Largest remainders first. Where raising zeros to one made the sum too large, the period is a little longer.
    for source in np.argsort(counts - shares * period, kind="stable")[: max(missing, 0)]:
        counts[source] += 1
    return tuple(int(count) for count in counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Quotas that are used from a position on."""

    start: int
    """First position; >= 0."""
    quotas: tuple[int, ...]
    """Rows of each source per period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaTable:
    """The source at each position of an endless stream."""

    segments: tuple[Segment, ...]
    """Ascending by start; the first starts at 0."""
    seed: int

    def __post_init__(self) -> None:
        starts = [segment.start for segment in self.segments]
        if not starts or starts[0] != 0 or any(a >= b for a, b in itertools.pairwise(starts)):
            raise OrderError(
                f"segments start at {starts}: the first must start at 0, and each later than the last"
            )
        if len({len(segment.quotas) for segment in self.segments}) != 1:
            raise OrderError("segments: every one needs a quota for every source")

    def counts_before(self, position: int) -> NDArray[np.int64]:
        """Rows of each source before a position: a closed form, O(segments).

        Returns:
            int64 [K], adding up to `position`.
        """
        counts = np.zeros(len(self.segments[0].quotas), np.int64)
        for segment, end in zip(
            self.segments, [*(s.start for s in self.segments[1:]), position], strict=True
        ):
            length = min(end, position) - segment.start
            if length <= 0:
                break
            quotas = np.array(segment.quotas, np.int64)
            periods, rest = divmod(length, int(quotas.sum()))
            counts += quotas * periods
            if rest:
                sources, _ = _period(self.seed, segment.start, periods, segment.quotas)
                counts += np.bincount(sources[:rest], minlength=counts.size)
        return counts

    def locate(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source at each position, and how many rows of that source come before it.

        Args:
            positions: int64 [N], >= 0, in any order.

        Returns:
            sources int64 [N], indices int64 [N] into the sources' own streams.

        Raises:
            OrderError: a position < 0.
        """
        sources, indices = np.empty_like(positions), np.empty_like(positions)
        if positions.size == 0:
            return sources, indices
        if int(positions.min()) < 0:
            raise OrderError(f"position {int(positions.min())} is before the beginning of the stream")
        starts = np.array([segment.start for segment in self.segments], np.int64)
        which = np.searchsorted(starts, positions, side="right") - 1
        for number in np.unique(which):
            segment = self.segments[number]
            base = self.counts_before(segment.start)
            quotas = np.array(segment.quotas, np.int64)
            members = np.flatnonzero(which == number)
            periods, slots = np.divmod(positions[members] - segment.start, int(quotas.sum()))
            for period in np.unique(periods):
                inside = periods == period
                table_sources, table_ranks = _period(self.seed, segment.start, int(period), segment.quotas)
                chosen = table_sources[slots[inside]]
                sources[members[inside]] = chosen
                indices[members[inside]] = base[chosen] + quotas[chosen] * period + table_ranks[slots[inside]]
        return sources, indices

    def fingerprint_before(self, position: int) -> str:
        """16 hex digits of the segments that start before a position (or at 0).

        A run at `position` may continue with any table that has the same segments before it.
        """
        past = [s for s in self.segments if s.start < position or s.start == 0]
        text = ";".join(f"{s.start}:{','.join(map(str, s.quotas))}" for s in past)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=8)
def _period(
    seed: int, start: int, period: int, quotas: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Source at each slot of one period, and the number of slots of that source before it."""
    ends = np.cumsum(quotas)
    keys = round_keys(seed=seed, source=f"segment {start}", epoch=period, purpose="quota")
    mixed = permute_many(np.arange(ends[-1], dtype=np.int64), n=int(ends[-1]), keys=keys)
    sources = np.searchsorted(ends, mixed, side="right").astype(np.int64)
    by_source = np.argsort(sources, kind="stable")
    ranks = np.empty_like(sources)
    ranks[by_source] = np.arange(sources.size) - (ends - np.array(quotas))[sources[by_source]]
    sources.setflags(write=False)
    ranks.setflags(write=False)
    return sources, ranks
