"""Checkpoints on an object store: whole or absent, never awaited by training, given up in time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from storage_fakes import FakeClock, FlakyBlob, busy

from headrace.errors import CheckpointError, ResumeError
from headrace.model import verify_checkpoint
from headrace.storage import Blob, MemoryBlob, Retry, RetryingBlob, open_blob
from headrace.training.checkpoints import writer as module
from headrace.training.checkpoints.remote_place import RemoteCheckpoints, committed_steps
from headrace.training.checkpoints.writer import CheckpointWriter


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"model.a": torch.full((5, 3), value)}


def place(
    blob: Blob, scratch: Path, *, keep: int = 9, warnings: list[str] | None = None
) -> RemoteCheckpoints:
    warn = (warnings if warnings is not None else []).append
    return RemoteCheckpoints(blob, scratch, keep=keep, check_lock=lambda _: None, warn=warn)


def write(blob: Blob, scratch: Path, steps: list[int], *, keep: int = 9, **options: Any) -> None:
    with CheckpointWriter(place(blob, scratch, keep=keep), **options) as writer:
        for step in steps:
            writer.save(step, tensors(step), {"step": step})


def test_the_newest_so_many_are_kept_and_nothing_stays_here(tmp_path: Path) -> None:
    blob = open_blob("memory://kept-checkpoints")
    write(blob, tmp_path, [1, 2, 3], keep=2)
    assert committed_steps(blob) == [2, 3]
    assert {name.split("/")[1] for name in blob.list()} == {"step-00000002", "step-00000003"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", range(6))
def test_a_kill_at_any_request_leaves_the_new_checkpoint_whole_or_absent(stop: int, tmp_path: Path) -> None:
    """The next start removes what the killed one left without a manifest."""
    blob = open_blob(f"memory://killed-{stop}")
    write(blob, tmp_path, [1])
    names = set(blob.list())

    class Killed(BaseException):
        pass

    def trouble(number: int, operation: str, path: str) -> None:
        if number >= stop:
            raise Killed

    writer = CheckpointWriter(place(FlakyBlob(blob), tmp_path))
    writer._place._blob.trouble = trouble  # type: ignore[attr-defined]
    writer.save(2, tensors(2), {"step": 2})
    with pytest.raises(BaseException):  # noqa: B017
        writer.close()
    there = set(blob.list()) - names
    assert committed_steps(blob) in ([1], [1, 2])
    assert (committed_steps(blob) == [1, 2]) == any(name.endswith("manifest.json") for name in there)
    write(blob, tmp_path, [])
    if committed_steps(blob) == [1]:
        assert set(blob.list()) == names


def test_a_step_that_was_damaged_is_replaced(tmp_path: Path) -> None:
    blob = open_blob("memory://replaced")
    write(blob, tmp_path, [1])
    before = {name for name in blob.list() if name.endswith(".distcp")}
    write(blob, tmp_path, [1])
    after = {name for name in blob.list() if name.endswith(".distcp")}
    assert len(after) == 1
    assert not before & after


def test_a_store_that_refuses_costs_the_checkpoint_and_not_the_run(tmp_path: Path) -> None:
    blob, warnings = open_blob("memory://refused"), []  # type: ignore[var-annotated]
    down = [True]
    flaky = FlakyBlob(
        blob, lambda number, operation, path: busy() if down[0] and operation == "put" else None
    )
    with CheckpointWriter(place(flaky, tmp_path), warn=warnings.append) as writer:
        writer.save(1, tensors(1), {"step": 1})
        writer.wait()
        down[0] = False
        writer.save(2, tensors(2), {"step": 2})
    assert committed_steps(blob) == [2]
    assert "the checkpoint of step 1 is given up: 503 SlowDown Training goes on." in warnings[0]


def test_a_store_that_is_busy_for_long_delays_a_checkpoint(tmp_path: Path) -> None:
    """Longer than any other request would be tried; no more than the time limit allows."""
    memory, clock = MemoryBlob("busy-for-long"), FakeClock()
    flaky = FlakyBlob(
        memory, lambda _, operation, path: busy() if operation == "put" and clock.now < 1200 else None
    )
    write(RetryingBlob(flaky, Retry(sleep=clock.sleep)), tmp_path, [1])
    assert committed_steps(memory) == [1]
    assert 1200 <= clock.now < 1300


def test_what_a_save_that_was_given_up_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    blob, down = open_blob("memory://left-by-given-up"), [True]
    flaky = FlakyBlob(blob, lambda _, operation, path: busy() if down[0] and ".metadata" in path else None)
    with CheckpointWriter(place(flaky, tmp_path), warn=lambda _: None) as writer:
        writer.save(1, tensors(1), {"step": 1})
        writer.wait()
        assert any("step-00000001" in name for name in blob.list())
        down[0] = False
        writer.save(2, tensors(2), {"step": 2})
    assert not any("step-00000001" in name for name in blob.list())


def test_a_process_that_lost_its_lock_spoils_no_checkpoint_of_the_next_holder(tmp_path: Path) -> None:
    """The other process commits the same step between the lock's check and this one's first object."""
    blob = open_blob("memory://two-holders")
    places = RemoteCheckpoints(
        blob, tmp_path / "a", keep=3, check_lock=lambda _: write(blob, tmp_path / "b", [1]), warn=print
    )
    writer = CheckpointWriter(places)
    writer.save(1, tensors(7), {"step": 1})
    with pytest.raises(ResumeError, match="another process has written step 1 meanwhile"):
        writer.close()
    assert committed_steps(blob) == [1]
    for name in blob.list("checkpoints/"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(blob.get(name)))
    verify_checkpoint(tmp_path / "checkpoints" / "step-00000001")


def test_the_last_checkpoint_of_a_run_must_be_stored(tmp_path: Path) -> None:
    flaky = FlakyBlob(open_blob("memory://last"), lambda number, operation, path: busy())
    writer = CheckpointWriter(place(flaky, tmp_path), warn=lambda _: None)
    writer.save(1, tensors(1), {"step": 1})
    with pytest.raises(CheckpointError, match="It was the last one of this start"):
        writer.close()


def test_a_store_that_hangs_is_given_up_and_the_next_checkpoint_is_made(tmp_path: Path) -> None:
    blob, warnings, answers = open_blob("memory://hangs"), [], threading.Event()  # type: ignore[var-annotated]

    def hang(number: int, operation: str, path: str) -> None:
        if "step-00000001" in path and operation == "put":
            answers.wait()

    with CheckpointWriter(
        place(FlakyBlob(blob, hang), tmp_path), timeout_s=0.2, warn=warnings.append
    ) as writer:
        writer.save(1, tensors(1), {"step": 1})
        writer.wait()
        writer._timeout_s = 600.0
        writer.save(2, tensors(2), {"step": 2})
        writer.wait()
    answers.set()
    assert committed_steps(blob) == [2]
    assert any("step 1 is given up: rank 0 has done" in line for line in warnings)


def test_training_does_not_wait_for_an_upload_that_outlasts_the_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next checkpoint is left out, said once, and made as soon as the upload has ended."""
    monkeypatch.setattr(module, "YOUNG_S", 0.0)
    blob, warnings, answers = open_blob("memory://outlasts"), [], threading.Event()  # type: ignore[var-annotated]

    def slow(number: int, operation: str, path: str) -> None:
        if operation == "put":
            answers.wait()

    with CheckpointWriter(place(FlakyBlob(blob, slow), tmp_path), warn=warnings.append) as writer:
        assert not writer.skips(1)
        writer.save(1, tensors(1), {"step": 1})
        assert [writer.skips(2), writer.skips(3)] == [True, True]
        assert not writer.is_due
        answers.set()
        assert writer._thread is not None
        writer._thread.join()
        assert writer.is_due
        assert not writer.skips(4)
        writer.save(4, tensors(4), {"step": 4})
    assert committed_steps(blob) == [1, 4]
    assert len(warnings) == 1
    assert "the checkpoint of step 2 is skipped: that of step 1 is still being stored" in warnings[0]


def test_a_lock_that_was_lost_ends_the_run(tmp_path: Path) -> None:
    def lost(blob: Blob) -> None:
        raise ResumeError("taken")

    blob = open_blob("memory://lost")
    writer = CheckpointWriter(RemoteCheckpoints(blob, tmp_path, keep=3, check_lock=lost, warn=print))
    writer.save(1, tensors(1), {"step": 1})
    with pytest.raises(ResumeError, match="taken"):
        writer.close()
    assert committed_steps(blob) == []
