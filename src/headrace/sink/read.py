"""A job's output directory -> its committed rows, as Arrow; rows that are not committed are not seen."""

from __future__ import annotations

import heapq
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import pyarrow as pa

from headrace.errors import ConfigError, SinkError
from headrace.sink.commit import SUFFIXES, read_job
from headrace.sink.schema import SCHEMA

KEY = ["prompt_id", "sample_index"]
MERGE_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One committed file."""

    path: Path
    rows: int
    nbytes: int
    crc32c: int
    superseded: frozenset[tuple[str, int]]
    """Keys of error rows in it that a later part replaces."""


def read_predictions(
    out: str | os.PathLike[str], *, columns: Sequence[str] | None = None, sort: bool = False
) -> pa.Table:
    """Everything committed so far, as one table; `scan_predictions` reads more than memory holds.

    Args:
        out: the job's output directory; it may still be written.
        columns: names out of `headrace.sink.SCHEMA`, default all.
        sort: by prompt id, then sample index; default in the order of the parts.

    Raises:
        SinkError: not an output directory, or a part is missing or damaged.
        ConfigError: no such column.
    """
    return scan_predictions(out, columns=columns, sort=sort).read_all()


def scan_predictions(
    out: str | os.PathLike[str], *, columns: Sequence[str] | None = None, sort: bool = False
) -> pa.RecordBatchReader:
    """Everything committed at the time of the call, in batches: one part in memory, sorted all of them."""
    path = Path(out)
    wanted = SCHEMA.names if columns is None else list(columns)
    for name in wanted:
        if name not in SCHEMA.names:
            raise ConfigError(f"predictions: no column named {name!r}; there are {', '.join(SCHEMA.names)}.")
    read_job(path)
    parts = _parts(path)
    schema = pa.schema([SCHEMA.field(name) for name in wanted], metadata=SCHEMA.metadata)
    needed = list(dict.fromkeys([*wanted, *KEY]))
    batches = (
        _merged(parts, needed) if sort else (batch for part in parts for batch in _batches(part, needed))
    )
    return pa.RecordBatchReader.from_batches(
        schema, (batch.select(wanted).replace_schema_metadata(schema.metadata) for batch in batches)
    )


def count_predictions(out: str | os.PathLike[str]) -> tuple[int, int]:
    """Committed rows, and errors among them."""
    path = Path(out)
    read_job(path)
    if not (path / "commits.sqlite").exists():
        return 0, 0
    with closing(_open_database(path)) as db:
        rows, errors = db.execute("SELECT count(*), coalesce(sum(error), 0) FROM keys").fetchone()
    return int(rows), int(errors)


def _parts(path: Path) -> list[Part]:
    if not (path / "commits.sqlite").exists():
        return []
    with closing(_open_database(path)) as db:
        db.execute("BEGIN")
        rows = db.execute("SELECT part, name, rows, nbytes, crc32c FROM parts ORDER BY part").fetchall()
        replaced: dict[int, set[tuple[str, int]]] = {}
        for part, prompt_id, sample_index in db.execute(
            "SELECT part, prompt_id, sample_index FROM superseded"
        ):
            replaced.setdefault(part, set()).add((prompt_id, sample_index))
        db.execute("COMMIT")
    return [
        Part(
            path=path / "parts" / name,
            rows=count,
            nbytes=nbytes,
            crc32c=crc,
            superseded=frozenset(replaced.get(part, ())),
        )
        for part, name, count, nbytes, crc in rows
    ]


def _open_database(path: Path) -> sqlite3.Connection:
    """Writable where that is allowed: the journal of a killed writer must be rolled back before reading."""
    file = path / "commits.sqlite"
    mode = "rw" if os.access(file, os.W_OK) and os.access(path, os.W_OK) else "ro"
    try:
        db = sqlite3.connect(
            f"{file.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=60.0
        )
        # A directory that was only just created has the file before the tables.
        if db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'superseded'").fetchone()[0] == 0:
            db.close()
            db = sqlite3.connect(":memory:", isolation_level=None)
            db.executescript(
                "CREATE TABLE parts (part, name, rows, nbytes, crc32c);"
                "CREATE TABLE superseded (part, prompt_id, sample_index); CREATE TABLE keys (error);"
            )
    except sqlite3.DatabaseError as error:
        raise SinkError(f"{file}: the commit database cannot be read ({error}).") from error
    return db


def _batches(part: Part, columns: list[str]) -> Iterator[pa.RecordBatch]:
    suffix = "".join(part.path.suffixes)
    for batch in SUFFIXES[suffix].decode(_verified(part), columns=columns):
        if not part.superseded:
            yield batch
            continue
        keys = zip(
            batch.column("prompt_id").to_pylist(), batch.column("sample_index").to_pylist(), strict=True
        )
        yield batch.filter(pa.array([key not in part.superseded for key in keys]))


def _verified(part: Part) -> bytes:
    """The part's bytes, checked against the commit."""
    try:
        data = part.path.read_bytes()
    except FileNotFoundError as error:
        raise SinkError(
            f"{part.path}: a committed part is missing; its {part.rows} rows are lost."
        ) from error
    got = google_crc32c.value(data)
    if len(data) != part.nbytes or got != part.crc32c:
        raise SinkError(
            f"{part.path}: {len(data)} bytes with crc32c 0x{got:08x}, "
            f"committed were {part.nbytes} bytes with 0x{part.crc32c:08x}. Restore the file from a copy."
        )
    return data


def _merged(parts: list[Part], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of all parts in the order of their keys; each part is sorted already."""

    def rows(part: Part) -> Iterator[tuple[str, int, pa.RecordBatch, int]]:
        for batch in _batches(part, columns):
            ids, samples = batch.column("prompt_id").to_pylist(), batch.column("sample_index").to_pylist()
            for i, key in enumerate(zip(ids, samples, strict=True)):
                yield *key, batch, i

    held: list[pa.RecordBatch] = []
    for _, _, batch, i in heapq.merge(*(rows(part) for part in parts), key=lambda row: row[:2]):
        held.append(batch.slice(i, 1))
        if len(held) == MERGE_ROWS:
            yield pa.concat_batches(held)
            held = []
    if held:
        yield pa.concat_batches(held)
