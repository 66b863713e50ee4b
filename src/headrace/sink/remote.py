"""Finished predictions -> committed parts on an object store; the commit is one object, created if absent.

    OUT/job.json                      the request
    OUT/parts/part-00000000-<writer>.parquet
    OUT/commits/00000000.json            the part's name, size and checksum, and the keys of its rows

Commit n can be created once, by a writer that knows all commits before it: of two writers that reach the same
number, the second is refused and has stored nothing. Readers list the commits only. There is no log: the rows of a part
that was not committed when its writer was killed are generated again.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import orjson

from headrace.errors import SinkError
from headrace.sink.part import FORMATS, Part, check_limits, encode_part
from headrace.sink.request import JOB, check_job, job_bytes, parse_job, run_id
from headrace.sink.schema import to_payload
from headrace.storage import Blob, open_blob
from headrace.types import Prediction

PART_ROWS = 4096
PART_BYTES = 16 << 20
PART = re.compile(r"parts/part-\d{8,}-[0-9a-f]+\.(?:parquet|jsonl\.zst)\Z")
PART_S = 60.0
"""A part is committed after this time: the most that a kill can cost."""


class RemoteSink:
    """A job's output under a URL; not safe to use from several threads at once.

    Args:
        out: s3://, gs://, az:// or memory:// URL, or an open blob.
        request: everything that determines the output, as JSON values; a place with another request is refused.
        format: "parquet" (zstd) or "jsonl" (JSON lines in zstd).
        part_rows: a part closes when it holds this many rows,
        part_bytes: or this many bytes,
        part_s: or its first row is this many seconds old.
        retry_errors: keys whose stored row is an error count as not done; a new row replaces it.
        clock: seconds.

    Raises:
        ResumeError: the place holds another request's output.
        SinkError: its commits cannot be read.
    """

    def __init__(
        self,
        out: str | Blob,
        *,
        request: Mapping[str, Any],
        format: Literal["parquet", "jsonl"] = "parquet",
        part_rows: int = PART_ROWS,
        part_bytes: int = PART_BYTES,
        part_s: float = PART_S,
        retry_errors: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_limits(format, part_rows=part_rows, part_bytes=part_bytes)
        self._blob = open_blob(out) if isinstance(out, str) else out
        self.run_id = run_id(request)
        self._format, self._part_rows, self._part_bytes, self._part_s = format, part_rows, part_bytes, part_s
        self._retry_errors, self._clock = retry_errors, clock
        self._writer = secrets.token_hex(8)
        self._pending: dict[tuple[str, int], tuple[bytes, bool]] = {}
        self._pending_bytes, self._pending_since = 0, 0.0
        if not self._blob.put_if_absent(JOB, job_bytes(request)):
            check_job(bytes(self._blob.get(JOB)), request, where=self._blob.url)
        # On disk, so that memory does not grow with the number of keys; gone with this process.
        self._keys = sqlite3.connect("", isolation_level=None)
        self._keys.execute(
            "CREATE TABLE keys (prompt_id TEXT, sample_index INTEGER, part INTEGER, error INTEGER,"
            " PRIMARY KEY (prompt_id, sample_index)) WITHOUT ROWID"
        )
        self._part = 0
        named = set()
        for commit in _commits(self._blob):
            self._remember(commit["keys"])
            self._part += 1
            named.add(commit["name"])
        for name in self._blob.list("parts/"):
            # A part of a number that is committed under another name can never be committed.
            if name not in named and int(name.split("-")[1]) < self._part:
                self._blob.delete(name)
        self._open = True

    def done(self, prompt_id: str, sample_index: int) -> bool:
        """Whether this key is stored: committed, or waiting for the commit."""
        key = (prompt_id, sample_index)
        if key in self._pending:
            return True
        stored = self._stored(key)
        return stored is not None and not (self._retry_errors and stored[1])

    def put(self, row: Prediction) -> bool:
        """Take a finished row; returns False and takes nothing when its key is stored already.

        Raises:
            SinkError: another process writes to the same place.
        """
        if not self._open:
            raise SinkError(f"{self._blob.url}: this sink is closed.")
        if self.done(row.prompt_id, row.sample_index):
            return False
        payload = to_payload(row)
        if not self._pending:
            self._pending_since = self._clock()
        self._pending[row.prompt_id, row.sample_index] = (payload, row.error is not None)
        self._pending_bytes += len(payload)
        if (
            len(self._pending) >= self._part_rows
            or self._pending_bytes >= self._part_bytes
            or self._clock() - self._pending_since >= self._part_s
        ):
            self.commit()
        return True

    def commit(self) -> None:
        """Commit the part that is being filled, so that readers see it; an empty part is not committed."""
        if not self._open or not self._pending:
            return
        part = encode_part([self._pending[key][0] for key in sorted(self._pending)], format=self._format)
        name = f"parts/part-{self._part:08d}-{self._writer}{FORMATS[self._format].SUFFIX}"
        self._blob.put(name, bytes(part.data))
        self._step("part written")
        keys = [[*key, self._part, error] for key, (_, error) in self._pending.items()]
        before = {key: stored for key in self._pending if (stored := self._stored(key)) is not None}
        content = {
            "name": name,
            "writer": self._writer,
            "rows": part.rows,
            "errors": part.errors,
            "tokens": part.tokens,
            "nbytes": len(part.data),
            "crc32c": part.crc32c,
            "keys": keys,
            "superseded": [[number, *key] for key, (number, _) in before.items()],
        }
        commit = f"commits/{self._part:08d}.json"
        # A retried request may find its own object there.
        if not self._blob.put_if_absent(commit, orjson.dumps(content)) and (
            orjson.loads(bytes(self._blob.get(commit)))["writer"] != self._writer
        ):
            self._blob.delete(name)
            self.abandon()
            raise SinkError(
                f"{self._blob.url}: another process is writing this job, its part {self._part} came first. "
                f"Wait for it, and run the same command again: it generates what is missing."
            )
        self._step("committed")
        self._remember(keys)
        self._pending.clear()
        self._pending_bytes = 0
        self._part += 1

    def close(self) -> None:
        """Commit the last part."""
        try:
            self.commit()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Stop without a commit: rows since the last commit are generated again."""
        if self._open:
            self._open = False
            self._keys.close()

    def counts(self) -> tuple[int, int]:
        """Rows stored and errors among them: committed, and waiting for the commit."""
        rows, errors = self._keys.execute("SELECT count(*), coalesce(sum(error), 0) FROM keys").fetchone()
        for key, (_, error) in self._pending.items():
            was = self._stored(key)
            rows += was is None
            errors += error - bool(was and was[1])
        return rows, errors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Finished rows are worth keeping whatever went wrong beside them.
        if kind is None or issubclass(kind, Exception):
            self.close()
        else:
            self.abandon()

    def _stored(self, key: tuple[str, int]) -> tuple[int, bool] | None:
        row = self._keys.execute(
            "SELECT part, error FROM keys WHERE prompt_id = ? AND sample_index = ?", key
        ).fetchone()
        return None if row is None else (row[0], bool(row[1]))

    def _remember(self, keys: list[list[Any]]) -> None:
        self._keys.execute("BEGIN")
        self._keys.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)", keys)
        self._keys.execute("COMMIT")

    def _step(self, name: str) -> None:
        """Called between two steps of a commit; tests stop here."""


