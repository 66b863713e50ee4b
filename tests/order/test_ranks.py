"""Slices tile a batch for any number of ranks; ranks that share data share a slice."""

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers

from headrace.errors import OrderError
from headrace.order.ranks import MeshLayout, rank_slice


@settings(max_examples=40)
@given(rows=integers(0, 10_000), world_size=integers(1, 4096))
def test_slices_tile_the_batch_and_differ_by_a_row_at_most(rows, world_size):
    slices = [rank_slice(rows, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [begin for begin, _ in slices] == [0] + [end for _, end in slices[:-1]]
    assert slices[-1][1] == rows
    sizes = {end - begin for begin, end in slices}
    assert max(sizes) - min(sizes) <= 1


@given(dp=integers(1, 9), pp=integers(1, 5), tp=integers(1, 8))
def test_tensor_and_pipeline_ranks_of_a_data_group_read_the_same_slice(dp, pp, tp):
    layout = MeshLayout(dp=dp, pp=pp, tp=tp)
    ranks = [layout.data_rank(rank) for rank in range(layout.world_size)]
    assert sorted(ranks) == ranks
    assert {ranks.count(group) for group in range(dp)} == {pp * tp}


@pytest.mark.parametrize(("rank", "world_size"), [(1, 1), (-1, 2), (0, 0)])
def test_a_rank_outside_of_its_world_is_refused(rank, world_size):
    with pytest.raises(OrderError, match="rank"):
        rank_slice(8, rank=rank, world_size=world_size)


def test_a_layout_that_is_none_is_refused():
    with pytest.raises(OrderError, match="tp=0"):
        MeshLayout(tp=0)
    with pytest.raises(OrderError, match="4 processes"):
        MeshLayout(dp=2, tp=2).data_rank(4)
