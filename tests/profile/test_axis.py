"""Ticks are round and lie within the axis; their labels are short and true."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.profile.axis import short, ticks


@given(low=st.floats(-1e6, 1e6), size=st.floats(1e-3, 1e6), about=st.integers(2, 9))
def test_ticks_lie_within_the_axis_evenly_and_are_neither_none_nor_many(low, size, about):
    found = ticks(low, low + size, about=about)
    assert 1 <= len(found) <= 2 * about + 1
    assert all(low - 1e-6 * size <= t <= low + size * (1 + 1e-6) for t in found)


@given(value=st.integers(1, 10**12))
def test_a_short_label_keeps_three_digits(value):
    size = {"k": 1e3, "M": 1e6, "G": 1e9}
    text = short(float(value))
    read = float(text[:-1]) * size[text[-1]] if text[-1] in size else float(text)
    assert abs(read - value) <= 1e-5 * value
