"""Checkpoints: whole or absent, the newest whole one is found, damage is named. Covers distributed_save.py and
place.py too.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._C._distributed_c10d import TCPStore
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from headrace.errors import CheckpointError, SpaceError, WorkerError
from headrace.model import latest_checkpoint, list_checkpoints, read_tensors, verify_checkpoint
from headrace.training.checkpoints import writer as module
from headrace.training.checkpoints.writer import CheckpointWriter
from headrace.training.distributed.process_group import ProcessGroup
from headrace.training.distributed.process_name import ProcessName
from headrace.training.distributed.rendezvous import AttemptStore, Launch


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"model.a": torch.full((5, 3), value), "adam.exp_avg.a": torch.full((7,), -value)}


def write(directory: Path, steps: list[int], *, keep: int = 9) -> None:
    with CheckpointWriter(directory, keep=keep) as writer:
        for step in steps:
            writer.save(step, tensors(step), {"step": step})


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    write(tmp_path, [3])
    found = latest_checkpoint(tmp_path)
    assert found is not None
    directory, state = found
    into = tensors(0)
    read_tensors(directory, into)
    assert state["step"] == 3
    assert all(torch.equal(into[name], tensors(3)[name]) for name in into)


def test_a_save_holds_the_values_of_its_moment(tmp_path: Path) -> None:
    """The caller goes on changing its tensors while they are being written."""
    live = tensors(1)
    with CheckpointWriter(tmp_path) as writer:
        writer.save(1, live, {"step": 1})
        for tensor in live.values():
            tensor.fill_(99)
    into = tensors(0)
    read_tensors(tmp_path / "step-00000001", into)
    assert all(torch.equal(into[name], tensors(1)[name]) for name in into)


def test_the_newest_so_many_are_kept(tmp_path: Path) -> None:
    write(tmp_path, [1, 2, 3, 4, 5], keep=2)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_is_found_and_the_older_checkpoint_taken(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("checkpoints")
    write(directory, [1, 2])
    name = data.draw(st.sampled_from([".metadata", "__0_0.distcp", "manifest.json", "state.json"]))
    victim = directory / "step-00000002" / name
    content = bytearray(victim.read_bytes())
    content[data.draw(st.integers(0, 10**6)) % len(content)] ^= 1 << data.draw(st.integers(0, 7))
    victim.write_bytes(content)
    said: list[str] = []
    found = latest_checkpoint(directory, warn=said.append)
    assert found is not None
    assert found[1]["step"] == 1
    assert "step-00000002" in said[0]


@pytest.mark.parametrize("name", ["state.json", ".metadata", "__0_0.distcp", "manifest.json"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    write(tmp_path, [1])
    (tmp_path / "step-00000001" / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        verify_checkpoint(tmp_path / "step-00000001")


def test_a_damaged_checkpoint_warns_when_nobody_asked_for_the_message(tmp_path: Path) -> None:
    write(tmp_path, [1])
    (tmp_path / "step-00000001" / "state.json").write_bytes(b"{}")
    with pytest.warns(RuntimeWarning, match=r"state\.json: 2 bytes.*passed over"):
        assert latest_checkpoint(tmp_path) is None


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    write(tmp_path, [1, 2])
    (tmp_path / "step-00000002" / "state.json").write_bytes(b"{}")
    write(tmp_path, [2])
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["step"] == 2


def test_debris_of_a_crash_is_cleared_by_the_next_run(tmp_path: Path) -> None:
    debris = tmp_path / ".staging-step-00000007"
    debris.mkdir()
    (debris / "half").write_bytes(b"x")
    write(tmp_path, [8])
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000008"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [1])
    with pytest.raises(CheckpointError, match="does not fit this model"):
        read_tensors(tmp_path / "step-00000001", {"model.a": torch.zeros(6, 3)})
    with pytest.raises(CheckpointError, match="does not fit this model"):
        read_tensors(tmp_path / "step-00000001", {"model.b": torch.zeros(5, 3)})


def test_a_full_disk_is_one_clear_error_and_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [1])

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    writer = CheckpointWriter(tmp_path)
    writer.save(2, tensors(2), {"step": 2})
    with pytest.raises(SpaceError, match="no space left for a checkpoint"):
        writer.close()
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1


def test_torchs_own_words_for_a_full_disk_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file writer says "unexpected pos 704 vs 598" where the file system reports a full disk."""

    def unexpected_position(*_: object, **__: object) -> None:
        raise RuntimeError("Traceback:\n  many lines\n[enforce fail] . unexpected pos 704 vs 598\n")

    monkeypatch.setattr(FileSystemWriter, "write_data", unexpected_position)
    for number, error, message in (
        (errno.ENOSPC, SpaceError, "no space left for a checkpoint"),
        (errno.EDQUOT, SpaceError, "the disk quota is used up for a checkpoint"),
        (errno.EFBIG, SpaceError, "larger than this process may write"),
        (None, CheckpointError, r"could not be written: \[enforce fail\] \. unexpected pos"),
    ):
        monkeypatch.setattr(module, "_try_to_write", lambda _, number=number: number)
        writer = CheckpointWriter(tmp_path)
        writer.save(2, tensors(2), {"step": 2})
        with pytest.raises(error, match=message):
            writer.close()


