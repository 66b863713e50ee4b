"""retry.py: a call is tried again while the remote is unavailable, and no longer than somebody waits."""

from __future__ import annotations

import threading

import pytest
from storage_fakes import FakeClock, FlakyBlob, cut

from headrace.errors import WorkerError
from headrace.storage import Cancelled, MemoryBlob, Retry, RetryingBlob, open_blob


def test_a_create_whose_response_was_lost_counts_as_ours():
    """The first try arrives and its response does not; at the second the name exists, with our own bytes."""

    class LostResponse(MemoryBlob):
        lost = False

        def put_if_absent(self, path, data):
            done = super().put_if_absent(path, data)
            if not self.lost:
                self.lost = True
                raise cut()
            return done

    clock = FakeClock()
    blob = RetryingBlob(LostResponse("lost-response"), Retry(sleep=clock.sleep))
    assert blob.put_if_absent("x", b"mine")
    assert not blob.put_if_absent("x", b"other")
    other = LostResponse("lost-response")
    assert not RetryingBlob(other, Retry(sleep=clock.sleep)).put_if_absent("x", b"theirs")


@pytest.mark.parametrize("operation", ["get", "size", "list", "delete", "put"])
def test_each_call_is_tried_again(operation):
    inner = open_blob(f"memory://again-{operation}")
    inner.put("x", b"1")
    clock = FakeClock()
    flaky = FlakyBlob(inner, lambda number, op, path: cut() if number < 3 else None)
    blob = RetryingBlob(flaky, Retry(sleep=clock.sleep))
    getattr(blob, operation)(*{"put": ("x", b"2"), "list": ("",)}.get(operation, ("x",)))
    assert len(clock.sleeps) == 3


def test_waits_grow_and_stay_bounded():
    clock = FakeClock()
    retry = Retry(attempts=12, sleep=clock.sleep, random=lambda: 1.0)

    def never():
        raise cut()

    with pytest.raises(
        WorkerError,
        match=r"thing: failed 12 times, the last with: connection reset by peer\..*run the command again",
    ):
        retry.run(never, what="thing")
    assert clock.sleeps == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15.0, 15.0, 15.0]


def test_no_further_try_is_made_once_nobody_waits():
    closed, tries = threading.Event(), []

    def once():
        tries.append(1)
        closed.set()  # as `close` does, while the request is under way
        raise cut()

    with pytest.raises(Cancelled, match="thing: closed while a request was under way"):
        Retry(first_wait_s=3600.0).run(once, what="thing", closed=closed)
    assert len(tries) == 1
