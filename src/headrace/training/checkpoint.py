"""Tensors and a state -> a checkpoint directory, written by a thread and renamed into place."""

from __future__ import annotations

import errno
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import orjson
import torch
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from headrace.errors import CheckpointError, HeadraceError, SpaceError
from headrace.model import (
    CHECKPOINT_FORMAT,
    MANIFEST,
    STATE,
    encode_manifest,
    list_checkpoints,
    step_dir,
)
from headrace.platform import max_file_nbytes
from headrace.storage import fsync_directory, make_directory, write_file
from headrace.training.distributed_save import FileEntries, file_entry, save_tensors
from headrace.training.liveness import is_network_error
from headrace.training.process_group import ProcessGroup

_STAGING = ".staging-"


class CheckpointWriter:
    """Saves in a thread; training waits for the copy of its tensors only.

    Every rank has one and calls it at the same steps. The copy's memory is kept between saves and touched
    once, before training starts (12 times faster than a fresh copy: 37 ms against 450 ms for 72 MB).
    """

    def __init__(
        self,
        checkpoints: Path,
        *,
        keep: int = 3,
        resumed_step: int | None = None,
        best_step: int | None = None,
        group: ProcessGroup | None = None,
        before_commit: Callable[[], None] | None = None,
        after_commit: Callable[[Path], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Remove what an earlier process did not finish.

        Args:
            checkpoints: RUN/checkpoints.
            keep: checkpoints to keep.
            resumed_step: newest whole checkpoint; what is older than the newest `keep` is deleted.
            best_step: a checkpoint that is kept beside them; a state that is written may name another as "best".
            group: the processes; default a single one.
            before_commit: called on rank 0 before a checkpoint gets its name.
            after_commit: called on rank 0 with the directory of a committed checkpoint.
            warn: called with a sentence when an old checkpoint cannot be deleted.
        """
        self._checkpoints = checkpoints
        self._keep = keep
        self._group = group if group is not None else ProcessGroup()
        self._before_commit = before_commit
        self._after_commit = after_commit
        self._warn = warn if warn is not None else _warn
        # No pinned or shared memory: a copy that the process owns ends with the process.
        self._stager = DefaultStager(StagingOptions(False, False, False, False))
        self._staged: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        if self._group.is_rank0:
            with _disk_errors(checkpoints):
                make_directory(checkpoints)
                for stale in checkpoints.glob(f"{_STAGING}*"):  # of a process that was killed
                    self._delete(stale)
                if resumed_step is not None:
                    self._delete_old(resumed_step, best_step)

    def allocate(self, tensors: Mapping[str, Tensor]) -> None:
        """Touch the memory of the copy, so that the first save takes no longer than the others."""
        self._stager.stage(dict(tensors))

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, object]) -> float:
        """Copy the tensors and begin to write them; returns the seconds that the caller waited.

        Raises:
            SpaceError, CheckpointError: the previous save failed.
        """
        stalled_s = self.copy(tensors)
        self.write(step, state)
        return stalled_s

    def copy(self, tensors: Mapping[str, Tensor]) -> float:
        """Copy the tensors for the next `write`; returns the seconds that the caller waited.

        Raises:
            SpaceError, CheckpointError: the previous save failed.
        """
        start = time.perf_counter()
        self.wait()
        self._staged = cast("dict[str, Tensor]", self._stager.stage(dict(tensors)))
        return time.perf_counter() - start

    def write(self, step: int, state: Mapping[str, object]) -> None:
        """Begin to write the tensors that were copied last."""
        self._thread = threading.Thread(
            target=self._write, args=(step, self._staged, dict(state)), name=f"checkpoint-{step}", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until the save in progress is on every rank's disk, for as long as all ranks live.

        Raises:
            SpaceError, CheckpointError: it failed.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        self._group.on_all_ranks(self._raise_error)

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is None:
            return
        if isinstance(error, HeadraceError) or (self._group.size > 1 and is_network_error(error)):
            raise error  # a rank is gone: no fault of the checkpoint
        raise explain_failure(error, self._checkpoints) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # The error on its way is the cause; a save that fails with it is not. The other ranks may be gone.
        if self._thread is not None:
            self._thread.join(timeout=60.0)
        self._stager.close()

    def close(self) -> None:
        """Wait, then free the copy.

        Raises:
            SpaceError, CheckpointError: the save in progress failed.
        """
        try:
            self.wait()
        finally:
            self._stager.close()

    def _write(self, step: int, staged: dict[str, Tensor], state: dict[str, object]) -> None:
        group = self._group.for_checkpoints or self._group
        try:
            staging = self._checkpoints / f"{_STAGING}step-{step:08d}"
            files = save_tensors(staging, staged, group=group)
            if group.is_rank0:
                final = self._commit(step, staging, state, files)
                if self._after_commit is not None:
                    self._after_commit(final)
        except BaseException as error:  # noqa: BLE001  # carried to the training thread, which raises it
            self._error = error

    def _commit(self, step: int, staging: Path, state: dict[str, object], files: FileEntries) -> Path:
        if self._before_commit is not None:
            self._before_commit()
        write_file(staging / STATE, orjson.dumps(state, option=orjson.OPT_INDENT_2))
        written_here = {path.name for path in staging.iterdir()} - files.keys()
        files = {**files, **{name: file_entry(staging / name) for name in written_here}}
        manifest = {
            "format": CHECKPOINT_FORMAT,
            "step": step,
            "torch": torch.__version__,
            "files": dict(sorted(files.items())),
        }
        write_file(staging / MANIFEST, encode_manifest(manifest))
        fsync_directory(staging)
        final = step_dir(self._checkpoints, step)
        if final.exists():  # a damaged one that was passed over, now made again
            self._delete(final)
        staging.rename(final)
        fsync_directory(self._checkpoints)
        best = state.get("best")
        self._delete_old(step, best["step"] if isinstance(best, Mapping) else None)
        return final

    def _delete_old(self, newest: int, best: int | None) -> None:
        # Later ones are damaged (the run resumed before them) and do not count.
        older = [(step, path) for step, path in list_checkpoints(self._checkpoints) if step <= newest]
        for step, path in older[: -self._keep]:
            if step != best:
                self._delete(path)

    def _delete(self, path: Path) -> None:
        """Delete a directory, never leaving half a checkpoint under a finished one's name."""
        aside = path if path.name.startswith(_STAGING) else path.with_name(f"{_STAGING}old-{path.name}")
        try:
            if aside != path:
                path.rename(aside)
            shutil.rmtree(aside)
        except OSError as error:
            self._warn(f"{path}: could not be deleted ({error.strerror}); the run goes on.")


def explain_failure(error: BaseException, checkpoints: Path) -> HeadraceError:
    """Why a save failed, as an error with its cure.

    torch's file writer hides the system's error behind one of its own ("unexpected pos 704 vs 598"), so the
    chain of errors is searched, and then the file system is asked.
    """
    number = next((e.errno for e in _chain(error) if isinstance(e, OSError)), None) or _try_to_write(
        checkpoints
    )
    whole = "The older checkpoints are whole."
    if number in {errno.ENOSPC, errno.EDQUOT}:
        what = "no space left" if number == errno.ENOSPC else "the disk quota is used up"
        return SpaceError(
            f"{checkpoints}: {what} for a checkpoint. {whole} Free some space and run the same command again."
        )
    if number == errno.EFBIG or ("unexpected pos" in str(error) and max_file_nbytes() is not None):
        return SpaceError(
            f"{checkpoints}: a checkpoint file would be larger than this process may write "
            f"({max_file_nbytes() or 0:,} bytes, ulimit -f). {whole} Raise the limit and run the same command again."
        )
    cause = next((line for line in reversed(str(error).splitlines()) if line.strip()), repr(error))
    return CheckpointError(
        f"{checkpoints}: a checkpoint could not be written: {cause.strip()}. {whole} "
        f"Run the same command again when the cause is gone."
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _try_to_write(directory: Path) -> int | None:
    """The system's error number for one more megabyte in a directory; None where it can be written."""
    probe = directory / f"{_STAGING}probe"
    try:
        write_file(probe, bytes(1 << 20))
    except OSError as error:
        return error.errno
    finally:
        probe.unlink(missing_ok=True)
    return None


class _disk_errors:  # noqa: N801  # reads as a statement
    """Errors of the file system within the block become ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise explain_failure(error, self._path) from error


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
