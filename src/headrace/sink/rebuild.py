"""The parts of a job -> a new commit database that names them."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from headrace.errors import SinkError
from headrace.paths import local_path
from headrace.sink.database import DATABASE, TABLES, database_errors, lock_job, map_file
from headrace.sink.lost import Listing
from headrace.sink.part import Part, crc32c_of, decode_part
from headrace.sink.request import JOB, parse_job
from headrace.storage import disk_errors, fsync_directory

COLUMNS = ["prompt_id", "sample_index", "completion_tokens", "error"]


def rebuild_commits(out: str | os.PathLike[str]) -> int:
    """Write commits.sqlite anew from the parts of a job, which hold their rows' keys.

    A key that is in two parts is that of an error row which was generated again: the first row without an error counts,
    else the last one. An existing database is kept as commits.sqlite.old.

    Args:
        out: the job's directory; nobody may write to it.

    Returns:
        Rows in the parts.

    Raises:
        SinkError: not a job's output, another process writes to it, or a part cannot be read.
        StorageError: the disk.
    """
    path = local_path(out, name="rebuild: out")
    with disk_errors(path):
        if not (path / JOB).is_file():
            raise SinkError(f"{path}: no {JOB}, so no predictions are stored there.")
        parse_job((path / JOB).read_bytes(), where=str(path))
        handle = lock_job(path)
        try:
            return _rebuild(path)
        finally:
            if handle >= 0:
                os.close(handle)


def _rebuild(path: Path) -> int:
    new = path / f".{DATABASE}.tmp"
    new.unlink(missing_ok=True)
    num_rows = 0
    with database_errors(path), closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.executescript(TABLES)
        db.execute("BEGIN")
        for name, number in sorted(Listing.of(path).parts.items(), key=lambda item: item[1]):
            num_rows += _add_part(db, path / "parts" / name, number)
        db.execute("COMMIT")
    _fsync_file(new)
    old = path / DATABASE
    if old.exists():
        old.replace(path / f"{DATABASE}.old")
    with suppress(FileNotFoundError):  # it belongs to the database that is gone
        (path / f"{DATABASE}-journal").unlink()
    new.replace(old)
    fsync_directory(path)
    return num_rows


def _add_part(db: sqlite3.Connection, file: Path, number: int) -> int:
    data = map_file(file)
    crc = crc32c_of(memoryview(data))
    part = Part(name=str(file), rows=0, nbytes=len(data), crc32c=crc, read=partial(map_file, file))
    rows = errors = tokens = 0
    try:
        for batch in decode_part(part, columns=COLUMNS):
            for row in batch.to_pylist():
                _add_key(db, (row["prompt_id"], row["sample_index"]), number, error=row["error"] is not None)
                rows += 1
                errors += row["error"] is not None
                tokens += row["completion_tokens"]
    except SinkError as error:
        raise SinkError(
            f"{error} Or move the file to another directory: its predictions are then generated again."
        ) from error
    db.execute(
        "INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, ?)",
        (number, file.name, rows, errors, tokens, len(data), crc),
    )
    return rows


def _add_key(db: sqlite3.Connection, key: tuple[str, int], part: int, *, error: bool) -> None:
    before = db.execute(
        "SELECT part, error FROM keys WHERE prompt_id = ? AND sample_index = ?", key
    ).fetchone()
    if before is not None and not before[1]:
        db.execute("INSERT OR IGNORE INTO superseded VALUES (?, ?, ?)", (part, *key))
        return
    if before is not None:
        db.execute("INSERT OR IGNORE INTO superseded VALUES (?, ?, ?)", (before[0], *key))
    db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)", (*key, part, error))


def _fsync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
