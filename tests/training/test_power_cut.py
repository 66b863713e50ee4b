"""A power cut after any committed checkpoint: from what was synced alone, the run continues with every step.

Only the content that a file had at its last fsync, and the names that a directory had at its last fsync, are kept.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import orjson
from flat_options import train

from headrace.model import GPTConfig, list_checkpoints
from headrace.training.checkpoints import writer as module

SHAPE = GPTConfig(
    num_hidden_layers=1, hidden_size=16, num_attention_heads=2, vocab_size=257, max_position_embeddings=16
)
OPTIONS = {
    "model": SHAPE, "seq_len": 16, "batch_size": 4, "steps": 6, "lr": 1e-3, "dtype": "float32", "device": "cpu",
    "checkpoint_every": 2,
}  # fmt: skip


class Disk:
    """What would be on the device: snapshots by inode, taken at each fsync."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[int, bytes] = {}
        self.directories: dict[int, dict[str, int]] = {root.stat().st_ino: {}}
        self._fsync = os.fsync

    def fsync(self, handle: int) -> None:
        self._fsync(handle)
        status, path = os.fstat(handle), Path(f"/proc/self/fd/{handle}")
        if stat.S_ISDIR(status.st_mode):
            self.directories[status.st_ino] = {
                entry.name: entry.stat().st_ino for entry in path.resolve().iterdir()
            }
        else:
            self.files[status.st_ino] = path.read_bytes()

    def restore(self, to: Path) -> Path:
        """The tree of the names and contents that were synced."""
        self._restore(self.root.stat().st_ino, to)
        return to

    def _restore(self, inode: int, to: Path) -> None:
        to.mkdir()
        for name, child in self.directories.get(inode, {}).items():
            if child in self.directories:
                self._restore(child, to / name)
            elif child in self.files:
                (to / name).write_bytes(self.files[child])


def test_a_committed_checkpoint_and_its_metrics_outlive_a_power_cut(store, tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    disk = Disk(root)
    monkeypatch.setattr(os, "fsync", disk.fsync)
    cuts: list[tuple[int, Path]] = []
    commit = module.CheckpointWriter._commit

    def commit_then_cut(self, step, *rest):
        final = commit(self, step, *rest)
        cuts.append((step, disk.restore(tmp_path / f"after-{step}")))
        return final

    monkeypatch.setattr(module.CheckpointWriter, "_commit", commit_then_cut)
    train(store, out=root / "new" / "run", **OPTIONS)  # in a directory that is made with it
    monkeypatch.undo()
    assert [step for step, _ in cuts] == [2, 4, 6]
    lines = (root / "new" / "run" / "metrics.jsonl").read_bytes().splitlines()
    losses = [orjson.loads(line)["loss"] for line in lines]
    for step, after in cuts:
        out = after / "new" / "run"
        assert list_checkpoints(out / "checkpoints")[-1][0] == step
        assert train(store, out=out, **OPTIONS).resumed_from == step
        again = [orjson.loads(line) for line in (out / "metrics.jsonl").read_bytes().splitlines()]
        assert [line["step"] for line in again] == [1, 2, 3, 4, 5, 6]
        assert [line["loss"] for line in again] == losses
