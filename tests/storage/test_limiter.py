"""The number of concurrent requests follows what the remote bears."""

from __future__ import annotations

import threading

from headrace.storage import ConcurrencyLimit


def test_refusals_halve_the_limit_once_for_each_round_of_them():
    limit = ConcurrencyLimit(first=16, most=64)
    for _ in range(16):
        limit.refused()
    assert limit.limit == 8
    limit.succeeded()
    limit.refused()
    assert 4 <= limit.limit < 5
    for _ in range(20):
        limit.succeeded()
        limit.refused()
    assert limit.limit == 1, "one is always allowed"
    for _ in range(5000):
        limit.succeeded()
    assert limit.limit == 64


def test_no_more_requests_run_than_the_limit_allows():
    limit = ConcurrencyLimit(first=2, most=2)
    limit.acquire()
    limit.acquire()
    third = threading.Thread(target=limit.acquire, daemon=True)
    third.start()
    assert third.is_alive()
    limit.release()
    third.join(timeout=60)
    assert not third.is_alive()
