"""A run's copy on an object store: enough to continue with when the machine is gone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from flat_options import train

from headrace.errors import CheckpointError, ResumeError, StorageError, StoreError, WorkerError
from headrace.model import GPTConfig, list_checkpoints
from headrace.storage import MemoryBlob, Unavailable, open_blob
from headrace.training.run_directory import mirror as module
from headrace.training.run_directory.mirror import Mirror, reachable

OPTIONS: dict[str, Any] = {
    "model": GPTConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2,
        vocab_size=257, max_position_embeddings=16),
    "seq_len": 16, "batch_size": 4, "steps": 10, "lr": 3e-3, "device": "cpu", "dtype": "float32",
    "checkpoint_every": 4,
}  # fmt: skip


def test_a_run_goes_on_on_a_machine_that_has_nothing(store: Path, tmp_path: Path, losses: Any) -> None:
    """Its last checkpoint is lost with the machine; the copy has the one before, and the metrics up to it."""
    mirror = "memory://a-run"
    train(store, out=tmp_path / "here", mirror=mirror, **OPTIONS)
    blob = open_blob(mirror)
    for name in blob.list("checkpoints/step-00000010/"):
        blob.delete(name)
    summary = train(store, out=tmp_path / "there", mirror=mirror, **OPTIONS)
    assert summary.resumed_from == 8
    assert losses(tmp_path / "there") == losses(tmp_path / "here")
    assert (tmp_path / "there" / "run.json").read_bytes() == (tmp_path / "here" / "run.json").read_bytes()


def test_a_directory_is_a_mirror_too(store: Path, tmp_path: Path, losses: Any) -> None:
    """Its listing leaves out files whose names begin with a dot, and a checkpoint has one."""
    mirror = str(tmp_path / "mirror")
    train(store, out=tmp_path / "here", mirror=mirror, **OPTIONS)
    summary = train(store, out=tmp_path / "there", mirror=mirror, **OPTIONS)
    assert summary.resumed_from == 10
    assert losses(tmp_path / "there") == losses(tmp_path / "here")


def test_steps_that_were_fitted_to_one_machine_stay_on_another(store: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "steps": None, "max_seconds": 0.1, "mirror": "memory://fitted"}
    first = train(store, out=tmp_path / "here", **options)
    second = train(store, out=tmp_path / "there", **options)
    assert second.total_steps == first.total_steps == second.resumed_from


def test_the_copy_keeps_as_many_checkpoints_as_the_run(store: Path, tmp_path: Path) -> None:
    train(store, out=tmp_path, mirror="memory://kept", keep_checkpoints=2, **OPTIONS)
    names = open_blob("memory://kept").list("checkpoints/")
    assert sorted({name.split("/")[1] for name in names}) == ["step-00000008", "step-00000010"]


def test_a_damaged_copy_is_passed_over_for_an_older_one(store: Path, tmp_path: Path, losses: Any) -> None:
    mirror = "memory://damaged"
    train(store, out=tmp_path / "here", mirror=mirror, **OPTIONS)
    name = "checkpoints/step-00000010/__0_0.distcp"
    blob = open_blob(mirror)
    content = bytearray(blob.get(name))
    content[100] ^= 1
    blob.put(name, bytes(content))
    with pytest.warns(RuntimeWarning, match="passed over"):
        summary = train(store, out=tmp_path / "there", mirror=mirror, **OPTIONS)
    assert summary.resumed_from == 8
    assert losses(tmp_path / "there") == losses(tmp_path / "here")


def test_a_damaged_checkpoint_here_is_replaced_by_its_copy(store: Path, tmp_path: Path) -> None:
    train(store, out=tmp_path, mirror="memory://healed", **OPTIONS)
    (tmp_path / "checkpoints" / "step-00000010" / "state.json").write_bytes(b"{}")
    with pytest.warns(RuntimeWarning, match="passed over"):
        summary = train(store, out=tmp_path, mirror="memory://healed", **OPTIONS)
    assert summary.resumed_from == 10
    assert [step for step, _ in list_checkpoints(tmp_path / "checkpoints")] == [4, 8, 10]


def test_an_older_copy_does_not_replace_what_is_here(store: Path, tmp_path: Path) -> None:
    train(store, out=tmp_path, mirror="memory://older", **OPTIONS)
    blob = open_blob("memory://older")
    for name in blob.list("checkpoints/step-00000010/"):
        blob.delete(name)
    assert train(store, out=tmp_path, mirror="memory://older", **OPTIONS).resumed_from == 10


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("503"),
        WorkerError("failed 12 times"),
        StoreError("access denied"),
        StorageError("refused"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("operation", ["put", "list", "delete"])
def test_a_mirror_that_fails_is_a_warning_and_does_not_stop_the_run(
    run: Path, error: Exception, operation: str
) -> None:
    """Whatever storage raises: a blob of a URL has given up retrying, or the server refuses."""

    class Failing(MemoryBlob):
        def __getattribute__(self, name: str) -> Any:
            if name == operation:
                raise error
            return super().__getattribute__(name)

    warnings: list[str] = []
    mirror = Mirror(Failing(f"failing-{operation}-{error}"), run, warn=warnings.append)
    mirror.send_checkpoint(run / "checkpoints" / "step-00000008", keep=1)
    mirror.send_checkpoint(run / "checkpoints" / "step-00000010", keep=1)
    assert str(error) in warnings[0]
    mirror.send_beginning(keep=1)
    if operation == "list":
        with pytest.raises(CheckpointError, match="leave out --mirror"):
            reachable("memory://x", mirror.fetch_checkpoint)


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mirrored")
    train(store, out=out, **OPTIONS)
    return out


def test_large_files_are_sent_and_fetched_in_parts(
    store: Path, tmp_path: Path, losses: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PART_BYTES", 1000)
    mirror = str(tmp_path / "mirror")
    train(store, out=tmp_path / "here", mirror=mirror, **OPTIONS)
    assert train(store, out=tmp_path / "there", mirror=mirror, **OPTIONS).resumed_from == 10
    assert losses(tmp_path / "there") == losses(tmp_path / "here")


def test_a_checkpoint_of_another_recipe_is_refused(store: Path, tmp_path: Path) -> None:
    train(store, out=tmp_path / "one", **OPTIONS)
    train(store, out=tmp_path / "two", **{**OPTIONS, "seed": 1})
    shutil.rmtree(tmp_path / "two" / "checkpoints")
    shutil.copytree(tmp_path / "one" / "checkpoints", tmp_path / "two" / "checkpoints")
    with pytest.raises(ResumeError, match=r"seed: run has \d+, requested 1"):
        train(store, out=tmp_path / "two", **{**OPTIONS, "seed": 1})
