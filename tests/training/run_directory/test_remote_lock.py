"""A lock on an object store: one holder, free at once after an end here, later after a kill elsewhere."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from storage_fakes import FakeClock

from headrace.errors import ResumeError
from headrace.platform import machine_name
from headrace.storage import Blob, open_blob
from headrace.training.run_directory import remote_lock
from headrace.training.run_directory.remote_lock import RemoteRunLock


def lock(blob: Blob, clock: FakeClock | None = None, lines: list[str] | None = None) -> RemoteRunLock:
    time = clock or FakeClock()
    return RemoteRunLock(
        blob, log=(lines if lines is not None else []).append, sleep=time.sleep, clock=lambda: time.now
    )


def write(blob: Blob, number: int, **content: Any) -> None:
    blob.put(f"locks/{number:08d}.json", orjson.dumps({"host": "node7", "pid": 12, **content}))


def test_the_next_run_has_the_lock_at_once_when_the_holder_ended() -> None:
    blob, clock = open_blob("memory://lock-ended"), FakeClock()
    with lock(blob):
        pass
    with lock(blob, clock) as held:
        held.check()
        assert blob.list("locks/") == ["locks/00000002.json"]
    assert clock.sleeps == []


def test_a_second_run_is_refused_while_the_holder_renews_its_lock() -> None:
    blob, clock, lines = open_blob("memory://lock-held"), FakeClock(), []  # type: ignore[var-annotated]
    write(blob, 1, renewals=1)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        write(blob, 1, renewals=2)

    with pytest.raises(
        ResumeError, match=r"another process is training into this run \(process 12 on node7\)"
    ):
        RemoteRunLock(blob, log=lines.append, sleep=sleep, clock=lambda: clock.now)
    assert clock.now <= remote_lock.RENEW_S
    assert "waiting up to 60 s for a sign of life" in lines[0]


def test_a_lock_of_a_killed_process_elsewhere_is_free_after_a_minute_without_a_sign_of_life() -> None:
    blob, clock = open_blob("memory://lock-elsewhere"), FakeClock()
    write(blob, 1)
    with lock(blob, clock):
        assert 60 <= clock.now <= 62


def test_a_lock_of_a_killed_process_of_this_machine_is_free_at_once() -> None:
    blob, clock = open_blob("memory://lock-here"), FakeClock()
    write(blob, 4, machine=machine_name(), pid=(1 << 22) + 1)
    with lock(blob, clock):
        assert blob.list("locks/") == ["locks/00000005.json"]
    assert clock.sleeps == []


def test_of_two_that_find_the_lock_free_one_has_it() -> None:
    blob = open_blob("memory://lock-two")
    write(blob, 1)
    clock = FakeClock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now >= 60:
            write(blob, 2)

    with pytest.raises(ResumeError, match="another process is training into this run"):
        RemoteRunLock(blob, log=print, sleep=sleep, clock=lambda: clock.now)


def test_a_holder_that_lost_its_lock_commits_no_more() -> None:
    blob = open_blob("memory://lock-lost")
    with lock(blob) as held:
        write(blob, 2)
        with pytest.raises(ResumeError, match="another process trains into this run now"):
            held.check()
    assert orjson.loads(bytes(blob.get("locks/00000002.json")))["host"] == "node7"
