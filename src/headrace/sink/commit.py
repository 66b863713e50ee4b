"""Finished predictions -> committed parts: each key stored once, whatever was killed on the way.

    put       a frame in the log; the row now survives a kill
    sync      fdatasync, at most once a second; the row now survives a power cut
    close     part: tmp -> fsync -> rename -> fsync(dir)
    commit    one SQLite transaction: the part, and the key of every row in it
    forget    the log of a committed part is removed, the next one opened

Readers look at the transaction only: a part file that it does not name does not exist for them. A kill
between any two steps is repaired on the next open: unnamed parts are deleted, logs of committed parts
are deleted, and the rows of the open log are taken up again.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa

from headrace.errors import SinkError, SpaceError
from headrace.sink import files
from headrace.sink.log import Log
from headrace.sink.part import FORMATS, Part, check_limits, encode_part
from headrace.sink.request import JOB, check_job, job_bytes, parse_job, run_id
from headrace.sink.schema import key_of, to_payload
from headrace.types import Prediction

PART_ROWS = 4096
# A part is built in memory: its log, its rows and its encoded file, some five times this.
PART_BYTES = 16 << 20
SYNC_S = 1.0

TABLES = """
CREATE TABLE IF NOT EXISTS parts (
    part INTEGER PRIMARY KEY, name TEXT NOT NULL, rows INTEGER NOT NULL, errors INTEGER NOT NULL,
    tokens INTEGER NOT NULL, nbytes INTEGER NOT NULL, crc32c INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS keys (
    prompt_id TEXT NOT NULL, sample_index INTEGER NOT NULL, part INTEGER NOT NULL, error INTEGER NOT NULL,
    PRIMARY KEY (prompt_id, sample_index)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS superseded (
    part INTEGER NOT NULL, prompt_id TEXT NOT NULL, sample_index INTEGER NOT NULL,
    PRIMARY KEY (part, prompt_id, sample_index)) WITHOUT ROWID;
"""


class Sink:
    """A job's output directory, open for writing by one coordinator at a time.

    Not safe to use from several threads at once. Memory and log are bounded by one part: `put`
    returns when the row is in the log, and closing a part makes the caller wait.

    Args:
        out: directory; made when missing.
        request: what was asked for, JSON values; another request on the same directory is refused.
        form: "parquet" (zstd) or "jsonl" (JSON lines in zstd).
        part_rows: a part closes when it holds this many rows,
        part_bytes: or this many bytes of log.
        retry_errors: keys whose stored row is an error count as not done; a new row replaces it.
        clock: seconds; decides when the log is synced.

    Raises:
        ResumeError: the directory holds another request's output.
        SinkError: another coordinator holds it, or it is not an output directory.
        SpaceError: no room left; everything stored before is kept.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        request: Mapping[str, Any],
        form: Literal["parquet", "jsonl"] = "parquet",
        part_rows: int = PART_ROWS,
        part_bytes: int = PART_BYTES,
        retry_errors: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_limits(form, part_rows=part_rows, part_bytes=part_bytes)
        self.path = Path(out)
        self.run_id = run_id(request)
        self._form = form
        self._part_rows, self._part_bytes = part_rows, part_bytes
        self._retry_errors = retry_errors
        self._clock = clock
        self._synced_at = clock()
        self._pending: dict[tuple[str, int], tuple[bytes, bool]] = {}
        self._unsynced = False
        self._log: Log | None = None
        if self.path.exists() and not self.path.is_dir():
            raise SinkError(f"{self.path}: is a file. Give a new or empty directory for the predictions.")
        with files.space_errors(self.path, kept="Nothing was changed."):
            (self.path / "parts").mkdir(parents=True, exist_ok=True)
            self._lock_fd = _lock(self.path)
            try:
                _claim(self.path, request)
                self._db = _open_database(self.path)
            except BaseException:
                os.close(self._lock_fd)
                raise
        try:
            self._recover()
        except BaseException:
            self._release()
            raise

    def done(self, prompt_id: str, sample_index: int) -> bool:
        """Whether this key needs no more work: committed, or finished and in the log."""
        key = (prompt_id, sample_index)
        if key in self._pending:
            return True
        error = self._stored(key)
        return error is not None and not (self._retry_errors and error)

    def put(self, row: Prediction) -> bool:
        """Store a finished row; False, and nothing stored, when its key is done already."""
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
        """Every row put so far survives a power cut from now on."""
        if self._unsynced and self._log is not None:
            with files.space_errors(self._log.path, kept="Every committed row is kept."):
                self._log.sync()
            self._unsynced = False
        self._synced_at = self._clock()

    def commit(self) -> None:
        """Close the part that is being filled and let readers see it; nothing to do when it is empty."""
        if self._log is None or not self._pending:
            return
        part = encode_part([self._pending[key][0] for key in sorted(self._pending)], form=self._form)
        name = f"part-{self._part:05d}{FORMATS[self._form].SUFFIX}"
        path = self.path / "parts" / name
        with files.space_errors(path, kept="Every row stored so far is kept in the log."):
            files.replace(path, part.data, step=self._step)
        self._step("part renamed")
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
        except sqlite3.DatabaseError as failure:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise _explained(self.path, failure) from failure
        self._step("committed")
        self._pending.clear()
        self._log.remove()
        self._step("log removed")
        self._open_log()

    def close(self) -> None:
        """Commit what is left and let go of the directory."""
        try:
            self.commit()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the directory without closing the part: its rows wait in the log for the next open."""
        if self._log is not None and not self._pending:
            self._log.remove()
            self._log = None
        self._release()

    def counts(self) -> tuple[int, int]:
        """Rows stored and errors among them: committed, and in the log."""
        rows, errors = self._db.execute("SELECT count(*), coalesce(sum(error), 0) FROM keys").fetchone()
        for key, (_, error) in self._pending.items():
            was = self._stored(key)
            rows += was is None
            errors += error - bool(was)
        return rows, errors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error nothing more is written: the log has every finished row.
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
        # Only we write: one read transaction up to the next commit spares each look the locks, half its time.
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
        committed = {name for (name,) in self._db.execute("SELECT name FROM parts")}
        for path in (self.path / "parts").iterdir():
            if path.name.startswith(".part-") or (
                path.name.startswith("part-") and path.name not in committed
            ):
                path.unlink()
        self._part = self._db.execute("SELECT coalesce(max(part), -1) + 1 FROM parts").fetchone()[0]
        for path in self.path.glob("wal-*.log"):
            if path != self._log_path():
                path.unlink()
        self._open_log()
        if len(self._pending) >= self._part_rows:
            self.commit()

    def _log_path(self) -> Path:
        return self.path / f"wal-{self._part}.log"

    def _open_log(self) -> None:
        self._part = self._db.execute("SELECT coalesce(max(part), -1) + 1 FROM parts").fetchone()[0]
        self._log = Log(self._log_path(), run_id=self.run_id)
        for payload in self._log.recover():
            prompt_id, sample_index, error = key_of(payload)
            self._pending[prompt_id, sample_index] = (payload, error)

    def _step(self, name: str) -> None:
        """A boundary between two steps of a commit; tests end the process here."""


def _lock(path: Path) -> int:
    """The directory itself is the lock: it leaves no file behind and dies with its process."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise SinkError(
            f"{path}: another process is writing this job. Wait for it, or give another output directory."
        ) from error
    return fd


def _claim(path: Path, request: Mapping[str, Any]) -> None:
    """Write job.json on first use; on every later one it must say the same."""
    job = path / JOB
    if job.exists():
        check_job(job.read_bytes(), request, where=str(path))
        return
    strangers = [entry.name for entry in path.iterdir() if entry.name not in {"parts", f".{JOB}.tmp"}]
    if strangers:
        raise SinkError(
            f"{path}: holds {', '.join(sorted(strangers)[:3])} but no {JOB}, so it is not a job's output. "
            f"Give an empty or new directory."
        )
    files.replace(job, job_bytes(request))


def _open_database(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path / "commits.sqlite", isolation_level=None, timeout=60.0)
    try:
        # EXTRA: the journal's removal, which is the commit, is synced with the directory.
        db.execute("PRAGMA synchronous = EXTRA")
        db.executescript(TABLES)
    except sqlite3.DatabaseError as failure:
        db.close()
        raise _explained(path, failure) from failure
    return db


def _explained(path: Path, failure: sqlite3.DatabaseError) -> SinkError | SpaceError:
    if failure.sqlite_errorcode != sqlite3.SQLITE_FULL:
        return SinkError(f"{path}/commits.sqlite: the commit database cannot be used ({failure}).")
    return SpaceError(
        f"{path}/commits.sqlite: no space left on the device. Every row stored so far is kept. "
        f"Free some room and run the same command again; it goes on where it stopped."
    )


def read_parts(path: Path, *, first_ids: bool = False) -> list[Part]:
    """Parts that are committed, one snapshot.

    Args:
        path: the job's directory.
        first_ids: find each part's smallest id, which reads every key.

    Raises:
        SinkError: not a job's output, or its database is damaged.
    """
    with closing(_open_for_reading(path)) as db:
        db.execute("BEGIN")
        replaced: dict[int, set[tuple[str, int]]] = {}
        for part, prompt_id, sample_index in db.execute(
            "SELECT part, prompt_id, sample_index FROM superseded"
        ):
            replaced.setdefault(part, set()).add((prompt_id, sample_index))
        firsts: dict[int, str] = {}
        if first_ids:
            firsts = dict(db.execute("SELECT part, min(prompt_id) FROM keys GROUP BY part"))
        return [
            Part(
                name=f"{path}/parts/{name}",
                rows=rows,
                nbytes=nbytes,
                crc32c=crc32c,
                first_id=firsts.get(part, ""),
                read=partial(_mapped, path / "parts" / name),
                superseded=frozenset(replaced.get(part, ())),
            )
            for part, name, rows, nbytes, crc32c in db.execute(
                "SELECT part, name, rows, nbytes, crc32c FROM parts ORDER BY part"
            )
        ]


def _mapped(path: Path) -> pa.Buffer:
    """A file's bytes; pages that nobody looks at any more are the kernel's to take back."""
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()


def read_counts(path: Path) -> tuple[int, int]:
    """Committed rows, and errors among them.

    Raises:
        SinkError: not a job's output, or its database is damaged.
    """
    with closing(_open_for_reading(path)) as db:
        rows, errors = db.execute("SELECT count(*), coalesce(sum(error), 0) FROM keys").fetchone()
    return int(rows), int(errors)


def _open_for_reading(path: Path) -> sqlite3.Connection:
    """Writable where that is allowed: the journal of a killed writer must be rolled back before reading."""
    try:
        parse_job((path / JOB).read_bytes(), where=str(path))
    except FileNotFoundError as error:
        raise SinkError(f"{path}: no {JOB}, so no predictions are stored there.") from error
    file = path / "commits.sqlite"
    try:
        if file.exists():
            mode = "rw" if os.access(file, os.W_OK) and os.access(path, os.W_OK) else "ro"
            uri = f"{file.absolute().as_uri()}?mode={mode}"
            db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60.0)
            if db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'superseded'").fetchone()[0]:
                return db
            db.close()
    except sqlite3.DatabaseError as error:
        raise _explained(path, error) from error
    # The job was only just begun: its tables are not there yet.
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(TABLES)
    return db
