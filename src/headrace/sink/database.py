"""A job's directory -> the SQLite database of its commits, for its writer and for readers."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.errors import SinkError, SpaceError
from headrace.platform import lock_file, open_directory
from headrace.sink.lost import PART, Listing, check_not_lost
from headrace.sink.part import Part
from headrace.sink.request import JOB, parse_job
from headrace.storage import disk_errors

DATABASE = "commits.sqlite"
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


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Raise our error in place of SQLite's, and of values that a damaged database holds.

    Raises:
        SpaceError: the device is full.
        SinkError: anything else.
    """
    try:
        yield
    except sqlite3.Error as failure:
        raise _our_error(path, failure) from failure
    except (TypeError, ValueError, OverflowError, KeyError) as failure:
        raise SinkError(
            f"{path}/{DATABASE}: damaged: it holds a value of the wrong kind ({failure}). {CURE}"
        ) from failure


CURE = "Restore it from a copy, or rebuild it from the parts (--rebuild-commits)."


def _our_error(path: Path, failure: sqlite3.Error) -> SinkError | SpaceError:
    if getattr(failure, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
        return SinkError(f"{path}/{DATABASE}: the commit database cannot be used ({failure}). {CURE}")
    return SpaceError(
        f"{path}/{DATABASE}: no space left on the device. Every row stored so far is kept. "
        f"Free some space and run the same command again; it continues where it stopped."
    )


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database for the job's one writer.

    Raises:
        SinkError: it is damaged.
    """
    with database_errors(path):
        db = sqlite3.connect(path / DATABASE, isolation_level=None, timeout=60.0)
        try:
            # EXTRA: the journal's removal, which is the commit, is synced with the directory.
            db.execute("PRAGMA synchronous = EXTRA")
            db.executescript(TABLES)
            check = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if check != "ok":
                raise SinkError(f"{path}/{DATABASE}: damaged ({check}). {CURE}")  # noqa: TRY301
        except BaseException:
            db.close()
            raise
    return db


def lock_job(path: Path) -> int:
    """Lock a job's directory for one writer: a file descriptor that holds the lock, -1 where directories have none.

    The directory itself is locked: no file is left behind, and the lock ends with its process.

    Raises:
        SinkError: another process has it.
    """
    handle = open_directory(path)
    if handle is None:
        return -1
    if not lock_file(handle, wait=False):
        os.close(handle)
        raise SinkError(
            f"{path}: another process is writing this job. Wait for it, or give another output directory."
        )
    return handle


def read_parts(path: Path, *, first_ids: bool = False) -> list[Part]:
    """The committed parts, in one snapshot.

    Args:
        path: the job's directory.
        first_ids: find each part's smallest id, which reads every key.

    Raises:
        SinkError: not a job's output, or its database is damaged.
    """
    with _reading(path) as db:
        replaced: dict[int, set[tuple[str, int]]] = {}
        for part, prompt_id, sample_index in db.execute(
            "SELECT part, prompt_id, sample_index FROM superseded"
        ):
            replaced.setdefault(part, set()).add((prompt_id, sample_index))
        first: dict[int, str] = {}
        if first_ids:
            first = dict(db.execute("SELECT part, min(prompt_id) FROM keys GROUP BY part"))
        return [
            Part(
                name=f"{path}/parts/{name}",
                rows=rows,
                nbytes=nbytes,
                crc32c=crc32c,
                first_id=first.get(part, ""),
                read=partial(map_file, path / "parts" / name),
                superseded=frozenset(replaced.get(part, ())),
            )
            for part, name, rows, nbytes, crc32c in _checked_rows(db)
        ]


def _checked_rows(db: sqlite3.Connection) -> Iterator[tuple[int, str, int, int, int]]:
    """Rows of the table of parts; SQLite stores any type in any column, so that a damaged one can hold anything."""
    for row in db.execute("SELECT part, name, rows, nbytes, crc32c FROM parts ORDER BY part"):
        part, name, *numbers = row
        if not isinstance(name, str) or not PART.match(name):
            raise ValueError(f"part {part!r} has the name {name!r}")
        for number in (part, *numbers):
            if not isinstance(number, int) or number < 0:
                raise ValueError(f"part {name} has the number {number!r}")
        yield row


def map_file(path: Path) -> pa.Buffer:
    """A file's bytes, mapped: the kernel may take back the pages that are not in use."""
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()


def read_counts(path: Path) -> tuple[int, int]:
    """Committed rows, and errors among them.

    Raises:
        SinkError: not a job's output, or its database is damaged.
    """
    with _reading(path) as db:
        rows, errors = db.execute("SELECT count(*), coalesce(sum(error), 0) FROM keys").fetchone()
        return int(rows), int(errors)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A snapshot of the database, which is known to name the parts beside it."""
    try:
        with disk_errors(path, missing=True):
            parse_job((path / JOB).read_bytes(), where=str(path))
            listing = Listing.of(path)
    except FileNotFoundError as error:
        raise SinkError(f"{path}: no {JOB}, so no predictions are stored there.") from error
    with database_errors(path), closing(_connect(path)) as db:
        db.execute("BEGIN")
        committed: list[Any] = [name for (name,) in db.execute("SELECT name FROM parts")]
        if not committed:
            check_not_lost(path, listing, committed)
        yield db


def _connect(path: Path) -> sqlite3.Connection:
    """Writable where that is allowed: the journal of a killed writer must be rolled back before reading."""
    file = path / DATABASE
    if file.exists():
        mode = "rw" if os.access(file, os.W_OK) and os.access(path, os.W_OK) else "ro"
        uri = f"{file.absolute().as_uri()}?mode={mode}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60.0)
        try:
            if db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'superseded'").fetchone()[0]:
                return db
        except BaseException:
            db.close()
            raise
        db.close()
    # The job has only just begun: its tables are not there yet.
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(TABLES)
    return db
