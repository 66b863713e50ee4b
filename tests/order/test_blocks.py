"""Two levels of shuffle visit every row once, keep a window to its blocks, and mix as their number says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers

from headrace.errors import OrderError
from headrace.order.blocks import BlockWindow


def test_every_row_once_for_every_small_size_block_and_window():
    for rows in (*range(1, 14), 21, 32, 33):
        for block_rows in range(1, 9):
            for window in (1, 2, 3, 5):
                order = BlockWindow(rows=rows, block_rows=block_rows, window=window, seed=rows)
                got = np.sort(order.rows_at(np.arange(rows)))
                assert (got == np.arange(rows)).all(), (rows, block_rows, window)


@settings(max_examples=50)
@given(integers(1, 5000), integers(50, 600), integers(1, 50), integers(), integers(0, 9))
def test_every_row_once_per_epoch(rows, block_rows, window, seed, epoch):
    order = BlockWindow(rows=rows, block_rows=block_rows, window=window, seed=seed, epoch=epoch)
    assert (np.sort(order.rows_at(np.arange(rows))) == np.arange(rows)).all()


@settings(max_examples=50)
@given(integers(1, 2000), integers(8, 64), integers(3, 20), integers(), integers(0, 1999))
def test_any_index_alone_is_what_it_is_among_all(rows, block_rows, window, seed, index):
    order = BlockWindow(rows=rows, block_rows=block_rows, window=window, seed=seed)
    index %= rows
    assert order.rows_at(np.array([index]))[0] == order.rows_at(np.arange(rows))[index]


@settings(max_examples=50)
@given(integers(1, 3000), integers(8, 64), integers(2, 20), integers())
def test_a_window_reads_no_more_than_its_blocks(rows, block_rows, window, seed):
    order = BlockWindow(rows=rows, block_rows=block_rows, window=window, seed=seed)
    full, rest = divmod(rows, block_rows)
    got = order.rows_at(np.arange(rows))
    begin = 0
    for number in range(order.num_windows):
        blocks = min(window, full - number * window)
        size = blocks * block_rows + (rest if number == order.short_window() else 0)
        seen = np.unique(got[begin : begin + size] // block_rows)
        assert len(seen) == blocks + (rest > 0 and number == order.short_window())
        begin += size
    assert begin == rows


def test_pairs_of_a_batch_share_a_block_as_often_as_the_mixing_number_says():
    order = BlockWindow(rows=64_000, block_rows=64, window=16, seed=3)
    blocks = order.rows_at(np.arange(64_000)) // 64
    pairs = blocks[::2] == blocks[1::2]
    assert order.same_block_share == pytest.approx(63 / 1023)
    assert pairs.mean() == pytest.approx(order.same_block_share, abs=0.006)


def test_a_window_of_all_blocks_is_a_global_shuffle():
    order = BlockWindow(rows=64_000, block_rows=64, window=1000, seed=3)
    rows = order.rows_at(np.arange(64_000))
    assert (rows[::2] // 64 == rows[1::2] // 64).mean() < 0.003
    assert abs(np.corrcoef(np.arange(64_000), rows)[0, 1]) < 0.02


def test_the_short_block_is_not_always_read_last():
    windows = {BlockWindow(rows=1001, block_rows=10, window=10, seed=s).short_window() for s in range(100)}
    assert windows == set(range(10))


def test_a_source_of_a_quadrillion_rows_costs_nothing_to_enter():
    order = BlockWindow(rows=10**15 + 7, block_rows=512, window=64, seed=0)
    rows = order.rows_at(np.arange(10**15 - 100, 10**15))
    assert len(np.unique(rows)) == 100


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"block_rows": 0}, {"window": 0}])
def test_sizes_below_one_are_refused(wrong):
    with pytest.raises(OrderError, match=next(iter(wrong))):
        BlockWindow(**{"rows": 5, "block_rows": 1, "window": 1, "seed": 0, **wrong})


# Changing these changes the order of every run ever recorded: bump order.cursor.STATE_VERSION with them.
def test_the_order_is_the_recorded_one():
    order = BlockWindow(rows=1000, block_rows=9, window=5, seed=7)
    assert order.rows_at(np.array([0, 1, 2, 500, 998, 999])).tolist() == [226, 438, 182, 28, 571, 569]
