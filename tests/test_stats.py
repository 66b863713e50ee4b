"""Counters of stages add up whatever number of threads updates them, and failures are timed too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.stats import StageCount, Stats


def test_many_threads_lose_no_event():
    stats = Stats()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: stats.add("read", items=1, nbytes=3), range(1000)))
    assert stats.snapshot()["read"] == StageCount(items=1000, bytes=3000)


def test_stages_keep_the_order_of_their_first_event():
    stats = Stats()
    for stage in ("read", "decode", "read", "copy"):
        stats.add(stage, items=1)
    assert list(stats.snapshot()) == ["read", "decode", "copy"]


def test_work_that_fails_is_timed_and_its_error_passes():
    stats = Stats(clock=iter([1.0, 3.5, 4.0, 5.0]).__next__)
    with pytest.raises(KeyError), stats.busy("decode", items=2):
        raise KeyError
    with stats.waiting("decode"):
        pass
    assert stats.snapshot()["decode"] == StageCount(items=2, busy_s=2.5, wait_s=1.0)


def test_counts_of_two_workers_are_added():
    one = StageCount(items=1, bytes=2, busy_s=0.5, wait_s=0.25)
    assert one + one == StageCount(items=2, bytes=4, busy_s=1.0, wait_s=0.5)
