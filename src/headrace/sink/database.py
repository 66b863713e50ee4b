"""A job's directory -> the database of its commits, for its writer and for readers, who follow nothing else."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pyarrow as pa

from headrace.errors import SinkError, SpaceError
from headrace.sink.part import Part
from headrace.sink.request import JOB, parse_job

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


def open_database(path: Path) -> sqlite3.Connection:
    """To write into, by the one coordinator of a job.

    Raises:
        SinkError: it is damaged.
    """
    db = sqlite3.connect(path / "commits.sqlite", isolation_level=None, timeout=60.0)
    try:
        # EXTRA: the journal's removal, which is the commit, is synced with the directory.
        db.execute("PRAGMA synchronous = EXTRA")
        db.executescript(TABLES)
    except sqlite3.DatabaseError as failure:
        db.close()
        raise explained(path, failure) from failure
    return db


def explained(path: Path, failure: sqlite3.DatabaseError) -> SinkError | SpaceError:
    """What SQLite says, as an error of ours."""
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
        raise explained(path, error) from error
    # The job was only just begun: its tables are not there yet.
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(TABLES)
    return db
