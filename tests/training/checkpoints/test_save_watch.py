"""Saves that last: a line every minute, an end after the stated time, a thread that ends by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from headrace.training.checkpoints.save_watch import CheckpointGivenUp, SaveWatch


class FakeTime:
    """A clock that moves while the watch waits; `at` is called after each wait."""

    def __init__(self, at: Callable[[float], None]) -> None:
        self.now, self._at = 0.0, at

    def clock(self) -> float:
        return self.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.now += seconds
        self._at(self.now)
        return event.wait(0 if self.now < 240 else 10)


def watch(time: FakeTime, lines: list[str], **options: Any) -> SaveWatch:
    return SaveWatch(
        step=7, rank=3, place="s3://bucket/run", log=lines.append, warn=lines.append,
        clock=time.clock, wait=time.wait, **options,
    )  # fmt: skip


def test_a_slow_save_is_reported_every_minute_with_bytes_and_rank() -> None:
    go, lines = threading.Event(), []  # type: ignore[var-annotated]
    moved = {60: 1000, 180: 2000}

    def at(now: float) -> None:
        slow.count(moved.get(int(now), 0))
        if now >= 240:
            go.set()

    slow = watch(FakeTime(at), lines, limit_s=600)
    slow.total = 4000
    assert slow.run(lambda: go.wait() and "done") == "done"
    assert len(lines) == 3
    assert lines[0] == (
        "s3://bucket/run: the checkpoint of step 7 is being stored: rank 3 has done 1.0 kB of 4.0 kB in 1 min 00 s"
    )
    assert "none of them since the last line" in lines[1]
    assert "has done 3.0 kB" in lines[2]


def test_a_save_that_hangs_is_given_up_after_the_stated_time() -> None:
    go, ended, lines = threading.Event(), threading.Event(), []  # type: ignore[var-annotated]

    def work() -> None:
        go.wait()
        try:
            hanging.count(1)
        except CheckpointGivenUp:
            ended.set()

    hanging = watch(FakeTime(lambda _: None), lines, limit_s=150)
    with pytest.raises(
        CheckpointGivenUp, match=r"step 7 is given up: rank 3 has done 0 B in 2.*checkpoint-timeout"
    ):
        hanging.run(work)
    assert len(lines) == 2
    go.set()
    assert ended.wait(10)


def test_the_last_failed_request_is_named() -> None:
    go, lines = threading.Event(), []  # type: ignore[var-annotated]
    failing = watch(FakeTime(lambda now: go.set() if now >= 240 else None), lines, limit_s=600)

    def work() -> None:
        failing.record_failure(OSError("503 SlowDown"))
        go.wait()

    failing.run(work)
    assert lines[1].endswith("since the last line. The last request failed: 503 SlowDown. Training goes on.")


def test_an_error_of_the_work_is_raised() -> None:
    with pytest.raises(KeyError):
        SaveWatch(step=1, rank=0, place="x", limit_s=9, log=print, warn=print).run(lambda: {}[1])  # type: ignore[var-annotated]
