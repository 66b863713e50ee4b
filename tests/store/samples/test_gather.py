"""Rows of several blocks are gathered as one after the other would be, in C and in NumPy: gather.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.native import kernels, use_target
from headrace.store.samples.columns import Ragged
from headrace.store.samples.gather import gather_column


def column(random, rows, kind):
    offsets = np.concatenate(([0], np.cumsum(random.integers(0, 5, rows)))).astype(np.int32)
    total = int(offsets[-1])
    if kind in ("numbers", "large"):
        return random.normal(size=(rows, 3 if kind == "numbers" else 600))
    if kind == "texts":
        inner = np.arange(0, 2 * total + 1, 2).astype(np.int32)
        return Ragged(Ragged(random.integers(0, 256, 2 * total).astype(np.uint8), inner), offsets)
    shape = {"boxes": (total, 4), "bytes": (total,), "empty": (total, 0)}[kind]
    return Ragged(random.integers(0, 256, shape).astype(np.uint8 if kind == "bytes" else np.float32), offsets)


def plain(value):
    if isinstance(value, Ragged):
        return [plain(value[row]) for row in range(len(value))]
    return value.tolist()


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["numbers", "large", "boxes", "bytes", "texts", "empty"]),
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=5),
)
def test_gathered_rows_are_those_of_their_blocks_in_the_order_wanted(target, seed, kind, sizes):
    random = np.random.default_rng(seed)
    groups = [
        ({"it": column(random, rows, kind)}, random.integers(0, rows, wanted)) for rows, wanted in sizes
    ]
    places = random.permutation(sum(wanted for _, wanted in sizes))
    found = gather_column("it", groups, places)
    every = [plain(blocks["it"][row]) for blocks, inside in groups for row in inside]
    expected = [every[number] for number in np.argsort(places)]
    assert plain(found) == expected


def test_offsets_that_lie_are_an_error_and_no_read_outside():
    if kernels() is None:
        pytest.skip("headrace was installed without its extension in C")
    values = np.zeros(4, np.float32)
    for offsets, row in (([0, 5], 0), ([0, -1], 0), ([3, 2], 0), ([0, 4], 1), ([0, 4], -1)):
        column = Ragged(values, np.array(offsets, np.int32))
        with use_target("baseline"), pytest.raises(IndexError, match="outside of the block"):
            gather_column("it", [({"it": column}, np.array([row]))], np.array([0]))
    good = Ragged(values, np.array([0, 4], np.int32))
    with use_target("baseline"), pytest.raises(IndexError, match="outside of the block"):
        gather_column("it", [({"it": good}, np.array([0]))], np.array([1]))
