"""Decoded blocks: right under any eviction, loaded no oftener than must be, nobody left waiting."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from headrace.store.read.block_cache import BlockCache

SIZE = 8


class Blocks:
    """Block b holds 8 * b, 8 * b + 1, ...; counts loads, and fails where it is told to."""

    def __init__(self):
        self.loaded, self.failing = [], set()

    def load(self, blocks, outs, done):
        for block, out in zip(blocks, outs, strict=True):
            self.loaded.append(block)
            if block in self.failing:
                done(block, ValueError(f"block {block}"))
                continue
            values = np.frombuffer(out, np.uint32)
            values[: SIZE + 1] = np.arange(SIZE * block, SIZE * block + SIZE + 1)
            done(block, None)


def pool_of(slots, load):
    return BlockCache(slots=slots, blocks=100, block_tokens=SIZE, dtype=np.dtype(np.uint32), load=load)


def gather(pool, blocks, place=0, length=1):
    out = np.zeros((len(blocks), length), np.uint32)
    pool.gather(np.array(blocks), np.full(len(blocks), place), length, pool.rows(length), out, None)
    return out


def optimal_loads(uses, slots):
    held, loads = set(), 0
    for i, block in enumerate(uses):
        if block in held:
            continue
        loads += 1
        if len(held) == slots:
            ahead = uses[i + 1 :]
            held.discard(max(held, key=lambda b: ahead.index(b) if b in ahead else len(uses)))
        held.add(block)
    return loads


def lru_loads(uses, slots):
    held, loads = [], 0
    for block in uses:
        if block in held:
            held.remove(block)
        else:
            loads += 1
            if len(held) == slots:
                held.pop(0)
        held.append(block)
    return loads


@given(
    slots=some.integers(4, 9),
    batches=some.lists(some.lists(some.integers(0, 98), min_size=1, max_size=12), max_size=8),
    announced=some.booleans(),
    data=some.data(),
)
def test_rows_are_right_under_any_eviction(slots, batches, announced, data):
    """Inside a block, with one token of lookahead, or across two blocks."""
    pool = pool_of(slots, Blocks().load)
    if announced:
        for batch in batches:
            pool.announce(np.array(batch))
    for batch in batches:
        place, length = data.draw(some.sampled_from([(0, 8), (3, 6), (3, 7), (7, 9), (0, 16), (5, 1)]))
        want = SIZE * np.array(batch)[:, None] + np.arange(place, place + length)
        assert np.array_equal(gather(pool, batch, place=place, length=length), want)


@settings(max_examples=60)
@given(uses=some.lists(some.integers(0, 12), min_size=1, max_size=80), slots=some.integers(4, 9))
def test_with_the_order_known_no_block_is_loaded_oftener_than_must_be(uses, slots):
    blocks = Blocks()
    pool = pool_of(slots, blocks.load)
    pool.announce(np.array(uses))
    for block in uses:
        gather(pool, [block])
    assert len(blocks.loaded) == optimal_loads(uses, slots)


@settings(max_examples=60)
@given(uses=some.lists(some.integers(0, 12), min_size=1, max_size=80), slots=some.integers(4, 9))
def test_without_an_order_the_least_recently_used_gives_way(uses, slots):
    blocks = Blocks()
    pool = pool_of(slots, blocks.load)
    for block in uses:
        gather(pool, [block])
    assert len(blocks.loaded) == lru_loads(uses, slots)


def test_a_reader_that_goes_elsewhere_is_followed():
    """Announced blocks that are never read do not hold their slots without end."""
    blocks = Blocks()
    pool = pool_of(4, blocks.load)
    pool.announce(np.array([0, 1, 2, 3]))
    gather(pool, [0])
    gather(pool, [1])
    pool.announce(np.array([10, 11, 12, 10, 11, 12] * 5))
    for _ in range(5):
        for block in (10, 11, 12):
            gather(pool, [block])
    assert len(blocks.loaded) == 5


def test_what_is_prefetched_pushes_out_nothing_that_was_announced():
    blocks = Blocks()
    pool = pool_of(4, blocks.load)
    pool.announce(np.array([0, 1, 2, 3]))
    gather(pool, [0, 1, 2, 3])
    pool.announce(np.array([0, 1, 2, 3]))
    pool.prefetch([7, 8])
    assert blocks.loaded == [0, 1, 2, 3]
    gather(pool, [0, 1, 2, 3])
    pool.prefetch([7])
    assert blocks.loaded[4:] == [7]
    gather(pool, [7])
    assert blocks.loaded[4:] == [7]


@pytest.mark.parametrize("failure", [None, ValueError("damaged")])
def test_a_thread_that_waits_for_a_slot_goes_on_when_other_blocks_are_loaded(failure):
    """Once only the threads that awaited a block were woken by it, and this one hung."""
    late = []

    def load(blocks, outs, done):
        for block, out in zip(blocks, outs, strict=True):
            np.frombuffer(out, np.uint32)[:SIZE] = np.arange(SIZE * block, SIZE * block + SIZE)
            if block < 2:
                late.append(lambda block=block: done(block, failure))
            else:
                done(block, None)

    pool = pool_of(2, load)
    pool.prefetch([0])
    pool.prefetch([1])
    got = []
    reader = threading.Thread(target=lambda: got.append(gather(pool, [5]).tolist()), daemon=True)
    reader.start()
    reader.join(0.2)
    assert not got  # both slots are being loaded
    for finish in late:
        finish()
    reader.join(60)
    assert got == [[[5 * SIZE]]]


def test_a_block_that_fails_is_an_error_and_loaded_again_later():
    blocks = Blocks()
    pool = pool_of(4, blocks.load)
    blocks.failing = {2}
    for _ in range(10):
        with pytest.raises(ValueError, match="block 2"):
            gather(pool, [1, 2, 3])
    blocks.failing = set()
    assert gather(pool, [1, 2, 3])[:, 0].tolist() == [8, 16, 24]


def test_a_load_that_raises_ends_all_waits():
    def load(blocks, outs, done):
        raise OSError("no descriptors left")

    pool = pool_of(4, load)
    for _ in range(6):
        with pytest.raises(OSError, match="no descriptors"):
            gather(pool, [1, 2])


def test_a_block_that_another_thread_loads_is_waited_for_and_not_loaded_twice():
    blocks = Blocks()
    entered, go = threading.Event(), threading.Event()

    def slow(wanted, outs, done):
        entered.set()
        assert go.wait(60)
        blocks.load(wanted, outs, done)

    pool = pool_of(4, slow)
    results = []
    threads = [threading.Thread(target=lambda: results.append(gather(pool, [5])[0, 0])) for _ in range(4)]
    threads[0].start()
    assert entered.wait(60)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert results == [40] * 4
    assert blocks.loaded == [5]


def test_a_thread_that_waits_for_a_load_that_fails_tries_for_itself():
    blocks = Blocks()
    entered, go = threading.Event(), threading.Event()
    first = []

    def load(wanted, outs, done):
        if not first:
            first.append(True)
            entered.set()
            assert go.wait(60)
            for block in wanted:
                done(block, ValueError("the first one fails"))
        else:
            blocks.load(wanted, outs, done)

    pool = pool_of(4, load)
    results = []

    def failing():
        try:
            gather(pool, [5])
        except ValueError as error:
            results.append(str(error))

    one = threading.Thread(target=failing)
    one.start()
    assert entered.wait(60)
    two = threading.Thread(target=lambda: results.append(int(gather(pool, [5])[0, 0])))
    two.start()
    go.set()
    one.join()
    two.join()
    assert sorted(map(str, results)) == ["40", "the first one fails"]


def test_threads_that_fight_for_few_slots_all_get_their_rows():
    pool = pool_of(4, Blocks().load)
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(100):
            batch = rng.integers(0, 99, 10)
            if not np.array_equal(
                gather(pool, batch.tolist(), 2, 9), SIZE * batch[:, None] + np.arange(2, 11)
            ):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
