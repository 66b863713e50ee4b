"""Every implementation of the permutation gives the same indices."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from headrace.native import ROUNDS, available_targets, permute_array, permute_index, use_target


@given(n=integers(1, 2**62), first=integers(0, 2**62), count=integers(1, 300), key=integers(0, 2**64 - 1))
def test_c_numpy_and_python_integers_agree(n, first, count, key):
    keys = np.array([(key * (i + 1)) % 2**64 for i in range(ROUNDS)], np.uint64)
    a = max(math.isqrt(n), 16)
    b = max(-(-n // a), 16)
    first %= max(1, n - count)
    x = np.arange(first, min(first + count, n), dtype=np.uint64)
    some = x[:: max(1, len(x) // 5)]
    one_by_one = [permute_index(int(i), n=n, a=a, b=b, keys=[int(k) for k in keys]) for i in some]
    results = []
    for target in available_targets():
        with use_target(target):
            results.append(permute_array(x, n=n, a=a, b=b, keys=keys))
    assert results[0][:: max(1, len(x) // 5)].tolist() == one_by_one
    for result in results[1:]:
        assert np.array_equal(result, results[0])


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 129, 20_000])
def test_lengths_around_a_chunk_are_complete(target, count):
    keys = np.arange(1, ROUNDS + 1, dtype=np.uint64) << np.uint64(40)
    out = permute_array(np.arange(count, dtype=np.uint64), n=20_001, a=141, b=142, keys=keys)
    assert len(np.unique(out)) == count, target
