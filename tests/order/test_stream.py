"""A position is a row: once per epoch, in any order asked, unrelated between runs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers, sampled_from

from headrace.errors import OrderError
from headrace.order.stream import RowOrder, row_at

KINDS = sampled_from(["none", "global", "blocks"])


@given(rows=integers(1, 400), seed=integers(), kind=KINDS, epochs=integers(1, 4))
def test_each_epoch_reads_every_row_once(rows, seed, kind, epochs):
    order = RowOrder(rows=rows, seed=seed, shuffle=kind, block_rows=7, window=3)
    got, epoch = order.rows_at(np.arange(rows * epochs))
    assert (np.sort(got.reshape(epochs, rows), axis=1) == np.arange(rows)).all()
    assert (epoch == np.repeat(np.arange(epochs), rows)).all()


@given(rows=integers(1, 400), start=integers(0, 1000), kind=KINDS)
def test_rows_do_not_depend_on_earlier_calls(rows, start, kind):
    order = RowOrder(rows=rows, seed=1, shuffle=kind, block_rows=7, window=3)
    positions = np.arange(start, start + 50)
    backwards = order.rows_at(positions[::-1])[0][::-1]
    assert (backwards == order.rows_at(positions)[0]).all()


def test_one_row_is_what_the_stream_says():
    order = RowOrder(rows=1000, seed=5, source="x")
    want = order.rows_at(np.arange(2500))[0]
    assert [row_at(p, rows=1000, seed=5, source="x") for p in (0, 999, 1000, 2499)] == list(
        want[[0, 999, 1000, 2499]]
    )


def test_epochs_and_seeds_and_sources_have_unrelated_orders():
    def first(**changed):
        order = RowOrder(**{"rows": 10_000, "seed": 1, "source": "", **changed})
        return order.rows_at(np.arange(20_000))[0]

    base = first()
    others = [base[10_000:], first(seed=2)[:10_000], first(source="a")[:10_000]]
    for other in others:
        assert (base[:10_000] == other).sum() < 12  # 1 expected by chance


def test_a_source_without_rows_has_no_order():
    with pytest.raises(OrderError, match="0 rows"):
        RowOrder(rows=0, seed=0)


def test_a_position_before_the_beginning_is_refused():
    with pytest.raises(OrderError, match="-1"):
        row_at(-1, rows=10, seed=0)
