"""Rows copied in C are those that NumPy copies, and neither reads outside of the buffer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.native import Rows


@given(data=st.data(), dtype=st.sampled_from([np.uint16, np.uint32]), length=st.integers(1, 700))
def test_rows_of_any_length_at_any_positions_are_those_that_numpy_slices(target, data, dtype, length):
    tokens = np.random.default_rng(length).integers(0, 2**16, length + 300).astype(dtype)
    places = np.array(data.draw(st.lists(st.integers(0, 300), min_size=1, max_size=40)))
    rows = Rows(tokens, tokens=len(tokens), length=length, dtype=tokens.dtype)
    expected = tokens[places[:, None] + np.arange(length)]
    assert np.array_equal(rows.take(places), expected), target
    out = np.full((len(places) + 2, length), 7, dtype)
    rows.take_into(places, out[1:-1])
    assert np.array_equal(out[1:-1], expected)
    assert (out[[0, -1]] == 7).all()


@pytest.mark.parametrize("bad", [91, 1 << 62, -(1 << 62), 1 << 40])
def test_a_row_outside_of_the_buffer_is_refused_and_nothing_is_written(target, bad):
    tokens = np.arange(100, dtype=np.uint16)
    rows = Rows(tokens, tokens=100, length=10, dtype=tokens.dtype)
    assert rows.take(np.array([0, 90]))[1].tolist() == list(range(90, 100))
    out = np.full((2, 10), 7, np.uint16)
    for call in (rows.take, lambda p: rows.take_into(p, out)):
        with pytest.raises(IndexError):
            call(np.array([0, bad]))
    assert (out == 7).all(), target


def test_a_buffer_shorter_than_a_row_has_none(target):
    rows = Rows(b"", tokens=0, length=10, dtype=np.dtype(np.uint16))
    with pytest.raises(IndexError):
        rows.take(np.array([0]))
