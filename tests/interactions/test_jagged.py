from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.interactions import distinct_rows, joined_values


@given(ids=st.lists(st.integers(-3, 3)))
def test_distinct_rows_and_inverse_give_the_ids_back(ids):
    ids = np.array(ids, np.int64)
    rows, inverse = distinct_rows(ids)
    assert np.array_equal(ids[rows][inverse], ids)
    assert len(np.unique(ids[rows])) == len(rows)
    assert (np.diff(rows) > 0).all(), "in the order in which they come"


def test_joined_values_are_views_of_one_buffer():
    parts = [np.arange(3), np.empty(0, np.int64), np.arange(5)]
    buffer, places = joined_values(parts)
    for part, (begin, end) in zip(parts, places, strict=True):
        assert np.array_equal(buffer[begin:end], part)
