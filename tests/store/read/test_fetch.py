"""Blocks behind a URL: together, many at once, through refusals, cuts and damage.

Of fetch.py and decode.py.
"""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
from storage_fakes import FakeClock, FlakyBlob, busy, cut
from store_fakes import make_store, sample_tokens

from headrace.errors import ShardError, WorkerError
from headrace.storage import Retry, RetryingBlob, open_blob
from headrace.store import Store
from headrace.store.read.decode import decode_block

TOKENS, ENDS = sample_tokens(6400)


@pytest.fixture(params=["none", "zstd"])
def remote(request, monkeypatch):
    """Opens a store of 100 blocks in 2 shards through a flaky blob: open(trouble) -> store, flaky, clock."""
    url = f"memory://{request.node.nodeid}"
    make_store(url, TOKENS, ENDS, sizes=[3200, 3200], codec=request.param)
    opened = []

    def open_(trouble=lambda number, operation, path: None, **options):
        clock = FakeClock()
        flaky = FlakyBlob(open_blob(url), trouble)
        blob = RetryingBlob(flaky, Retry(sleep=clock.sleep, random=lambda: 0.5))
        monkeypatch.setattr("headrace.store.store.open_blob", lambda _: blob)
        opened.append(Store.open(url, **options))
        return opened[-1], flaky, clock

    yield open_
    for store in opened:
        store.close()


def data_ranges(flaky):
    return [
        call
        for call in flaky.calls
        if call[0] == "get_range" and not call[1].endswith((".index.arrow", ".docs.arrow"))
    ]


def rows_of(starts, length):
    return TOKENS[np.asarray(starts)[:, None] + np.arange(length)]


STARTS = (np.random.default_rng(0).permutation(200) * 32)[:64]


def test_neighbouring_blocks_are_one_request(remote):
    store, flaky, _ = remote()
    store.gather(np.arange(0, 3200, 64), 64)
    assert len(data_ranges(flaky)) <= 5, "50 blocks, of which a quarter of the pool at a time"
    store.gather(np.arange(0, 3200, 64), 64)
    assert len(data_ranges(flaky)) <= 5, "the second time they are there"


def test_requests_are_under_way_together(remote):
    """16 requests meet at a barrier: were they sent one after the other, none would pass."""
    barrier = threading.Barrier(16)

    def trouble(number, operation, path):
        if operation == "get_range" and path in ("data/s0.arrow", "data/s1.arrow"):
            barrier.wait(60)

    store, flaky, _ = remote(trouble)
    blocks = np.arange(0, 100, 6)[:16] * 64
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace.store.read.fetch.coalesce", lambda wanted, **_: [[one] for one in wanted])
        assert np.array_equal(store.gather(blocks, 64), rows_of(blocks, 64))
    assert flaky.most_running == 16


def test_no_more_blocks_are_decoded_at_once_than_there_are_cores(remote, monkeypatch):
    lock, running, most = threading.Lock(), 0, 0
    pairs = threading.Barrier(2)  # 16 blocks: each is decoded beside one other

    def slow(*args, **options):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        pairs.wait(timeout=60)
        decode_block(*args, **options)
        with lock:
            running -= 1

    monkeypatch.setattr("headrace.store.read.fetch.available_cores", lambda: 2)
    monkeypatch.setattr("headrace.store.read.fetch.decode_block", slow)
    monkeypatch.setattr("headrace.store.read.fetch.coalesce", lambda wanted, **_: [[one] for one in wanted])
    blocks = np.arange(0, 100, 6)[:16] * 64
    store, _, _ = remote()
    assert np.array_equal(store.gather(blocks, 64), rows_of(blocks, 64))
    assert most == 2


def test_a_prefetched_row_needs_no_request_of_its_own(remote):
    store, flaky, _ = remote()
    store.prefetch(STARTS[:16], 32)
    store.gather(STARTS[:16], 32)
    before = len(flaky.calls)
    store.gather(STARTS[:16], 32)
    assert len(flaky.calls) == before


def test_a_storm_of_refusals_is_waited_out_and_the_pace_recovers(remote, monkeypatch):
    """The first three tries of every data request are refused; each block arrives, and the limit grows back."""
    monkeypatch.setattr("headrace.store.read.fetch.coalesce", lambda wanted, **_: [[one] for one in wanted])
    store, flaky, clock = remote()
    store.gather([0, 3200], 1)
    tries = Counter()

    def trouble(number, operation, path):
        with flaky._lock:
            place = flaky.calls[number]
            tries[place] += 1
            return busy() if tries[place] <= 3 else None

    flaky.trouble = trouble
    limits = store._gather._blocks.limit
    before = limits.limit
    assert np.array_equal(store.gather(STARTS, 32), rows_of(STARTS, 32))
    assert len(clock.sleeps) == 3 * len(tries) > 60
    low = limits.limit
    assert low < before
    flaky.trouble = lambda number, operation, path: None
    for _ in range(1000):
        limits.succeeded()
    assert limits.limit > before


def test_cut_connections_and_short_responses_are_retried(remote):
    def trouble(number, operation, path):
        if operation != "get_range" or number % 2:
            return None
        return cut() if number % 4 else lambda data: data[: len(data) // 2]

    store, flaky, clock = remote()
    flaky.trouble = trouble
    assert np.array_equal(store.gather(STARTS, 32), rows_of(STARTS, 32))
    assert np.array_equal(store.read(0, 6400), TOKENS)
    assert clock.sleeps


def test_a_block_damaged_on_its_way_is_fetched_again(remote):
    damaged = []

    def trouble(number, operation, path):
        if path == "data/s0.arrow" and len(damaged) < 2:
            damaged.append(number)
            return lambda data: bytes([data[0] ^ 1]) + data[1:]
        return None

    store, _, _ = remote(trouble)
    assert np.array_equal(store.gather([0, 3000], 32), rows_of([0, 3000], 32))
    assert len(damaged) == 2


def test_a_block_damaged_where_it_is_stored_is_an_error_that_names_it(remote):
    def trouble(number, operation, path):
        return (lambda data: bytes([data[0] ^ 1]) + data[1:]) if path == "data/s0.arrow" else None

    store, _, _ = remote(trouble)
    with pytest.raises(ShardError, match=r"s0\.arrow: block 0 of 50 .* xxh3 0x\w+, the index says 0x"):
        store.gather([0], 32)
    assert np.array_equal(store.gather([3200], 32), rows_of([3200], 32)), (
        "the other shard is as good as before"
    )


def test_a_remote_that_stays_unavailable_is_an_error_after_the_last_try(remote):
    store, flaky, clock = remote()
    flaky.trouble = lambda number, operation, path: cut()
    with pytest.raises(WorkerError, match=r"failed 12 times.*connection reset"):
        store.gather([0], 32)
    assert sum(clock.sleeps) < 120


def test_a_file_that_is_gone_is_an_error_that_names_it(remote):
    def trouble(number, operation, path):
        return FileNotFoundError(2, "no such object", path) if path == "data/s1.arrow" else None

    store, _, _ = remote(trouble)
    with pytest.raises(ShardError, match=r"data/s1\.arrow: missing"):
        store.gather([3200], 32)


def test_memory_for_decoded_blocks_is_bounded(remote):
    store, _, _ = remote(cache_bytes=64 * 2 * 10)
    for starts in np.split(np.arange(0, 6400, 32), 20):
        assert np.array_equal(store.gather(starts, 32), rows_of(starts, 32))
    assert 4 <= store._gather._cache.slots <= 10
