"""progress.py, stateful.py: each loop over a finite loader is a pass; resume, threads and Ctrl-C keep the count."""

from __future__ import annotations

import itertools
import json
import pickle
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers, sampled_from

import headrace.load
from headrace.load import BatchOptions, Loader, ReadOptions

OPTIONS = {"seq_len": 9, "batch_size": 8, "seed": 3, "rank": 0, "world_size": 1}


def rows_of(batches):
    return [row for batch in batches for row in batch.rows[: batch.num_rows].tolist()]


@given(
    epochs=integers(1, 3),
    batch_size=integers(1, 40),
    last=sampled_from(["keep", "drop", "repeat"]),
    threads=integers(0, 2),
)
def test_each_loop_is_a_pass_in_its_own_order(fake_store, epochs, batch_size, last, threads):
    store = fake_store(400)  # 44 rows
    with Loader(
        store, **(OPTIONS | {"batch_size": batch_size}), epochs=epochs, output=BatchOptions(last=last),
        reading=ReadOptions(threads=threads),
    ) as loader:  # fmt: skip
        rows, passes = loader.num_rows, []
        for number in range(3):
            assert loader.epoch == number * epochs
            assert len(loader) == loader.batches_per_pass
            batches = list(loader)
            assert len(batches) == loader.batches_per_pass
            passes.append(rows_of(batches))
            assert loader.position == (number + 1) * epochs * rows
    for delivered in passes:
        if last == "drop":
            assert len(delivered) == epochs * rows // batch_size * batch_size
        else:
            assert np.bincount(delivered[: epochs * rows]).tolist() == [epochs] * rows
    assert len({tuple(delivered) for delivered in passes}) == (3 if passes[0] else 1)


def test_a_run_of_three_epochs_is_resumed_in_the_middle_of_the_second(fake_store):
    store = fake_store(900)

    def run(loader, steps, found):
        for _epoch in range(loader.epoch, 3):
            for batch in loader:
                found.append((batch.epoch, batch.rows.tolist()))
                if len(found) == steps:
                    return loader.state_dict()
        return None

    whole = []
    run(Loader(store, **OPTIONS, epochs=1), 10**6, whole)
    assert len(whole) == 3 * 13
    for stop in (1, 12, 13, 14, 20, 26, 38):
        found = []
        state = json.loads(json.dumps(run(Loader(store, **OPTIONS, epochs=1), stop, found)))
        resumed = Loader(store, **OPTIONS, epochs=1)
        resumed.load_state_dict(state)
        assert len(resumed) == 13 - stop % 13
        rest = []
        run(resumed, 10**6, rest)
        assert found + rest == whole


def test_the_length_is_that_of_the_loop_all_the_while(fake_store):
    loader = Loader(fake_store(900), **OPTIONS, epochs=1)
    loader.seek(40)
    assert [len(loader) for _ in loader] == [8] * 8
    assert [len(loader) for _ in loader] == [13] * 13


def test_a_loop_that_was_left_is_followed_by_a_whole_pass(fake_store):
    """As with a torch DataLoader: an evaluation that looks at two batches first still reads all of them."""
    loader = Loader(fake_store(900), **OPTIONS, epochs=1)
    assert len(list(itertools.islice(loader, 2))) == 2
    assert len(loader) == 13
    assert sorted(rows_of(loader)) == list(range(99))


def test_next_and_seek_do_not_begin_a_pass(fake_store):
    store = fake_store(900)
    loader = Loader(store, **OPTIONS, epochs=1)
    first = [next(loader) for _ in range(3)]
    assert sorted(rows_of(first) + rows_of(loader)) == list(range(99))
    loader.seek(16)
    assert next(iter(loader)).position == 16


def test_an_endless_loop_goes_on_at_the_position(fake_store):
    loader = Loader(fake_store(900), **OPTIONS)
    assert [b.position for b in itertools.islice(loader, 3)] == [0, 8, 16]
    assert [b.position for b in itertools.islice(loader, 2)] == [24, 32]
    with pytest.raises(TypeError, match="endless"):
        len(loader)


