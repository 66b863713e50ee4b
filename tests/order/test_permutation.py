"""The permutation is one: exhaustively where that is possible, by its statistics beyond."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from headrace.errors import OrderError
from headrace.order.permutation import permute, permute_many, round_keys

KEYS = round_keys(seed=7, source="", epoch=0)
pytestmark = pytest.mark.usefixtures("target")  # everything below holds of every implementation


def image(n, *, start=0, count=None, keys=KEYS):
    return permute_many(np.arange(start, start + (n if count is None else count)), n=n, keys=keys)


@pytest.mark.parametrize("exponent", range(21))
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_every_row_appears_once_around_every_power_of_two(exponent, off):
    n = 2**exponent + off
    if n >= 1:
        assert np.bincount(image(n), minlength=n).tolist() == [1] * n


def test_every_row_appears_once_for_every_small_size():
    for n in range(1, 1100):
        assert (np.sort(image(n)) == np.arange(n)).all(), n


@given(n=integers(1, 2**62), place=integers(0, 2**62), seed=integers(), epoch=integers(0, 2**40))
def test_one_at_a_time_and_in_bulk_agree(n, place, seed, epoch):
    keys = round_keys(seed=seed, source="s", epoch=epoch)
    index = place % n
    got = permute(index, n=n, keys=keys)
    assert 0 <= got < n
    assert permute_many(np.array([index]), n=n, keys=keys).tolist() == [got]


@given(n=integers(2**20, 2**62), start=integers(0, 2**62))
def test_no_row_comes_twice_far_beyond_what_can_be_listed(n, start):
    start %= n - 5000
    rows = image(n, start=start, count=5000)
    assert len(np.unique(rows)) == 5000
    assert rows.min() >= 0
    assert rows.max() < n


def test_chunks_do_not_show():
    rows = image(10**9, count=40_000)
    assert (rows[16_380:16_390] == image(10**9, start=16_380, count=10)).all()


# Changing these changes the order of every run ever recorded: bump order.cursor.STATE_VERSION with them.
GOLDEN = {
    1: [0, 0, 0, 0],
    5: [2, 0, 4, 1],
    1000: [911, 749, 998, 236],
    65537: [30455, 55245, 38571, 31278],
    2**32 + 1: [240621193, 1432370211, 1659819073, 2663935014],
    2**40: [669299684800, 146375718750, 488728778196, 287050942808],
    2**62: [2726740665145821273, 4019396595738182476, 403918479473660605, 3529622570932467841],
}


@pytest.mark.parametrize("n", GOLDEN)
def test_the_order_is_the_recorded_one(n):
    assert permute_many(np.array([0, 1, 2, 3]) % n, n=n, keys=KEYS).tolist() == GOLDEN[n]


@pytest.mark.parametrize("n", [3, 4, 5])
def test_all_orders_of_a_tiny_source_are_equally_likely(n):
    orders, runs = math.factorial(n), 60 * math.factorial(n)
    counts = Counter(tuple(image(n, keys=round_keys(seed=s, source="", epoch=0))) for s in range(runs))
    chi_squared = sum((counts[order] - 60) ** 2 / 60 for order in itertools.permutations(range(n)))
    # Mean orders - 1, standard deviation sqrt(2 (orders - 1)); five of them are one in some millions.
    assert chi_squared < orders - 1 + 5 * math.sqrt(2 * (orders - 1))


@pytest.mark.parametrize("n", [2**32 + 1, 2**32, 10**10])
def test_differences_of_successive_rows_repeat_no_more_than_chance(n):
    differences = np.diff(image(n, count=200_000)) % n
    repeats = len(differences) - len(np.unique(differences))
    expected = 200_000**2 / 2 / n
    assert repeats < expected + 6 * math.sqrt(expected) + 2


@pytest.mark.parametrize("n", [10**6, 2**24 + 1, 2**40, 2**62])
def test_neighbours_land_evenly_over_the_source(n):
    count, cells = 100_000, 1000
    rows = image(n, count=count)
    histogram = np.bincount(rows // -(-n // cells), minlength=cells)
    expected = count / cells
    chi_squared = ((histogram - expected) ** 2 / expected).sum()
    assert abs(chi_squared - cells) < 6 * math.sqrt(2 * cells)


def test_order_of_neighbours_is_a_coin_toss():
    rows = image(10**7, count=100_000)
    rising = (np.diff(rows) > 0).mean()
    assert abs(rising - 0.5) < 0.005
    assert abs(np.corrcoef(np.arange(rows.size), rows)[0, 1]) < 0.02


@given(seed=integers(-(2**70), 2**70), epoch=integers(0, 1000))
def test_epoch_1_of_a_run_is_not_epoch_0_of_the_next_run(seed, epoch):
    after = round_keys(seed=seed, source="", epoch=epoch + 1)
    assert after.tolist() != round_keys(seed=seed + 1, source="", epoch=epoch).tolist()


def test_keys_differ_by_source_epoch_seed_and_purpose():
    settings = itertools.product([0, 1, 11], ["", "1", "a"], [0, 1, 11], ["rows", "blocks"])
    keys = [tuple(round_keys(seed=s, source=n, epoch=e, purpose=p)) for s, n, e, p in settings]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("n", "index"), [(0, 0), (-1, 0), (2**62 + 1, 0), (10, 10), (10, -1)])
def test_what_is_out_of_range_is_refused(n, index):
    with pytest.raises(OrderError):
        permute(index, n=n, keys=KEYS)
    with pytest.raises(OrderError):
        permute_many(np.array([index]), n=n, keys=KEYS)
