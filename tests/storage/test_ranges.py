"""Neighbouring ranges of a file are read by one request, and nothing is read twice."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as some

from headrace.storage import coalesce


@dataclass(frozen=True)
class Range:
    number: int
    file: int
    start: int
    stop: int


@given(
    places=some.lists(some.tuples(some.integers(0, 2), some.integers(1, 100)), max_size=40),
    gap=some.integers(0, 300),
    most=some.integers(100, 500),
)
def test_groups_are_neighbours_of_one_file_and_hold_each_range_once(places, gap, most):
    at = {0: 0, 1: 0, 2: 0}
    ranges = []
    for i, (shard, nbytes) in enumerate(places):
        at[shard] += nbytes + (i * 37) % 200
        ranges.append(Range(i, shard, at[shard] - nbytes, at[shard]))
    groups = coalesce(ranges[::-1], max_gap=gap, max_request=most)
    assert sorted(one.number for group in groups for one in group) == list(range(len(ranges)))
    for group in groups:
        assert len({one.file for one in group}) == 1
        assert group[-1].stop - group[0].start <= most
        assert all(0 <= b.start - a.stop <= gap for a, b in itertools.pairwise(group))
