"""Batches are made ahead when that helps, and are the same batches in the same order."""

from __future__ import annotations

import pytest

from headrace import Loader, ReadOptions


def test_batches_are_made_ahead_only_while_steps_are_long(fake_store, monkeypatch):
    """With the default of a mapped store: the same rows, whichever thread makes them, and every state resumes."""
    store = fake_store(900)
    clock = [0.0]
    monkeypatch.setattr("headrace.load.prefetch.time.perf_counter", lambda: clock[0])
    whole = [
        batch.rows.tolist()
        for batch in Loader(store, seq_len=9, batch_size=4, epochs=2, reading=ReadOptions(threads=0))
    ]
    with Loader(store, seq_len=9, batch_size=4, epochs=2) as loader:
        for step, expected in enumerate(whole):
            clock[0] += (0.0, 1.0)[step // 5 % 2]
            taken = loader.state_dict()
            batch = next(loader)
            assert batch.rows.tolist() == expected
            assert taken["position"] == batch.position
            pending = loader._prefetcher.pending
            if step < 5 or (step // 5 % 2 == 0 and step % 5 == 4):
                assert pending == 0
            elif step == 9:
                assert pending == 3
        with pytest.raises(StopIteration):
            next(loader)


def test_a_failed_batch_that_was_made_ahead_fails_when_it_is_due_and_is_tried_again(fake_store, monkeypatch):
    store = fake_store(900, fail=[None] * 6 + [OSError("disk")])
    monkeypatch.setattr("headrace.load.prefetch.LONG_STEP_S", -1.0)
    with Loader(store, seq_len=9, batch_size=4, seed=3) as loader:
        got = []
        while len(got) < 10:
            try:
                got.append(next(loader).rows.tolist())
            except OSError:
                assert len(got) == 6
    again = Loader(store, seq_len=9, batch_size=4, seed=3, reading=ReadOptions(threads=0))
    assert got == [next(again).rows.tolist() for _ in range(10)]


def test_the_first_batch_is_made_alone_and_prefetch_bounds_the_rest(fake_store):
    store = fake_store(900)
    with Loader(store, seq_len=9, batch_size=4, reading=ReadOptions(threads=1, prefetch=3)) as loader:
        pending = []
        for _ in range(6):
            next(loader)
            pending.append(loader._prefetcher.pending)
    assert pending == [0, 1, 2, 2, 2, 2]


def test_another_batch_size_begins_where_the_last_one_was_taken(fake_store):
    store = fake_store(900)
    with Loader(
        store, seq_len=9, batch_size=4, reading=ReadOptions(threads=2, prefetch=4), shuffle="none"
    ) as loader:
        rows = [next(loader).rows.tolist() for _ in range(3)]
        loader.batch_size = 8
        rows.append(next(loader).rows.tolist())
    assert sum(rows, []) == list(range(20))  # noqa: RUF017 - four short lists
