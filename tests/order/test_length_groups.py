"""Rows of similar length side by side: every row once an epoch, from any position, groups at multiples of the batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import OrderError
from headrace.order import LengthGroupedOrder, RowOrder


def grouped(rows, *, window=32, group=8, seed=1, shuffle="global"):
    lengths = np.random.default_rng(rows).integers(1, 500, rows)
    base = RowOrder(rows=rows, seed=seed, shuffle=shuffle)
    return LengthGroupedOrder(base, lambda some: lengths[some], window=window, group_rows=group), lengths


@settings(max_examples=30)
@given(
    rows=st.integers(1, 50),
    group=st.integers(1, 9),
    groups=st.integers(1, 6),
    seed=st.integers(0, 5),
)
def test_every_row_is_read_once_per_epoch_and_any_position_can_be_asked_alone(rows, group, groups, seed):
    order, _ = grouped(rows, window=group * groups, group=group, seed=seed)
    whole, epochs = order.rows_at(np.arange(3 * rows))
    assert epochs.tolist() == [0] * rows + [1] * rows + [2] * rows
    for epoch in range(3):
        assert sorted(whole[epochs == epoch].tolist()) == list(range(rows))
    backwards = grouped(rows, window=group * groups, group=group, seed=seed)[0]
    for position in range(3 * rows - 1, -1, -13):
        assert backwards.rows_at(np.array([position]))[0] == whole[position]


def test_batches_are_of_similar_length_in_every_epoch_and_come_in_random_order():
    order, lengths = grouped(1001, window=512, group=8)
    rows, _ = order.rows_at(np.arange(8 * (5 * 1001 // 8)))
    batches = lengths[rows].reshape(-1, 8)
    spread = np.ptp(batches, axis=1)
    # All but the batches across the end of an epoch and a last group of few rows.
    assert np.sort(spread)[: -2 * 5].max() < 60
    assert np.ptp(lengths) > 450
    means = batches.mean(axis=1)
    assert 0.3 < (np.diff(means) > 0).mean() < 0.7


def test_orders_of_other_seeds_and_epochs_differ():
    order, _ = grouped(64)
    rows, _ = order.rows_at(np.arange(128))
    other = grouped(64, seed=2)[0].rows_at(np.arange(64))[0]
    assert rows[:64].tolist() != rows[64:].tolist()
    assert rows[:64].tolist() != other.tolist()


def test_a_window_that_is_no_multiple_of_a_group_is_refused():
    with pytest.raises(OrderError, match="a window is a multiple of a group"):
        grouped(10, window=12, group=8)
    with pytest.raises(OrderError, match="before the beginning"):
        grouped(10)[0].rows_at(np.array([-1]))


def test_the_order_does_not_change():
    """Golden: resumed runs depend on it."""
    order, _ = grouped(20, window=8, group=4)
    assert order.rows_at(np.arange(20))[0].tolist() == GOLDEN


GOLDEN = [0, 17, 16, 1, 5, 6, 2, 8, 10, 13, 3, 12, 18, 14, 7, 4, 19, 11, 15, 9]
