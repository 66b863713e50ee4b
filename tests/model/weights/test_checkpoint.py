"""A checkpoint's manifest is checked before any file that it names is read."""

from __future__ import annotations

import pytest

from headrace.errors import CheckpointError
from headrace.model.weights.checkpoint import (
    encode_manifest,
    hash_file,
    latest_checkpoint,
    list_checkpoints,
    manifest_files,
    verify_checkpoint,
)


def write(directory, files):
    directory.mkdir(parents=True)
    entries = {}
    for name, content in files.items():
        (directory / name).write_bytes(content)
        entries[name] = {"bytes": len(content), "xxh3_128": hash_file(directory / name)}
    (directory / "manifest.json").write_bytes(encode_manifest({"format": 1, "step": 3, "files": entries}))
    return directory


def test_a_whole_checkpoint_gives_its_state(tmp_path):
    directory = write(tmp_path / "step-00000003", {"state.json": b'{"step": 3}'})
    assert verify_checkpoint(directory) == {"step": 3}
    assert latest_checkpoint(tmp_path) == (directory, {"step": 3})
    assert manifest_files(directory) == ["state.json"]


def test_directories_of_other_names_are_not_listed(tmp_path):
    for name in (".staging-step-00000004", "step-4", "step-00000005.bak"):
        (tmp_path / name).mkdir()
    write(tmp_path / "step-00000003", {"state.json": b"{}"})
    assert [step for step, _ in list_checkpoints(tmp_path)] == [3]
    assert list_checkpoints(tmp_path / "missing") == []


def test_a_manifest_names_files_beside_it_only(tmp_path):
    directory = tmp_path / "step-00000003"
    directory.mkdir()
    content = encode_manifest({"format": 1, "step": 3, "files": {"../secret": {"bytes": 0}}})
    (directory / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"lists '../secret'; expected a file beside it"):
        manifest_files(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"format": 1, "files": {}, "xxh3_128": "0"}', "of its content is"),
        (encode_manifest({"format": 2, "files": {}}), "checkpoint format 2, this headrace reads 1"),
        (encode_manifest({"format": 1, "files": {}}), "its manifest lists no state.json"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_named(content, message, tmp_path):
    directory = tmp_path / "step-00000003"
    directory.mkdir()
    (directory / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        verify_checkpoint(directory)