def is_url(out: str | os.PathLike[str]) -> bool:
    """Whether an output is an object store's."""
    return "://" in os.fspath(out)


def read_parts(url: str) -> list[Part]:
    """Parts that are committed.

    Raises:
        SinkError: not a job's output, or a commit is damaged.
    """
    blob = _open_for_reading(url)
    commits = list(_commits(blob))
    replaced: dict[int, set[tuple[str, int]]] = {}
    for commit in commits:
        for number, prompt_id, sample_index in commit["superseded"]:
            replaced.setdefault(number, set()).add((prompt_id, sample_index))
    return [
        Part(
            name=f"{blob.url}/{commit['name']}",
            rows=commit["rows"],
            nbytes=commit["nbytes"],
            crc32c=commit["crc32c"],
            first_id=min((prompt_id for prompt_id, *_ in commit["keys"]), default=""),
            read=partial(_get, blob, commit["name"]),
            superseded=frozenset(replaced.get(number, ())),
        )
        for number, commit in enumerate(commits)
    ]


def read_counts(url: str) -> tuple[int, int]:
    """Committed rows, and errors among them.

    Raises:
        SinkError: not a job's output, or a commit is damaged.
    """
    rows = errors = 0
    with closing(sqlite3.connect("", isolation_level=None)) as keys:
        keys.execute(
            "CREATE TABLE keys (prompt_id, sample_index, error, PRIMARY KEY (prompt_id, sample_index))"
        )
        for commit in _commits(_open_for_reading(url)):
            found = [(prompt_id, sample, error) for prompt_id, sample, _, error in commit["keys"]]
            keys.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", found)
        rows, errors = keys.execute("SELECT count(*), coalesce(sum(error), 0) FROM keys").fetchone()
    return rows, errors


def _open_for_reading(url: str) -> Blob:
    blob = open_blob(url)
    try:
        parse_job(bytes(blob.get(JOB)), where=url)
    except FileNotFoundError as error:
        raise SinkError(f"{url}: no {JOB}, so no predictions are stored there.") from error
    return blob


def _get(blob: Blob, name: str) -> bytes:
    return bytes(blob.get(name))


def _commits(blob: Blob) -> Iterator[dict[str, Any]]:
    """Contents of the commits, in order and without a gap."""
    for number, name in enumerate(blob.list("commits/")):
        if name != f"commits/{number:08d}.json":
            raise SinkError(
                f"{blob.url}: commit {number} is missing, {name} is there. Restore it from a copy."
            )
        try:
            commit: Any = orjson.loads(bytes(blob.get(name)))
            _check_commit(commit)
        except (ValueError, TypeError, KeyError) as error:
            raise SinkError(f"{blob.url}/{name}: damaged ({error}). Restore it from a copy.") from error
        yield commit


def _check_commit(commit: Any) -> None:
    """Check the fields of a commit.

    Raises:
        ValueError, TypeError, KeyError: one is missing or of the wrong kind.
    """
    for name in ("rows", "errors", "tokens", "nbytes", "crc32c"):
        if not isinstance(commit[name], int) or commit[name] < 0:
            raise ValueError(f"{name} is {commit[name]!r}")
    if not isinstance(commit["writer"], str) or not PART.match(str(commit["name"])):
        raise ValueError(f"the part has the name {commit['name']!r}")
    for prompt_id, sample_index, part, error in commit["keys"]:
        if not isinstance(prompt_id, str) or not isinstance(sample_index, int):
            raise TypeError(f"a key is {[prompt_id, sample_index, part, error]!r}")
    for part, prompt_id, sample_index in commit["superseded"]:
        if not isinstance(part, int) or not isinstance(prompt_id, str):
            raise TypeError(f"a superseded key is {[part, prompt_id, sample_index]!r}")