def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    """Ulimit -f: torch's writer says "unexpected pos" where the system says that the file is too large."""
    program = """
import resource, sys
from pathlib import Path
import torch
from headrace.errors import SpaceError
from headrace.training.checkpoints.writer import CheckpointWriter
from headrace.training.distributed.process_group import ProcessGroup
from headrace.training.distributed.process_name import ProcessName
from headrace.training.distributed.rendezvous import AttemptStore, Launch

resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, resource.RLIM_INFINITY))
writer = CheckpointWriter(Path(sys.argv[1]))
writer.save(1, {"model.a": torch.zeros(100_000)}, {"step": 1})
try:
    writer.close()
except SpaceError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "larger than this process may write (65,536 bytes, ulimit -f)" in done.stdout, done.stderr


def test_an_old_checkpoint_that_cannot_be_deleted_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one is committed: the run goes on."""
    write(tmp_path, [1])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    warnings: list[str] = []
    with CheckpointWriter(tmp_path, keep=1, warn=warnings.append) as writer:
        writer.save(2, tensors(2), {"step": 2})
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2]
    assert "step-00000001: could not be deleted (Permission denied); the run goes on" in warnings[0]


def test_a_checkpoint_too_many_after_a_kill_is_deleted_by_the_next_run(tmp_path: Path) -> None:
    """The kill came between the last rename and the deletion of the oldest."""
    write(tmp_path, [1, 2, 3, 4])
    with CheckpointWriter(tmp_path, keep=3, resumed_step=4):
        pass
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2, 3, 4]


def test_the_manifest_lists_every_other_file_with_its_size(tmp_path: Path) -> None:
    write(tmp_path, [1])
    directory = tmp_path / "step-00000001"
    files = orjson.loads((directory / "manifest.json").read_bytes())["files"]
    assert {name: entry["bytes"] for name, entry in files.items()} == {
        path.name: path.stat().st_size for path in directory.iterdir() if path.name != "manifest.json"
    }


def test_a_save_that_waits_for_a_dead_rank_does_not_delay_the_error_that_names_it(tmp_path: Path) -> None:
    """Rank 1 of 2 never comes: the training thread learned of it first, and the save's thread waits for its key."""
    keys = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    launch = Launch(
        rank=0, size=2, host="127.0.0.1", port=keys.port, agent_holds_store=False, wait_s=30.0
    )  # fmt: skip
    store = AttemptStore(launch, "attempt", keys)
    keys.set("headrace/attempt/process/1", ProcessName("another machine", 1, "1").text)
    group = ProcessGroup(size=2, store=store, for_checkpoints=ProcessGroup(size=2, store=store.clone()))

    def train() -> None:
        with CheckpointWriter(tmp_path, group=group) as writer:
            writer.save(7, tensors(7), {"step": 7})
            raise WorkerError("rank 1 no longer answers")

    with pytest.raises(WorkerError, match="rank 1 no longer answers"):
        train()
    assert "checkpoint-7" not in {thread.name for thread in threading.enumerate()}