def test_a_finished_repeated_run_is_resumed_with_a_smaller_batch(fake_store):
    store = fake_store(900)
    repeat = {"epochs": 1, "output": BatchOptions(last="repeat")}
    loader = Loader(store, **OPTIONS, **repeat)
    list(loader)
    smaller = Loader(store, **(OPTIONS | {"batch_size": 3}), **repeat)
    smaller.load_state_dict(loader.state_dict())
    assert smaller.position == 99
    assert next(iter(smaller)).epoch == 1


@pytest.mark.parametrize("threads", [0, 2])
def test_threads_that_take_from_one_loader_get_every_row_once(fake_store, threads):
    store = fake_store(4000)
    with Loader(store, **OPTIONS, epochs=1, reading=ReadOptions(threads=threads)) as loader:
        for epoch in range(2):
            barrier, taken = threading.Barrier(4), [[] for _ in range(4)]

            def take(mine, barrier=barrier, loader=loader):
                barrier.wait()
                loop = iter(loader)
                barrier.wait()  # a loop that begins while others read joins their pass
                mine.extend(loop)

            workers = [threading.Thread(target=take, args=(mine,)) for mine in taken]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            batches = sorted(sum(taken, []), key=lambda batch: batch.position)  # noqa: RUF017
            assert sorted(rows_of(batches)) == list(range(444))
            assert {batch.epoch for batch in batches} == {epoch}


def test_threads_that_share_one_iterator_or_next_get_every_row_once(fake_store):
    store = fake_store(4000)
    for shared in (True, False):
        loader, taken = Loader(store, **OPTIONS, epochs=1, reading=ReadOptions(threads=1)), []
        one = iter(loader)
        loops = [one if shared else iter(lambda loader=loader: next(loader, None), None) for _ in range(3)]
        workers = [threading.Thread(target=taken.extend, args=(loop,)) for loop in loops]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sorted(rows_of(taken)) == list(range(444))
        loader.close()


SOURCE = str(Path(headrace.load.__file__).parent)


def interrupted(loader, at):
    """next(loader) with a KeyboardInterrupt at the at-th instruction of headrace.load; its batch, or None."""
    count = 0

    def local(frame, event, arg):
        nonlocal count
        if event == "opcode":
            count += 1
            if count == at:
                raise KeyboardInterrupt
        return local

    def trace(frame, event, arg):
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        frame.f_trace_opcodes = True
        return local

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return next(loader), False
    except KeyboardInterrupt:
        return None, True
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("threads", [0, 2])
def test_ctrl_c_at_any_instruction_inside_next_loses_and_repeats_nothing(fake_store, threads):
    store = fake_store(40_000)
    plain = [b.rows.tolist() for b in itertools.islice(Loader(store, **OPTIONS), 3)]
    hit, at = True, 0
    with Loader(store, **OPTIONS, reading=ReadOptions(threads=threads, prefetch=2)) as loader:
        next(loader)  # opened, with a chunk of indices
        while hit:
            at += 7
            loader.seek(0)
            got = [next(loader).rows.tolist()]
            batch, hit = interrupted(loader, at)
            assert loader.position == (8 if hit else 16)
            got += [] if batch is None else [batch.rows.tolist()]
            while len(got) < 3:
                got.append(next(loader).rows.tolist())
            assert got == plain
    assert at > 100


def test_a_loader_that_is_closed_does_not_keep_a_waiting_thread(fake_store):
    store, waiting, hold = fake_store(900), threading.Event(), threading.Event()
    gather = store.gather

    def blocked(*args, **kwargs):
        waiting.set()
        hold.wait(30)
        return gather(*args, **kwargs)

    store.gather = blocked
    loader = Loader(store, **OPTIONS, reading=ReadOptions(threads=1))
    errors = []

    def take():
        try:
            next(loader)
        except Exception as error:  # noqa: BLE001
            errors.append(str(error))

    thread = threading.Thread(target=take)
    thread.start()
    waiting.wait()
    loader.close()
    thread.join()
    hold.set()
    assert "closed" in errors[0]


def test_a_changed_batch_size_survives_pickling(make_store):
    store, _, _ = make_store(2000)
    loader = Loader(store, **OPTIONS)
    for size in (16, 3):
        loader.batch_size = size
        next(loader)
    other = pickle.loads(pickle.dumps(loader))
    assert other.batch_size == 3
    assert next(other).rows.tolist() == next(loader).rows.tolist()
