"""Files of one checkpoint -> a local directory that gets its name when it is whole; the interface of such places."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
import torch

from headrace.model import CHECKPOINT_FORMAT, MANIFEST, STATE, encode_manifest, list_checkpoints, step_dir
from headrace.storage import fsync_directory, make_directory, write_file
from headrace.training.checkpoints.distributed_save import FileEntries, file_entry
from headrace.training.checkpoints.save_watch import SaveWatch

STAGING: Final = ".staging-"


class CheckpointPlace(Protocol):
    """Where checkpoints are stored; its methods are called in the order of this class."""

    @property
    def name(self) -> str:
        """Path or URL, for messages."""

    @property
    def attempt(self) -> str:
        """Makes the names of files of this start unlike those of others; empty where a commit renames them."""

    def prepare(self, resumed_step: int | None, best_step: int | None) -> None:
        """Rank 0, at the start: remove what an earlier process did not finish, and checkpoints that are too many."""

    def staging(self, step: int) -> Path:
        """A local directory that this rank's files are written to."""

    def send(self, step: int, names: Sequence[str], watch: SaveWatch) -> None:
        """Each rank, outside of collectives: store its files of the staging directory."""

    def commit(self, step: int, state: Mapping[str, object], files: FileEntries, watch: SaveWatch) -> None:
        """Rank 0, when all files of all ranks are stored: readers see the checkpoint from now on."""

    def clear(self, step: int) -> None:
        """Each rank, when a save has ended in any way: remove what is left in the staging directory."""


class LocalCheckpoints:
    """A directory that all ranks write to; see `CheckpointPlace`. Errors are the system's OSError."""

    def __init__(self, directory: Path, *, keep: int, warn: Callable[[str], None]) -> None:
        self._directory = directory
        self._keep = keep
        self._warn = warn

    @property
    def name(self) -> str:
        """The directory's path."""
        return str(self._directory)

    @property
    def attempt(self) -> str:
        """Empty: a checkpoint is a directory of its own."""
        return ""

    def prepare(self, resumed_step: int | None, best_step: int | None) -> None:
        """See `CheckpointPlace.prepare`."""
        make_directory(self._directory)
        for stale in self._directory.glob(f"{STAGING}*"):  # of a process that was killed
            self._delete(stale)
        if resumed_step is not None:
            self._delete_old(resumed_step, best_step)

    def staging(self, step: int) -> Path:
        """See `CheckpointPlace.staging`."""
        return self._directory / f"{STAGING}step-{step:08d}"

    def send(self, step: int, names: Sequence[str], watch: SaveWatch) -> None:
        """Nothing: the files are in the directory already."""

    def commit(self, step: int, state: Mapping[str, object], files: FileEntries, watch: SaveWatch) -> None:
        """See `CheckpointPlace.commit`; one rename is the commit."""
        staging, final = self.staging(step), step_dir(self._directory, step)
        write_manifest(staging, step, state, files)
        fsync_directory(staging)
        if final.exists():  # a damaged one that was passed over, now made again
            self._delete(final)
        watch.count(0)
        staging.rename(final)
        fsync_directory(self._directory)
        self._delete_old(step, best_step_of(state))

    def clear(self, step: int) -> None:
        """Nothing: another rank may still write; the next start removes what is left."""

    def _delete_old(self, newest: int, best: int | None) -> None:
        # Later ones are damaged (the run resumed before them) and do not count.
        older = [(step, path) for step, path in list_checkpoints(self._directory) if step <= newest]
        for step, path in older[: -self._keep]:
            if step != best:
                self._delete(path)

    def _delete(self, path: Path) -> None:
        """Delete a directory, never leaving half a checkpoint under a finished one's name."""
        aside = path if path.name.startswith(STAGING) else path.with_name(f"{STAGING}old-{path.name}")
        try:
            if aside != path:
                path.rename(aside)
            shutil.rmtree(aside)
        except OSError as error:
            self._warn(f"{path}: could not be deleted ({error.strerror}); the run goes on.")


def write_manifest(
    staging: Path, step: int, state: Mapping[str, object], files: FileEntries
) -> dict[str, Any]:
    """Write state.json and manifest.json beside the files of rank 0; returns the manifest's content."""
    write_file(staging / STATE, orjson.dumps(state, option=orjson.OPT_INDENT_2))
    written_here = {path.name for path in staging.iterdir()} - files.keys() - {MANIFEST}
    files = {**files, **{name: file_entry(staging / name) for name in written_here}}
    manifest = {
        "format": CHECKPOINT_FORMAT,
        "step": step,
        "torch": torch.__version__,
        "files": dict(sorted(files.items())),
    }
    write_file(staging / MANIFEST, encode_manifest(manifest))
    return manifest


def best_step_of(state: Mapping[str, object]) -> int | None:
    """The step that a state names as the best one."""
    best = state.get("best")
    return int(best["step"]) if isinstance(best, Mapping) else None
