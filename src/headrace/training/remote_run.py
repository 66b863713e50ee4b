"""A URL as --out -> a run on an object store: small files in a working directory, checkpoints sent as they are made.

The URL has the layout of a run directory, so that everything that reads runs reads it. The working directory is below
the cache directory of this machine and holds nothing that the URL does not have, but what was not committed yet: it is
emptied by every start.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from headrace.errors import CheckpointError, ConfigError, HeadraceError, StorageError
from headrace.model import MANIFEST, PRETRAINED, STATE, cache_directory, fetch_checkpoint, list_checkpoints
from headrace.storage import (
    Blob,
    DamagedFileError,
    Unavailable,
    make_directory,
    open_blob,
    upload_file,
    write_file,
)
from headrace.training.checkpoints.remote_place import (
    RemoteCheckpoints,
    committed_steps,
    directory_of,
    given_up,
    patient,
)
from headrace.training.checkpoints.save_watch import SaveWatch
from headrace.training.checkpoints.state import SavedState, no_checkpoint_error
from headrace.training.distributed.process_group import ProcessGroup
from headrace.training.run_directory.metrics import METRICS, STEP_LINES, last_step
from headrace.training.run_directory.remote_lock import RemoteRunLock
from headrace.training.run_directory.restart import check_deletable, is_run_file
from headrace.training.run_directory.run_json import RUN
from headrace.training.run_directory.tracker_state import TRACKERS

_END_S: Final = 60.0
"""Longest wait at the end for the logs to be sent."""
_TENSORBOARD: Final = "tensorboard/"


class RemoteRun:
    """The run of one process group on an object store, seen by one rank.

    Args:
        url: see `headrace.paths.remote_url`.
        group: the processes.
        log: called with a line.
        warn: called with a sentence.
        blob: default that of the URL.
    """

    def __init__(
        self,
        url: str,
        *,
        group: ProcessGroup,
        log: Callable[[str], None],
        warn: Callable[[str], None],
        blob: Blob | None = None,
    ) -> None:
        self.url, self._group, self._log, self._warn = url, group, log, warn
        self._blob = open_blob(url) if blob is None else blob
        key = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
        self.directory = cache_directory() / "runs" / key / f"rank-{group.rank}"
        self._lock: RemoteRunLock | None = None
        self._sent: dict[str, int] = {}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the run's lock on rank 0; every rank begins and ends with an empty working directory."""
        if self._group.is_rank0:
            self._lock = RemoteRunLock(self._blob, log=self._log)
        try:
            shutil.rmtree(self.directory, ignore_errors=True)
            make_directory(self.directory)
            yield
        except HeadraceError:
            self.send_last_logs()  # the steps since the last checkpoint may say why
            raise
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
            if self._lock is not None:
                self._lock.release()

    def delete(self, init_from: str | os.PathLike[str] | None) -> None:
        """Delete the run's objects, run.json last; others that are below its URL stay; see `delete_run`."""
        names = [name for name in self._blob.list() if is_run_file(name)]
        held = sorted({name.partition("/")[0] for name in names})
        run = bytes(self._blob.get(RUN)) if RUN in names else b""
        if not check_deletable(self.url, held, run, init_from):
            return
        for name in sorted(names, key=lambda name: (name == RUN, not name.endswith(MANIFEST))):
            self._blob.delete(name)

    def fetch_files(self) -> None:
        """Bring everything but checkpoints into the working directory; rank 0."""
        for name in self._blob.list():
            if name.startswith("checkpoints/") or not is_run_file(name):
                continue
            path = self.directory / name
            make_directory(path.parent)
            write_file(path, bytes(self._blob.get(name)))
            self._sent[name] = path.stat().st_size if name.startswith(_TENSORBOARD) else -1

    def send_beginning(self) -> None:
        """Send what a start wrote, run.json last: with it the URL is a run; rank 0.

        Raises:
            HeadraceError, OSError: it cannot be sent.
        """
        self._check_lock(self._blob)
        directories = [self.directory / "tokenizer", self.directory / PRETRAINED]
        checkpoints = [path for _, path in list_checkpoints(self.directory / "checkpoints")]
        for directory in [*directories, *checkpoints]:
            names = list(directory.iterdir()) if directory.is_dir() else []
            for path in sorted(names, key=lambda path: (path.name == MANIFEST, path.name)):
                self._send(path, self._blob)
        self._send_logs(self._blob)
        self._send(self.directory / RUN, self._blob)
        shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)

    def _send_logs(self, blob: Blob) -> None:
        """Send run.json, metrics and events, where this process still has the run."""
        self._check_lock(blob)
        for name in (*STEP_LINES, TRACKERS, "train.log"):
            if (self.directory / name).exists():
                self._send(self.directory / name, blob)
        for path in sorted((self.directory / _TENSORBOARD).glob("**/*")):
            name = path.relative_to(self.directory).as_posix()
            if path.is_file() and self._sent.get(name) != path.stat().st_size:
                self._send(path, blob)
                self._sent[name] = path.stat().st_size
        if RUN in self._sent:  # not before `send_beginning` has sent all the rest
            self._send(self.directory / RUN, blob)

    def before_commit(self, watch: SaveWatch) -> None:
        """Send run.json, metrics and events, before the checkpoint that relies on them; rank 0.

        Raises:
            CheckpointGivenUp: they cannot be sent in time.
            ResumeError: another process has taken the run.
        """
        with given_up(self.url):
            self._send_logs(patient(self._blob, watch))

    def send_last_logs(self) -> None:
        """Send run.json, metrics and events; a failure is a warning, as it costs no checkpoint; rank 0."""
        if self._lock is None or RUN not in self._sent:
            return
        errors: list[BaseException | str] = []

        def send() -> None:
            try:
                self._send_logs(self._blob)
            except (HeadraceError, OSError) as error:
                errors.append(error)

        thread = threading.Thread(target=send, name="send-logs", daemon=True)
        thread.start()
        thread.join(timeout=_END_S)
        if thread.is_alive():
            errors.append(f"no answer within {_END_S:.0f} s")
        if errors:
            self._warn(f"{self.url}: {RUN}, {METRICS} and train.log could not be sent: {errors[0]}")

    def checkpoints(self, *, keep: int) -> RemoteCheckpoints:
        """Where checkpoints are written."""
        return RemoteCheckpoints(
            self._blob, self.directory, keep=keep, check_lock=self._check_lock, warn=self._warn
        )

    def find_saved_state(self, run: Mapping[str, Any]) -> SavedState | None:
        """The newest whole checkpoint, fetched to this machine; every rank calls. See `find_saved_state` of local runs.

        Raises:
            CheckpointError: the run had one, and none is whole; or the store cannot be read.
        """
        saved = self._group.on_rank0(lambda: self._find_newest(run))
        if saved is None:
            return None
        is_first_here = int(os.environ.get("LOCAL_RANK", "0")) == 0 and not self._group.is_rank0

        def fetch(*, needed: bool) -> Path:
            return self._fetch(int(saved.directory.name.removeprefix("step-"))) if needed else saved.directory

        directory = self._group.on_all_ranks(lambda: fetch(needed=is_first_here))
        return SavedState(
            directory=self._group.on_all_ranks(
                lambda: fetch(needed=True) if not directory.is_dir() else directory
            ),
            content=saved.content,
        )

    def steps_saved(self) -> list[int]:
        """Steps of the checkpoints that are there, in ascending order; rank 0."""
        with self._readable():
            return committed_steps(self._blob)

    def _find_newest(self, run: Mapping[str, Any]) -> SavedState | None:
        for step in reversed(self.steps_saved()):
            try:
                directory = self._fetch(step)
                return SavedState(directory=directory, content=orjson.loads((directory / STATE).read_bytes()))
            except (CheckpointError, DamagedFileError, FileNotFoundError, orjson.JSONDecodeError) as error:
                if isinstance(error, _Unreadable):
                    raise
                self._warn(
                    f"{self.url}/{directory_of(step)}: {error} This checkpoint is passed over for an older one."
                )
        gone = no_checkpoint_error(self.url, run, reached=last_step(self.directory / METRICS))
        if gone is not None:
            raise gone
        return None

    def _fetch(self, step: int) -> Path:
        with self._readable():
            return fetch_checkpoint(self._blob, step)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (Unavailable, HeadraceError) as error:
            if isinstance(error, CheckpointError | StorageError | ConfigError):
                raise
            raise _Unreadable(
                f"{self.url}: its checkpoints cannot be read: {error}. Run the same command again when the store "
                f"answers."
            ) from error

    def _check_lock(self, blob: Blob) -> None:
        if self._lock is not None:
            self._lock.check(blob)

    def _send(self, path: Path, blob: Blob) -> None:
        name = path.relative_to(self.directory).as_posix()
        upload_file(blob, name, path)
        self._sent.setdefault(name, -1)

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Errors name the URL in the place of the working directory."""
        try:
            yield
        except HeadraceError as error:
            error.args = tuple(_renamed(error.args, str(self.directory), self.url))
            raise


class _Unreadable(CheckpointError):
    """The store does not answer: no reason to pass a checkpoint over."""


def _renamed(args: Iterable[Any], directory: str, url: str) -> Iterator[Any]:
    for arg in args:
        yield arg.replace(directory, url) if isinstance(arg, str) else arg
