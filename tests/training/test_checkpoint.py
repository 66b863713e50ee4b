"""Checkpoints: whole or not there, the newest whole one found, damage told by name."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import CheckpointError, SpaceError
from headrace.model.checkpoint import latest_checkpoint, list_checkpoints, read_tensors, verify_checkpoint
from headrace.training import checkpoint as module
from headrace.training.checkpoint import CheckpointWriter


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

    monkeypatch.setattr(module, "save", full)
    writer = CheckpointWriter(tmp_path)
    writer.save(2, tensors(2), {"step": 2})
    with pytest.raises(SpaceError, match="no room left for a checkpoint"):
        writer.close()
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1


def test_torchs_own_words_for_a_full_disk_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file writer says "unexpected pos 704 vs 598" where the file system says that there is no room."""

    def unexpected_position(*_: object, **__: object) -> None:
        raise RuntimeError("Traceback:\n  many lines\n[enforce fail] . unexpected pos 704 vs 598\n")

    monkeypatch.setattr(module, "save", unexpected_position)
    for free, error, said in (
        (10, SpaceError, "no room left for a checkpoint"),
        (10**9, CheckpointError, r"could not be written: \[enforce fail\] \. unexpected pos"),
    ):
        usage = SimpleNamespace(total=10**9, used=0, free=free)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _, usage=usage: usage)
        writer = CheckpointWriter(tmp_path)
        writer.save(2, tensors(2), {"step": 2})
        with pytest.raises(error, match=said):
            writer.close()


def test_the_manifest_lists_every_other_file_with_its_size(tmp_path: Path) -> None:
    write(tmp_path, [1])
    directory = tmp_path / "step-00000001"
    files = orjson.loads((directory / "manifest.json").read_bytes())["files"]
    assert {name: entry["bytes"] for name, entry in files.items()} == {
        path.name: path.stat().st_size for path in directory.iterdir() if path.name != "manifest.json"
    }
