"""Announced uses: taken where they were announced, known to the last, however readers come and go."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from headrace.store.read.belady import NextUses

uses = some.lists(some.integers(0, 9), min_size=1, max_size=60)


@given(announced=uses, cut=some.integers(1, 60), batch=some.integers(1, 7))
def test_what_is_taken_in_order_leaves_exactly_the_rest(announced, cut, batch):
    upcoming = NextUses(10)
    upcoming.announce(np.array(announced[:cut]))
    if announced[cut:]:
        upcoming.announce(np.array(announced[cut:]))
    for begin in range(0, len(announced), batch):
        rest = announced[begin:]
        assert upcoming.soon().tolist() == rest
        assert upcoming.first_uses() == {block: rest.index(block) for block in rest}
        last = [len(rest) - 1 - rest[::-1].index(block) if block in rest else -1 for block in range(10)]
        known = upcoming.last_uses(np.arange(10))
        assert [max(-1, use) for use in known.tolist()] == last
        upcoming.take(np.array(rest[:batch]))
    assert not upcoming


def test_rows_that_were_not_announced_move_nothing():
    """A row across shards is copied part by part: its parts' blocks are no announced uses."""
    upcoming = NextUses(10)
    upcoming.announce(np.array([1, 2, 3, 4, 5, 6]))
    upcoming.take(np.array([4]))
    assert upcoming.soon().tolist() == [5, 6]  # one row alone is found where it was announced
    upcoming.take(np.array([6, 5]))
    upcoming.take(np.array([9]))
    assert upcoming.soon().tolist() == [5, 6]


def test_threads_that_overtake_each_other_do_not_lose_the_place():
    upcoming = NextUses(10)
    upcoming.announce(np.array([1, 2, 3, 1, 2, 4, 5, 6]))
    upcoming.take(np.array([1, 2, 4]))
    upcoming.take(np.array([1, 2, 3]))
    assert upcoming.soon().tolist() == [5, 6]


def test_a_reader_that_went_elsewhere_is_found_again():
    upcoming = NextUses(100_000)
    upcoming.announce(np.arange(50_000))
    upcoming.announce(np.arange(60_000, 60_008))
    upcoming.take(np.array([60_000, 60_001]))
    assert upcoming.soon().tolist() == list(range(60_002, 60_008))
