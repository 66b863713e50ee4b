"""Rows copied by the page of C are those that NumPy copies, and neither reads outside of the memory."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.store import rowcopy
from headrace.store.rowcopy import Rows

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc)")


@pytest.fixture(params=["numpy", pytest.param("C", marks=needs_compiler)])
def way(request, monkeypatch):
    monkeypatch.setattr(rowcopy._copy_rows, "function", None)
    monkeypatch.setattr(rowcopy._copy_rows, "done", lambda amount: None)
    if request.param == "C":
        assert rowcopy._copy_rows.compile()
    return request.param


@pytest.fixture(scope="module")
def in_c():
    if not rowcopy._copy_rows.compile():
        pytest.skip("no C compiler (cc)")


@given(data=st.data(), dtype=st.sampled_from([np.uint16, np.uint32]), length=st.integers(1, 700))
def test_rows_of_any_length_at_any_places_are_those_that_numpy_slices(in_c, data, dtype, length):
    tokens = np.random.default_rng(length).integers(0, 2**16, length + 300).astype(dtype)
    places = np.array(data.draw(st.lists(st.integers(0, 300), min_size=1, max_size=40)))
    rows = Rows(tokens, tokens=len(tokens), length=length, dtype=tokens.dtype)
    wanted = tokens[places[:, None] + np.arange(length)]
    assert rowcopy._copy_rows.function is not None
    assert np.array_equal(rows.take(places), wanted)
    room = np.full((len(places) + 2, length), 7, dtype)
    rows.take_into(places, room[1:-1])
    assert np.array_equal(room[1:-1], wanted)
    assert (room[[0, -1]] == 7).all()


@pytest.mark.parametrize("bad", [91, 1 << 62, -(1 << 62), 1 << 40])
def test_a_row_outside_of_the_memory_is_refused_and_nothing_is_written(way, bad):
    tokens = np.arange(100, dtype=np.uint16)
    rows = Rows(tokens, tokens=100, length=10, dtype=tokens.dtype)
    assert rows.take(np.array([0, 90]))[1].tolist() == list(range(90, 100))
    out = np.full((2, 10), 7, np.uint16)
    for call in (rows.take, lambda p: rows.take_into(p, out)):
        with pytest.raises(IndexError):
            call(np.array([0, bad]))
    assert (out == 7).all(), way


def test_a_memory_shorter_than_a_row_has_none(way):
    rows = Rows(b"", tokens=0, length=10, dtype=np.dtype(np.uint16))
    with pytest.raises(IndexError):
        rows.take(np.array([0]))
