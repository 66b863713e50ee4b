"""A buffer is handed out again only when nothing that was made of it is alive."""

import numpy as np
from hypothesis import given
from hypothesis.strategies import integers, lists

from headrace.load.buffers import BufferPool


@given(lists(integers(0, 9), max_size=60))
def test_no_two_live_arrays_share_memory(drops):
    pool, alive = BufferPool((4, 3), np.int64, keep=4), []
    for drop in drops:
        alive.append(pool.take()[1:, :2])  # a view of a view is enough to keep it
        places = [array.ctypes.data for array in alive]
        assert len(set(places)) == len(places)
        if drop < len(alive):
            del alive[drop]


def test_a_dropped_buffer_is_used_again():
    pool = BufferPool((4, 3), np.int64)
    places = set()
    for _ in range(20):
        array = pool.take()
        places.add(array.ctypes.data)
        del array
    assert len(places) == 1


def test_no_more_than_the_kept_ones_are_remembered():
    pool = BufferPool((4, 3), np.int64, keep=3)
    arrays = [pool.take() for _ in range(10)]
    assert len(pool._buffers) == 3
    del arrays


def test_a_tensor_keeps_its_buffer():
    import torch

    pool = BufferPool((4, 3), np.int64)
    first = torch.from_numpy(pool.take())[1:]
    second = pool.take()
    second.fill(7)
    first.fill_(1)
    assert (second == 7).all()
