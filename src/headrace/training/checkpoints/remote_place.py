"""Files of one checkpoint -> objects below a URL; one object that is created if absent is the commit.

    checkpoints/step-00000100/__0_<attempt>_0.distcp   tensors of rank 0; each rank sends its own
    checkpoints/step-00000100/.metadata, state.json     by rank 0, when all ranks have sent theirs
    checkpoints/step-00000100/manifest.json             the commit

Readers look for manifests only, so that they see a whole checkpoint or none. A checkpoint is deleted in the other
order. Two attempts at one step share no name of a tensor file, and the other files are created if absent, so that a
process that lost its lock spoils nothing.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from headrace.errors import ResumeError, StorageError, StoreError, WorkerError
from headrace.model import MANIFEST
from headrace.storage import Blob, RetryingBlob, Unavailable, upload_file
from headrace.training.checkpoints.distributed_save import FileEntries
from headrace.training.checkpoints.place import STAGING, best_step_of, write_manifest
from headrace.training.checkpoints.save_watch import CheckpointGivenUp, SaveWatch

_CHECKPOINTS = "checkpoints/"
_NAME = re.compile(rf"{_CHECKPOINTS}step-(\d{{8,}})/(.+)")


class RemoteCheckpoints:
    """Checkpoints of a run on an object store; see `CheckpointPlace`.

    Args:
        blob: the run's.
        scratch: a local directory of this rank, where its files are until they are sent.
        keep: checkpoints to keep.
        check_lock: called with the blob; raises where another process has taken the run.
        warn: called with a sentence when objects cannot be deleted.
    """

    def __init__(
        self,
        blob: Blob,
        scratch: Path,
        *,
        keep: int,
        check_lock: Callable[[Blob], None],
        warn: Callable[[str], None],
    ) -> None:
        self._blob, self._scratch, self._keep = blob, scratch, keep
        self._check_lock, self._warn = check_lock, warn
        self._attempt = secrets.token_hex(4)

    @property
    def name(self) -> str:
        """The run's URL."""
        return self._blob.url

    @property
    def attempt(self) -> str:
        """Unlike that of every other start."""
        return self._attempt

    def prepare(self, resumed_step: int | None, best_step: int | None) -> None:
        """See `CheckpointPlace.prepare`."""
        try:
            names = self._blob.list(_CHECKPOINTS)
            committed = steps_of(names)
            uncommitted = {int(match[1]) for match in map(_NAME.fullmatch, names) if match} - {*committed}
            delete_steps(self._blob, names, uncommitted)  # of a process that was killed
            if resumed_step is not None:
                self._delete_old(names, committed, newest=resumed_step, best=best_step)
        except (StoreError, StorageError, WorkerError, Unavailable) as error:
            self._warn(f"{self.name}: what an earlier start left cannot be deleted: {error}")

    def staging(self, step: int) -> Path:
        """See `CheckpointPlace.staging`."""
        return self._scratch / f"{STAGING}step-{step:08d}"

    def send(self, step: int, names: Sequence[str], watch: SaveWatch) -> None:
        """See `CheckpointPlace.send`."""
        paths = [self.staging(step) / name for name in names]
        watch.done, watch.total = 0, sum(path.stat().st_size for path in paths)
        with given_up(self.name, step):
            blob = patient(self._blob, watch)
            for path in paths:
                upload_file(blob, f"{directory_of(step)}/{path.name}", path, count=watch.count)

    def commit(self, step: int, state: Mapping[str, object], files: FileEntries, watch: SaveWatch) -> None:
        """See `CheckpointPlace.commit`.

        An earlier attempt at the step is deleted: a damaged checkpoint that this start has passed over, or a save that
        was given up before the run went back to an earlier checkpoint.
        """
        staging = self.staging(step)
        manifest = write_manifest(staging, step, state, files)
        with given_up(self.name, step):
            blob = patient(self._blob, watch)
            names = blob.list(_CHECKPOINTS)
            self._check_lock(blob)  # after the list: what another process writes from now on is not deleted
            delete_steps(blob, [name for name in names if name.rpartition("/")[2] not in files], [step])
            for name in [*sorted(manifest["files"].keys() - files.keys()), MANIFEST]:
                content = (staging / name).read_bytes()
                watch.count(0)  # the last moment to give it up
                if not blob.put_if_absent(f"{directory_of(step)}/{name}", content):
                    raise ResumeError(f"{self.name}: another process has written step {step:,} meanwhile.")
        try:
            committed = sorted({*steps_of(names), step})
            self._delete_old(names, committed, newest=step, best=best_step_of(state))
        except (StoreError, StorageError, WorkerError, Unavailable) as error:
            self._warn(f"{self.name}: an old checkpoint could not be deleted; the run goes on: {error}")

    def clear(self, step: int) -> None:
        """See `CheckpointPlace.clear`."""
        shutil.rmtree(self.staging(step), ignore_errors=True)

    def _delete_old(
        self, names: Sequence[str], committed: Sequence[int], *, newest: int, best: int | None
    ) -> None:
        """Delete checkpoints that are too many, and what saves that were given up have left before the newest."""
        kept = {*[step for step in committed if step <= newest][-self._keep :], best}
        before = {int(match[1]) for match in map(_NAME.fullmatch, names) if match and int(match[1]) < newest}
        delete_steps(self._blob, names, before - kept)


def directory_of(step: int) -> str:
    """Name of the checkpoint of a step, as `step_dir` has it on a local disk."""
    return f"{_CHECKPOINTS}step-{step:08d}"


def committed_steps(blob: Blob) -> list[int]:
    """Steps whose checkpoint is committed, the oldest first; none is opened."""
    return steps_of(blob.list(_CHECKPOINTS))


def steps_of(names: Iterable[str]) -> list[int]:
    """Steps that have a manifest among the names of a run, the oldest first."""
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match and match[2] == MANIFEST)


def delete_steps(blob: Blob, names: Sequence[str], steps: Iterable[int]) -> None:
    """Delete the checkpoints of steps: of each its manifest first, which makes it one.

    Args:
        blob: the run's.
        names: of the run's checkpoints.
        steps: of the checkpoints to delete.
    """
    for step in sorted(steps):
        of_step = [name for name in names if name.startswith(f"{directory_of(step)}/")]
        for name in sorted(of_step, key=lambda name: not name.endswith(f"/{MANIFEST}")):
            blob.delete(name)


def patient(blob: Blob, watch: SaveWatch) -> Blob:
    """A blob whose calls are tried again until the save is given up."""
    return blob.lasting(watch.limit_s, watch.record_failure) if isinstance(blob, RetryingBlob) else blob


@contextmanager
def given_up(url: str, step: int | None = None) -> Iterator[None]:
    """Errors of the store within the block give the checkpoint up; a lock that was lost ends the run."""
    try:
        yield
    except CheckpointGivenUp:
        raise
    except (StoreError, StorageError, WorkerError, Unavailable, FileNotFoundError) as error:
        which = "a checkpoint" if step is None else f"the checkpoint of step {step:,}"
        raise CheckpointGivenUp(f"{url}: {which} is given up: {error}") from error
