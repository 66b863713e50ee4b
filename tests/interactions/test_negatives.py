"""Negatives and what they are drawn from: negatives.py, positives.py, options.py."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
from headrace.interactions import UserItems, read_keys, read_user_items, sample_negatives


def user_items(rows, num_items):
    offsets = np.cumsum([0, *map(len, rows)])
    return UserItems.of(offsets, np.array([i for row in rows for i in sorted(row)], np.int32), num_items)


@given(
    rows=st.lists(st.sets(st.integers(0, 9), max_size=9), min_size=1, max_size=8),
    seed=st.integers(),
    position=st.integers(0, 2**62),
)
def test_a_negative_is_never_an_item_of_the_user(rows, seed, position):
    users = np.repeat(np.arange(len(rows)), 3)
    positions = position + np.arange(len(users))
    negatives = sample_negatives(user_items(rows, 10), users, positions, seed=seed, count=5)
    for user, row in zip(users, negatives, strict=True):
        assert not rows[user] & set(row.tolist())
        assert all(0 <= item < 10 for item in row)


def test_a_negative_depends_on_seed_position_and_user_alone():
    have = user_items([{1, 2}, {3}, set()], 1000)
    users, positions = np.array([0, 1, 2, 1]), np.array([5, 6, 7, 8])
    together = sample_negatives(have, users, positions, seed=1, count=4)
    for i in range(4):
        alone = sample_negatives(have, users[i : i + 1], positions[i : i + 1], seed=1, count=4)
        assert np.array_equal(alone[0], together[i])
    assert np.array_equal(sample_negatives(have, users, positions, seed=1, count=2), together[:, :2])
    for other in (
        sample_negatives(have, users, positions, seed=2, count=4),
        sample_negatives(have, users, positions + 1, seed=1, count=4),
        sample_negatives(have, 2 - users, positions, seed=1, count=4)[:1],
    ):
        assert not np.array_equal(other, together[: len(other)])


def test_golden_values_do_not_change():
    """A resumed run of a later version sees the same negatives."""
    negatives = sample_negatives(
        user_items([{0, 5}, {7}], 100), np.array([0, 1]), np.array([0, 2**40]), seed=7, count=4
    )
    assert negatives.tolist() == GOLDEN


GOLDEN = [[8, 92, 81, 65], [69, 51, 39, 29]]


def test_negatives_are_uniform_among_the_other_items():
    have = user_items([{0, 3, 4, 9}], 12)
    draws = sample_negatives(have, np.zeros(8000, np.int64), np.arange(8000), seed=0, count=2)
    counts = np.bincount(draws.ravel(), minlength=12)
    expected = 16000 / 8
    assert (counts[[0, 3, 4, 9]] == 0).all()
    chi_square = ((counts[counts > 0] - expected) ** 2 / expected).sum()
    assert chi_square < 24.3  # 7 degrees of freedom, p = 0.001; the draw is fixed


def test_users_that_are_not_there_are_refused():
    with pytest.raises(hr.OrderError, match="users 1 to 1; the store has 1"):
        sample_negatives(user_items([{0}], 2), np.array([1]), np.array([0]), seed=0, count=1)


def arrow(**columns):
    sink = pa.BufferOutputStream()
    table = pa.table(columns)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_files_beside_a_store_are_read_and_checked():
    lists = pa.array([[0, 2], [], [1]], pa.large_list(pa.int32()))
    users, items = arrow(user=["a", "b", "c"], items=lists), arrow(item=["x", "y", "z"])
    have = read_user_items(users, items, where="store")
    assert (have.offsets.tolist(), have.items.tolist(), have.num_items) == ([0, 2, 2, 3], [0, 2, 1], 3)
    assert read_keys(items) == ["x", "y", "z"]
    with pytest.raises(hr.ManifestError, match=r"store/users.arrow: not a file of ingest"):
        read_user_items(users[:-9], items, where="store")
    full = arrow(user=["a"], items=pa.array([[0, 1, 2]], pa.large_list(pa.int32())))
    with pytest.raises(hr.ConfigError, match="user number 0 has all 3 items"):
        read_user_items(full, items, where="store")


def test_options_are_checked():
    with pytest.raises(hr.ConfigError, match="num_negatives is -1"):
        hr.InteractionOptions(num_negatives=-1)
    with pytest.raises(hr.ConfigError, match="deduplicate is 'yes'"):
        hr.InteractionOptions(deduplicate="yes")
