"""Histories -> for each interaction, its moment: which earlier interactions, and counts, were known then.

The moment of an interaction is its time, or with a session gap the time of the first interaction of its session. Known
at a moment is what has an earlier time: an interaction at the same time is not known, whatever its place in the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headrace.ingestion.interactions.histories import Histories


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What was known at the moment of each of N interactions."""

    known: NDArray[np.int64]
    """[N]: interactions [start of the user, known[j]) are earlier than the moment of interaction j."""
    history_ids: NDArray[np.int64]
    """[N]: equal for interactions of one moment of one user, so that their histories are equal."""
    user_events: NDArray[np.int64]
    """[N]: the user's interactions before the moment."""
    item_events: NDArray[np.int64]
    """[N]: interactions of all users with the item before the moment."""


def moments_of(histories: Histories, session_gap: float) -> Moments:
    """The moments of all interactions.

    Args:
        histories: sorted by user and time.
        session_gap: longest pause inside a session; 0 makes a session of interactions at the same time.
    """
    times, starts = histories.times, histories.starts
    begins = np.zeros(len(times), np.bool_)
    begins[starts[:-1]] = True
    begins[1:] |= np.diff(times) > session_gap
    firsts = np.flatnonzero(begins)
    ids = np.cumsum(begins) - 1
    known = firsts[ids]
    user_starts = np.repeat(starts[:-1], np.diff(starts))
    return Moments(
        known=known,
        history_ids=ids,
        user_events=known - user_starts,
        item_events=_item_events(histories, times[known]),
    )


def _item_events(histories: Histories, moments: NDArray[np.generic]) -> NDArray[np.int64]:
    """[N]: interactions with the item of each that are earlier than a moment."""
    distinct, ranks = np.unique(histories.times, return_inverse=True)
    items = histories.items.astype(np.int64)
    keys = np.sort(items * len(distinct) + ranks)
    item_starts = np.searchsorted(keys, items * len(distinct))
    before: NDArray[np.int64] = np.searchsorted(
        keys, items * len(distinct) + np.searchsorted(distinct, moments)
    )
    return before - item_starts
