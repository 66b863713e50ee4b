"""A mixture keeps its weights in every period, and walks every source without a gap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import builds, floats, integers, lists

from headrace.errors import OrderError
from headrace.order.mix import QuotaTable, Segment, quotas_from_weights

WEIGHTS = lists(floats(0.01, 1), min_size=1, max_size=6)


def table_of(*weights, starts=(0,), seed=3):
    return QuotaTable(
        segments=tuple(
            Segment(start=start, quotas=quotas_from_weights(w))
            for start, w in zip(starts, weights, strict=True)
        ),
        seed=seed,
    )


TABLES = builds(
    lambda weights, others, at, seed: table_of(
        weights, (others * 6)[: len(weights)], starts=(0, at), seed=seed
    ),
    WEIGHTS,
    WEIGHTS,
    integers(1, 9000),
    integers(),
)


@given(TABLES)
def test_every_source_is_walked_from_its_beginning_without_a_gap(table):
    sources, indices = table.locate(np.arange(12_000))
    for source in range(len(table.segments[0].quotas)):
        mine = indices[sources == source]
        assert (mine == np.arange(mine.size)).all()


@given(TABLES, integers(0, 12_000))
def test_the_count_before_a_position_is_what_counting_gives(table, position):
    sources, _ = table.locate(np.arange(position))
    counted = np.bincount(sources, minlength=len(table.segments[0].quotas))
    assert table.counts_before(position).tolist() == counted.tolist()


@given(TABLES, integers(0, 11_000))
def test_a_position_does_not_depend_on_earlier_calls(table, start):
    sources, indices = table.locate(np.arange(12_000))
    some = np.arange(start, start + 1000)[::-1]
    assert (table.locate(some)[0] == sources[some]).all()
    assert (table.locate(some)[1] == indices[some]).all()


@given(WEIGHTS)
def test_quotas_are_within_a_row_per_period_of_the_weights(weights):
    quotas = np.array(quotas_from_weights(weights))
    shares = np.array(weights) / sum(weights)
    assert (quotas > 0).all()
    assert np.abs(quotas / quotas.sum() - shares).max() < 1.01 * len(weights) / 4096


@pytest.mark.parametrize(
    ("weights", "shares"), [((0.7, 0.3), (0.7, 0.3)), ((1, 1, 1), (1 / 3,) * 3), ((5, 0), (1, 0))]
)
def test_simple_weights_are_kept_exactly(weights, shares):
    quotas = quotas_from_weights(weights)
    assert tuple(q / sum(quotas) for q in quotas) == pytest.approx(shares, abs=1e-12)


def test_a_rare_source_gets_a_longer_period():
    quotas = quotas_from_weights([1, 1 / 40_000])
    assert quotas[1] == 1
    assert sum(quotas) == pytest.approx(40_000, rel=0.7)


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 2], [float("nan"), 1], [float("inf"), 1], [1, 1e-9]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(OrderError, match="weight"):
        quotas_from_weights(weights)


def test_changed_weights_move_nothing_that_was_read():
    before, after = table_of((0.5, 0.5)), table_of((0.5, 0.5), (0.9, 0.1), starts=(0, 5000))
    past = np.arange(5000)
    assert (before.locate(past)[0] == after.locate(past)[0]).all()
    share = (after.locate(np.arange(5000, 13_192))[0] == 0).mean()
    assert share == pytest.approx(0.9, abs=0.005)


def test_changed_weights_differ_only_once_they_were_read():
    before, after = table_of((0.5, 0.5)), table_of((0.5, 0.5), (0.9, 0.1), starts=(0, 5000))
    assert before.fingerprint_before(5000) == after.fingerprint_before(5000)
    assert before.fingerprint_before(5001) != after.fingerprint_before(5001)


@pytest.mark.parametrize("starts", [(1, 2), (0, 0), (0, -5)])
def test_segments_begin_at_0_and_ascend(starts):
    with pytest.raises(OrderError, match="start"):
        table_of((1,), (1,), starts=starts)
    with pytest.raises(OrderError, match="before the beginning"):
        table_of((1,)).locate(np.array([-1]))


# Changing these changes the order of every mixture ever recorded: bump order.cursor.STATE_VERSION with them.
def test_the_order_of_a_mixture_is_the_recorded_one():
    sources, indices = table_of((0.7, 0.3)).locate(np.array([0, 1, 2, 3, 4089, 4090, 10**12]))
    assert sources.tolist() == [0, 0, 0, 0, 1, 1, 0]
    assert indices.tolist() == [0, 1, 2, 3, 1226, 1227, 700000000003]
