"""Finished predictions -> committed parts: each key is stored once, also when the process is killed at any moment.

    put       append a frame to the log: the row survives a kill
    sync      fdatasync, at most once a second: the row survives a power cut
    part      temporary file, fsync, rename, fsync of the directory
    commit    one SQLite transaction: the part, and the key of every row in it
    log       the log of a committed part is removed, the next one opened

Readers look at the transaction only: a part file that it does not name does not exist for them. A kill
between any two steps is repaired on the next open: unnamed parts are deleted, logs of committed parts
are deleted, and the rows of the open log are taken up again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from headrace.errors import SinkError
from headrace.paths import local_path
from headrace.sink.database import database_errors, lock_job, open_database
from headrace.sink.log import WriteAheadLog
from headrace.sink.lost import Listing, check_not_lost
from headrace.sink.part import FORMATS, check_limits, encode_part
from headrace.sink.request import JOB, check_job, job_bytes, run_id
from headrace.sink.schema import key_of, to_payload
from headrace.storage import disk_errors, fsync_directory, make_directory, write_file
from headrace.types import Prediction

PART_ROWS = 4096
# A part is built in memory: its log, its rows and its encoded file, some five times this.
PART_BYTES = 16 << 20
SYNC_S = 1.0


class Sink:
    """A job's output directory, open for one writer at a time.

    Not safe to use from several threads at once. Memory and log are bounded by one part: `put`
    returns when the row is in the log, and closing a part makes the caller wait.

    Args:
        out: directory; made when missing.
        request: everything that determines the output, as JSON values; a directory with another request is refused.
        format: "parquet" (zstd) or "jsonl" (JSON lines in zstd).
        part_rows: a part closes when it holds this many rows,
        part_bytes: or this many bytes of log.
        retry_errors: keys whose stored row is an error count as not done; a new row replaces it.
        clock: seconds; decides when the log is synced.

    Raises:
        ResumeError: the directory holds another request's output.
        SinkError: another process writes to it, its commit database was lost, or it is not an output directory.
        SpaceError: no space left; everything stored before is kept.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        request: Mapping[str, Any],
        format: Literal["parquet", "jsonl"] = "parquet",
        part_rows: int = PART_ROWS,
        part_bytes: int = PART_BYTES,
        retry_errors: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_limits(format, part_rows=part_rows, part_bytes=part_bytes)
        self.path = local_path(out, name="out", cure="Give a URL as a string.")
        self.run_id = run_id(request)
        self._format = format
        self._part_rows, self._part_bytes = part_rows, part_bytes
        self._retry_errors = retry_errors
        self._clock = clock
        self._synced_at = clock()
        self._pending: dict[tuple[str, int], tuple[bytes, bool]] = {}
        self._unsynced = False
        self._log: WriteAheadLog | None = None
        if self.path.exists() and not self.path.is_dir():
            raise SinkError(f"{self.path}: is a file. Give a new or empty directory for the predictions.")
        with disk_errors(self.path, kept="Nothing was changed."):
            make_directory(self.path / "parts")
            self._lock_fd = lock_job(self.path)
            try:
                _claim(self.path, request)
                self._db = open_database(self.path)
            except BaseException:
                if self._lock_fd >= 0:
                    os.close(self._lock_fd)
                raise
        try:
            with disk_errors(self.path):
                self._recover()
        except BaseException:
            self._release()
            raise

    def done(self, prompt_id: str, sample_index: int) -> bool:
        """Whether this key is stored: committed, or in the log."""
        key = (prompt_id, sample_index)
        if key in self._pending:
            return True
        error = self._stored(key)
        return error is not None and not (self._retry_errors and error)

    def put(self, row: Prediction) -> bool:
        """Store a finished row; returns False and stores nothing when its key is stored already."""
        if self._log is None:
            raise SinkError(f"{self.path}: this sink is closed.")
        if self.done(row.prompt_id, row.sample_index):
            return False
        payload = to_payload(row)
        self._log.append(payload)
        self._pending[row.prompt_id, row.sample_index] = (payload, row.error is not None)
        self._unsynced = True
        self._step("frame")
        if len(self._pending) >= self._part_rows or self._log.nbytes >= self._part_bytes:
            self.commit()
        elif self._clock() - self._synced_at >= SYNC_S:
            self.sync()
        return True

    def sync(self) -> None:
        """Make every row that was put survive a power cut."""
        if self._unsynced and self._log is not None:
            with disk_errors(self._log.path, kept="Every committed row is kept."):
                self._log.sync()
            self._unsynced = False
        self._synced_at = self._clock()

    def commit(self) -> None:
        """Commit the part that is being filled, so that readers see it; an empty part is not committed."""
        if self._log is None or not self._pending:
            return
        part = encode_part([self._pending[key][0] for key in sorted(self._pending)], format=self._format)
        name = f"part-{self._part:05d}{FORMATS[self._format].SUFFIX}"
        path = self.path / "parts" / name
        with disk_errors(path, kept="Every row stored so far is kept in the log."):
            write_file(path, part.data, step=self._step)
        self._step("part renamed")
        with database_errors(self.path):
            try:
                self._end_reading()
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute(
                    "INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (self._part, name, part.rows, part.errors, part.tokens, len(part.data), part.crc32c),
                )
                if self._retry_errors:
                    self._db.executemany(
                        "INSERT INTO superseded SELECT part, prompt_id, sample_index FROM keys"
                        " WHERE prompt_id = ? AND sample_index = ?",
                        self._pending,
                    )
                # `put` let no key pass that is here already, but for error rows that are being replaced.
                self._db.executemany(
                    "INSERT INTO keys VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
                    " SET part = excluded.part, error = excluded.error WHERE error",
                    ((*key, self._part, error) for key, (_, error) in self._pending.items()),
                )
                self._step("before commit")
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        self._step("committed")
        self._pending.clear()
        self._log.remove()
        self._step("log removed")
        self._open_log()

    def close(self) -> None:
        """Commit the last part and release the directory."""
        try:
            self.commit()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Release the directory without a commit: the next open takes up the rows in the log."""
        if self._log is not None and not self._pending:
            self._log.remove()
            self._log = None
        self._release()

    def counts(self) -> tuple[int, int]:
        """Stored rows and errors among them: committed, and in the log."""
        with database_errors(self.path):
            rows, errors = self._db.execute("SELECT count(*), coalesce(sum(error), 0) FROM keys").fetchone()
        for key, (_, error) in self._pending.items():
            committed = self._stored(key)
            rows += committed is None
            errors += error - bool(committed)
        return rows, errors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error nothing is written: the log has every finished row.
        self.close() if kind is None else self.abandon()

    def _release(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
        self._db.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _stored(self, key: tuple[str, int]) -> bool | None:
        """Whether the committed row of a key is an error; None when there is none."""
        # There is one writer: a read transaction up to the next commit saves each query the locks, half its time.
        with database_errors(self.path):
            if not self._db.in_transaction:
                self._db.execute("BEGIN")
            row = self._db.execute(
                "SELECT error FROM keys WHERE prompt_id = ? AND sample_index = ?", key
            ).fetchone()
        return None if row is None else bool(row[0])

    def _end_reading(self) -> None:
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def _recover(self) -> None:
        """Repair what a kill left: remove the part that was not committed, and the logs of committed parts."""
        with database_errors(self.path):
            committed = {str(name) for (name,) in self._db.execute("SELECT name FROM parts")}
        listing = Listing.of(self.path)
        check_not_lost(self.path, listing, committed)
        for path in (self.path / "parts").iterdir():
            if path.name.startswith(".part-") or (path.name in listing.parts and path.name not in committed):
                _remove(path)
        self._part = self._next_part()
        for path in self.path.glob("wal-*.log"):
            if path != self._log_path():
                _remove(path)
        self._open_log()
        if len(self._pending) >= self._part_rows:
            self.commit()

    def _log_path(self) -> Path:
        return self.path / f"wal-{self._part}.log"

    def _next_part(self) -> int:
        with database_errors(self.path):
            return int(self._db.execute("SELECT coalesce(max(part), -1) + 1 FROM parts").fetchone()[0])

    def _open_log(self) -> None:
        self._part = self._next_part()
        with disk_errors(self._log_path(), kept="Every committed row is kept."):
            self._log = WriteAheadLog(self._log_path(), run_id=self.run_id)
            for payload in self._log.recover():
                prompt_id, sample_index, error = key_of(payload)
                self._pending[prompt_id, sample_index] = (payload, error)
            # A part without a log would look like one whose commit was lost.
            fsync_directory(self.path)

    def _step(self, name: str) -> None:
        """Called between two steps of a commit; tests stop the process here."""


def _remove(path: Path) -> None:
    """Remove a file that nothing refers to; one that cannot be removed does no harm."""
    with suppress(OSError):
        path.unlink()


def _claim(path: Path, request: Mapping[str, Any]) -> None:
    """Write job.json on first use; refuse another request later."""
    job = path / JOB
    if job.exists():
        check_job(job.read_bytes(), request, where=str(path))
        return
    others = [entry.name for entry in path.iterdir() if entry.name not in {"parts", f".{JOB}.tmp"}]
    if others:
        raise SinkError(
            f"{path}: holds {', '.join(sorted(others)[:3])} but no {JOB}, so it is not a job's output. "
            f"Give an empty or new directory."
        )
    write_file(job, job_bytes(request))
